"""The outbox on a real disk with real threads, and Trio's real clock."""

import os
import shutil
from functools import partial
from pathlib import Path

import pytest
import trio

from loop_node.detector.outbox import DropReason, Limits, NewImage, OutboxMode, Queue
from loop_node.detector.outbox.disk import RealDisk
from loop_node.detector.outbox.store import in_one_thread

from .conftest import METADATA, Loop, balanced, open_running

ROOMY = Limits(free_bytes=0)


@pytest.fixture
def open_here(tmp_path):
    """Opens an outbox in a folder that is not there yet, two levels deep."""
    return partial(
        open_running, RealDisk(), folder=tmp_path / "data" / "outbox", run_blocking=in_one_thread, limits=ROOMY
    )


def open_files():
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_many_at_once(open_here, tmp_path):
    """A hundred uploads beside one another, each on disk when it is acknowledged; all arrive after a restart."""
    acknowledged = {}
    async with open_here() as outbox, trio.open_nursery() as nursery:

        async def upload(number):
            item = await outbox.store(b"%d" % number, METADATA, priority=number % 2 == 0)
            assert list(tmp_path.glob(f"data/outbox/*/{item}-*.jpg"))
            acknowledged[item] = b"%d" % number

        for number in range(100):
            nursery.start_soon(upload, number)
    loop = Loop()
    async with open_here(loop) as outbox:
        await outbox.wait_idle()
        assert outbox.stats().uploaded == 100
    assert {item: image.jpeg for item, image in loop.has.items()} == acknowledged
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


async def test_an_operator_deletes_under_a_busy_node(open_here, tmp_path):
    """Images vanish while others are stored and sent: the accounts balance, and no task minds."""
    loop = Loop()
    async with open_here(loop) as outbox:
        for round_ in range(10):
            await outbox.store_all([NewImage(jpeg=b"%d" % n, metadata=METADATA) for n in range(30)])
            for path in sorted(tmp_path.glob("data/outbox/normal/*.jpg"))[::2]:
                path.unlink(missing_ok=True)
            assert outbox.offer(b"%d" % round_, METADATA)
        await outbox.wait_idle()
        stats = outbox.stats()
        assert balanced(stats)
        assert stats.stored == 310
        assert stats.uploaded + stats.dropped[DropReason.DELETED] == 310
        assert len(loop.has) == stats.uploaded


async def test_the_folder_may_be_deleted_as_a_whole(open_here, tmp_path):
    """The next upload makes it again."""
    async with open_here() as outbox:
        await outbox.store(b"x", METADATA, priority=False)
        shutil.rmtree(tmp_path / "data")
        item = await outbox.store(b"y", METADATA, priority=False)
    assert [path.name[:33] for path in tmp_path.rglob("*.jpg")] == [item]


async def test_open_files_do_not_grow_with_the_backlog(open_here):
    """A hundred waiting images hold no file open."""
    async with open_here() as outbox:
        await outbox.set_mode(OutboxMode.STOPPED)
        await outbox.store(b"x", METADATA, priority=True)
        before = open_files()
        await outbox.store_all([NewImage(jpeg=b"%d" % n, metadata=METADATA, priority=True) for n in range(100)])
        assert open_files() == before
        assert outbox.stats().images[Queue.PRIORITY] == 101


async def test_the_reserve_of_the_disk_is_kept(open_here):
    """With more to be left free than there is, an offer is dropped for the disk's sake."""
    async with open_here(limits=Limits(free_bytes=2**60)) as outbox:
        assert outbox.offer(b"x", METADATA)
        while not outbox.stats().dropped[DropReason.DISK]:
            await trio.lowlevel.checkpoint()
        assert balanced(outbox.stats())


async def test_the_oldest_is_known_by_its_age(open_here, tmp_path):
    """From when its file was written, also after a restart."""
    async with open_here() as outbox:
        await outbox.store(b"x", METADATA, priority=True)
    (path,) = tmp_path.rglob("*.jpg")
    os.utime(path, (path.stat().st_mtime - 3600,) * 2)
    async with open_here() as outbox:
        await outbox.store(b"y", METADATA, priority=True)
        assert 3600 <= outbox.stats().oldest_s < 3700
