"""A disk that refuses: at every call site, once and for good; nothing acknowledged is lost, and no task ends."""

import os
from collections import Counter
from errno import EDQUOT, EIO, ENOSPC

import pytest
import trio

from loop_node.detector.outbox import DropReason, Limits, NewImage, OutboxMode, Queue
from loop_node.detector.outbox.disk import RealDisk
from loop_node.errors import LoopRefused, StorageFull, Unavailable

from .conftest import METADATA, OUTBOX, FailingDisk, Loop, MemoryDisk, balanced, open_running

OLD = "2026-11-23_02:34:25.998010"


class Course:
    """A day in the life of an outbox: what is left of older software, stores, offers, uploads, a refusal, a restart."""

    def __init__(self, fault):
        self.memory = MemoryDisk()
        self.memory.put(OUTBOX / OLD / "image.jpg", b"old")
        self.memory.put(OUTBOX / OLD / "image.json", b"{}")
        self.memory.put(OUTBOX / "normal" / OLD / "image.jpg", b"half")
        self.calls = Counter()
        self.fault = lambda name, path: None
        self.disk = FailingDisk(self.memory, self.check)
        self.fault = fault
        self.loop = Loop(self.answer)
        self.promised = {}

    def check(self, name, path):
        self.calls["all"] += 1
        return self.fault(name, path)

    def answer(self, images):
        if any(image.jpeg == b"bad" for image in images):
            raise LoopRefused(422, "no")

    async def store(self, outbox, *jpegs, priority=False):
        images = [NewImage(jpeg=jpeg, metadata=METADATA, priority=priority) for jpeg in jpegs]
        try:
            ids = await outbox.store_all(images)
        except Unavailable:
            return
        self.promised |= dict(zip(ids, jpegs, strict=True))

    async def run(self):
        limits = Limits(normal_images=5)
        async with open_running(self.disk, limits=limits) as outbox:
            await self.store(outbox, b"first")
            await self.store(outbox, b"second", b"bad", priority=True)
            assert outbox.offer(b"third", METADATA)
            await trio.sleep(100)
            assert balanced(outbox.stats())
        async with open_running(self.disk, self.loop, limits=limits) as outbox:
            await self.store(outbox, b"fourth")
            await trio.sleep(100)
            assert balanced(outbox.stats())
            self.fault = lambda name, path: None
            await self.store(outbox, b"last")
            await outbox.set_mode(OutboxMode.CONTINUOUS_UPLOAD)
            await trio.sleep(330)
            await outbox.wait_idle()
            assert balanced(outbox.stats())

    def check_outcome(self):
        """Everything arrived but the bad one, which is among the dead; nothing else is left."""
        at_loop = {image.jpeg for image in self.loop.has.values()}
        assert b"last" in self.promised.values()
        assert set(self.promised.values()) - {b"bad"} <= at_loop
        assert b"old" in at_loop
        names = self.memory.names()
        assert not [name for name in names if not name.startswith("dead/")]
        dead = {self.memory.read(OUTBOX / name)[:4] for name in names if name.endswith(".jpg")}
        assert b"half" in dead
        assert (b"bad{" in dead) is (b"bad" in self.promised.values())


async def count_calls():
    course = Course(lambda name, path: None)
    await course.run()
    course.check_outcome()
    assert len(course.loop.has) == 6
    return course.calls["all"]


@pytest.mark.parametrize("number", [ENOSPC, EIO], ids=["ENOSPC", "EIO"])
async def test_every_call_may_fail_once(autojump_clock, number):
    """Whichever single call is refused, all that was acknowledged arrives at the Learning Loop."""
    calls = await count_calls()
    assert calls > 150
    for failing in range(1, calls + 1):
        course = Course(lambda name, path: None)
        course.fault = lambda name, path, course=course, failing=failing: (
            OSError(number, os.strerror(number), str(path)) if course.calls["all"] == failing else None
        )
        await course.run()
        course.check_outcome()


@pytest.mark.parametrize(
    "call",
    [
        "create",
        "write",
        "sync",
        "rename",
        "unlink",
        "make_folder",
        "remove_folder",
        "sync_folder",
        "scan",
        "read",
        "free_bytes",
    ],
)
async def test_a_call_may_fail_until_somebody_repairs_the_disk(autojump_clock, call):
    """The node goes on meanwhile, and all that was acknowledged arrives afterwards."""
    for first in range(0, await count_calls(), 10):
        course = Course(lambda name, path: None)
        course.fault = lambda name, path, course=course, first=first: (
            OSError(ENOSPC, "No space left on device", str(path))
            if name == call and course.calls["all"] >= first
            else None
        )
        await course.run()
        course.check_outcome()


@pytest.mark.parametrize("number", [ENOSPC, EDQUOT], ids=["ENOSPC", "EDQUOT"])
async def test_a_full_disk_answers_507_and_keeps_what_was_there(disk, autojump_clock, number):
    """No space, or none for us, is `StorageFull` for who waits, a counted drop for who does not, and over when there is room again."""
    full = []
    failing = FailingDisk(
        disk, lambda name, path: OSError(number, "No space left") if full and name == "write" else None
    )
    async with open_running(failing) as outbox:
        await outbox.store(b"first", METADATA, priority=False)
        full.append(True)
        with pytest.raises(StorageFull, match="could not be written: No space left"):
            await outbox.store(b"second", METADATA, priority=False)
        assert outbox.offer(b"third", METADATA)
        await trio.sleep(1)
        stats = outbox.stats()
        assert (stats.stored, stats.refused, stats.dropped[DropReason.WRITE_FAILED]) == (2, 1, 1)
        assert balanced(stats)
        full.clear()
        await outbox.store(b"fourth", METADATA, priority=False)
        assert [name for name in disk.names() if name.startswith("incoming")] == []
        assert outbox.stats().images[Queue.NORMAL] == 2


async def test_a_failed_request_leaves_nothing_of_it(disk, autojump_clock):
    """Of three images of which the third cannot be written, none is kept; a request beside it is."""
    failing = FailingDisk(disk, lambda name, path: None)
    writes = []

    def fault(name, path):
        writes.append(path) if name == "create" else None
        return OSError(EIO, "Input/output error") if name == "sync" and len(writes) == 3 else None

    failing.fault = fault
    async with open_running(failing) as outbox, trio.open_nursery() as nursery:

        async def refused():
            with pytest.raises(Unavailable, match="Input/output error"):
                await outbox.store_all([NewImage(jpeg=b"%d" % n, metadata=METADATA) for n in range(3)])

        nursery.start_soon(refused)
        await trio.testing.wait_all_tasks_blocked()
        await outbox.store(b"other", METADATA, priority=True)
    assert [name.split("/")[0] for name in disk.names()] == ["priority"]


async def test_no_room_is_said_before_anything_is_written(disk, autojump_clock):
    """With priority images alone, the limits in bytes and of the disk answer 507 naming the setting."""
    async with open_running(disk, limits=Limits(total_bytes=700, free_bytes=1000)) as outbox:
        await outbox.store(bytes(100), METADATA, priority=True)
        with pytest.raises(StorageFull, match="MAX_OUTBOX_BYTES"):
            await outbox.store(bytes(100), METADATA, priority=True)
        disk.free = 1200
        with pytest.raises(StorageFull, match="MIN_FREE_DISK_BYTES"):
            await outbox.store(bytes(1), METADATA, priority=False)
        assert outbox.offer(bytes(1), METADATA)
        await trio.sleep(1)
        assert outbox.stats().dropped[DropReason.DISK] == 1
        assert balanced(outbox.stats())
    assert len(disk.names()) == 1


async def test_the_limits_hold_on_the_disk(disk, autojump_clock):
    """Whatever is stored, files never take more than the limit in bytes, and the oldest normal ones have gone."""
    sizes = []
    disk.on_change = lambda: sizes.append(
        sum(int(name.rsplit("-", 1)[1][:-4]) for name in disk.names() if name.endswith(".jpg"))
    )
    disk.make_folder(OUTBOX)
    async with open_running(disk, limits=Limits(total_bytes=5000, normal_images=100)) as outbox:
        kept = await outbox.store(bytes(500), METADATA, priority=True)
        ids = [await outbox.store(bytes(100 * (n % 7)), METADATA, priority=False) for n in range(30)]
        assert balanced(outbox.stats())
        left = sorted(name.split("/")[1].rsplit("-", 1)[0] for name in disk.names())
    assert kept in left
    assert sorted(set(left) - {kept}) == ids[-(len(left) - 1) :]
    assert max(sizes) <= 5000


async def test_a_real_disk_that_cannot_be_written(tmp_path):
    """A file where the outbox should be: the node starts, and uploads hear 503."""
    (tmp_path / "outbox").write_text("in the way")
    async with open_running(RealDisk(), folder=tmp_path / "outbox") as outbox:
        with pytest.raises(Unavailable):
            await outbox.store(b"x", METADATA, priority=True)
