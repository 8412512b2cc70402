"""The outbox as a whole, in memory and on Trio's mock clock: what is kept, sent, dropped, given up, and in which order."""

# pytest-trio takes its clock from an argument of the test, used or not

import json
import logging
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from loop_node.detector.outbox import DeadLimits, DropReason, Limits, NewImage, OutboxMode, Queue, open_outbox
from loop_node.detector.outbox.intake import Intake
from loop_node.errors import LoopRefused, LoopUnavailable, Unavailable
from loop_node.schemas.detections import ImageMetadata, Point, SegmentationDetection, Shape

from .conftest import METADATA, OUTBOX, Handle, Loop, balanced, open_running


def refusing(*bad, status=422):
    def answer(images):
        if any(image.jpeg in bad for image in images):
            raise LoopRefused(status, "no good")

    return answer


def raising(*errors):
    left = list(errors)

    def answer(images):
        if left:
            error = left.pop(0)
            if error:
                raise error

    return answer


async def store_many(outbox, count, *, priority=False, start=0):
    images = [NewImage(jpeg=b"%d" % n, metadata=METADATA, priority=priority) for n in range(start, start + count)]
    return await outbox.store_all(images)


async def test_an_image_arrives_as_it_was_handed_over(disk, autojump_clock):
    """JPEG byte for byte, metadata as the contract writes them, polygons flat, and a stem that is the id's."""
    loop = Loop()
    shape = Shape(points=[Point(x=1, y=2), Point(x=3, y=4)])
    found = SegmentationDetection(category_name="c", shape=shape, model_name="m", confidence=0.5)
    metadata = ImageMetadata(segmentation_detections=[found], tags=["t"], source="s", created="2026-01-01_00:00:00.000")
    async with open_running(disk, loop) as outbox:
        item = await outbox.store(b"\xff\xd8jpeg", metadata, priority=False)
        metadata.tags.append("added later")
        await outbox.wait_idle()
    (image,) = loop.has.values()
    assert (image.id, image.stem, image.jpeg) == (item, f"image_{item}", b"\xff\xd8jpeg")
    said = json.loads(image.metadata)
    assert said["segmentation_detections"][0]["shape"] == "1,2,3,4"
    assert (said["tags"], said["source"], said["created"]) == (["t"], "s", "2026-01-01_00:00:00.000")
    assert disk.names() == []


async def test_batches_follow_one_another_without_a_pause(disk, autojump_clock):
    """A hundred images go in five requests at once, and each request has as many stems as images."""
    loop = Loop()
    async with open_running(disk) as outbox:
        await store_many(outbox, 100)
    async with open_running(disk, loop) as outbox:
        await outbox.wait_idle()
        assert outbox.stats().uploaded == 100
    assert [len(set(request)) for request in loop.requests] == [20] * 5
    assert len(set(loop.times_s)) == 1


async def test_the_order_is_the_same_after_a_restart(disk, autojump_clock):
    """What goes first does not depend on whether the node was restarted, nor on its clock."""

    async def run(restart):
        memory, loop = type(disk)(), Loop()
        async with open_running(memory) as outbox:
            await store_many(outbox, 30)
            await store_many(outbox, 5, priority=True, start=30)
            if not restart:
                await outbox.set_mode(OutboxMode.STOPPED)
        async with open_running(memory, loop) as outbox:
            if restart:
                await store_many(outbox, 1, start=35)
            await outbox.wait_idle()
        return [[loop.has[item].jpeg for item in request] for request in loop.requests]

    first, *_ = await run(restart=False)
    assert first[:4] == [b"30", b"31", b"32", b"33"]
    assert first[4] == b"0"
    assert first[5:9] == [b"34", b"29", b"28", b"27"]
    assert (await run(restart=True))[0][:9] == first[:9]


async def test_ids_go_on_after_a_restart(disk, autojump_clock):
    """A later image has a higher id, also when only dead images are left."""
    async with open_running(disk, Loop(refusing(b"0"))) as outbox:
        await store_many(outbox, 1)
        while not outbox.stats().dead:
            await trio.sleep(1)
    dead = next(name for name in disk.names() if name.endswith(".jpg"))
    async with open_running(disk) as outbox:
        (later,) = await store_many(outbox, 1)
    assert later > dead.removeprefix("dead/")


async def test_the_oldest_normal_images_make_room(disk, autojump_clock):
    """Above the allowed number the oldest go, file and all; priority images stay whatever their number."""
    async with open_running(disk, limits=Limits(normal_images=3)) as outbox:
        ids = await store_many(outbox, 3)
        await store_many(outbox, 10, priority=True, start=10)
        ids += await store_many(outbox, 2, start=20)
        stats = outbox.stats()
        assert stats.images == {Queue.NORMAL: 3, Queue.PRIORITY: 10}
        assert stats.dropped[DropReason.COUNT] == 2
        assert balanced(stats)
    left = [name.removeprefix("normal/")[:33] for name in disk.names() if name.startswith("normal/")]
    assert left == ids[2:]


async def test_an_offer_never_waits(disk, autojump_clock):
    """While the disk hangs, offers fill the line and are then dropped, counted; uploads wait; nothing is lost after."""
    stalled = trio.Event()

    def hanging():
        async def run(work):
            await stalled.wait()
            return work()

        return run

    stalled.set()
    async with open_running(disk, run_blocking=hanging, intake=Intake(max_images=3)) as outbox:
        await store_many(outbox, 1)
        stalled.__init__()
        assert outbox.offer(b"in the writer's hands", METADATA)
        await wait_all_tasks_blocked()
        assert [outbox.offer(b"x", METADATA) for _ in range(5)] == [True, True, True, False, False]
        assert balanced(outbox.stats())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(outbox.store, b"upload", METADATA, priority=True))
            await wait_all_tasks_blocked()
            stalled.set()
        stats = outbox.stats()
        assert stats.dropped[DropReason.WRITER_FULL] == 2
        assert stats.images == {Queue.NORMAL: 5, Queue.PRIORITY: 1}
        assert balanced(stats)


async def test_the_line_is_bounded_in_bytes(disk, autojump_clock):
    """Two large offers do not fit at once; one that is larger than the line passes when it is empty."""
    async with open_running(disk, intake=Intake(max_bytes=1000)) as outbox:
        assert outbox.offer(bytes(5000), METADATA)
        assert not outbox.offer(bytes(10), METADATA)


async def test_what_was_handed_over_is_written_when_the_node_stops(disk, autojump_clock):
    """An offer just before the end is on the disk afterwards."""
    async with open_running(disk) as outbox:
        await store_many(outbox, 1)
        assert outbox.offer(b"last", METADATA)
    assert len(disk.names()) == 2


async def test_an_upload_that_is_cut_off_by_the_end_hears_so(disk, autojump_clock):
    """A writer that is cancelled while the disk hangs leaves nobody waiting for ever."""
    hangs = []

    def hanging():
        async def run(work):
            if hangs:
                await trio.sleep_forever()
            return work()

        return run

    async def upload(outbox, text):
        with pytest.raises(Unavailable, match=text):
            await outbox.store(b"x", METADATA, priority=True)

    writer = trio.CancelScope()

    async def write(outbox):
        with writer:
            await outbox.run_writer(Handle())

    async with (
        open_outbox(OUTBOX, Limits(), disk=disk, run_blocking=hanging) as outbox,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(write, outbox)
        await store_many(outbox, 1)
        hangs.append(True)
        for text in ("interrupted", "is stopping"):  # one in the writer's hands, one in the line
            nursery.start_soon(upload, outbox, text)
            await wait_all_tasks_blocked()
        writer.cancel()
        await trio.sleep(3)
        await upload(outbox, "is stopping")


async def test_a_refused_image_is_given_up_with_its_reason(disk, autojump_clock):
    """After three refusals it lies in `dead`, the reason beside it, and the others are at the Loop."""
    loop = Loop(refusing(b"7"))
    async with open_running(disk, loop) as outbox:
        ids = await store_many(outbox, 20)
        await outbox.wait_idle()
        stats = outbox.stats()
        assert (stats.uploaded, stats.dead) == (19, 1)
        assert balanced(stats)
    image, reason = disk.names()
    assert image.startswith(f"dead/{ids[7]}-")
    assert reason == f"dead/{ids[7]}.reason.json"
    assert json.loads(disk.read(OUTBOX / reason)) == {
        "reason": "the Learning Loop answered 422: no good",
        "queue": "normal",
    }


async def test_the_dead_are_bounded(disk, autojump_clock):
    """In number and in bytes; the oldest go, and their reasons with them."""
    bad = [b"%d" % n for n in range(8)]
    async with open_running(disk, Loop(refusing(*bad)), dead_limits=DeadLimits(images=3)) as outbox:
        ids = await store_many(outbox, 8)
        await outbox.wait_idle()
        assert outbox.stats().dead == 8
    left = {name[5:38] for name in disk.names()}
    assert len(disk.names()) == 6
    assert left == set(ids[-3:])
    async with open_running(disk, Loop(refusing(b"x")), dead_limits=DeadLimits(total_bytes=1)) as outbox:
        await outbox.store(b"x", METADATA, priority=True)
        await outbox.wait_idle()
    assert disk.names() == []


async def test_stopped_takes_effect_after_the_request_in_flight(disk, autojump_clock):
    """The answer comes when the request is over, or says after a while that it is not."""
    loop, answer = Loop(), trio.Event()

    async def slow(images):
        await answer.wait()
        await loop(images)

    async with open_running(disk, slow) as outbox:
        await store_many(outbox, 30)
        await wait_all_tasks_blocked()
        began_s = trio.current_time()
        assert not await outbox.set_mode(OutboxMode.STOPPED)
        assert trio.current_time() - began_s == pytest.approx(30)
        assert outbox.mode is OutboxMode.STOPPED
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(outbox.set_mode, OutboxMode.STOPPED))
            answer.set()
        assert await outbox.set_mode(OutboxMode.STOPPED)
        await store_many(outbox, 5, start=30)
        await outbox.wait_idle()
        assert len(loop.requests) == 1
        assert await outbox.set_mode(OutboxMode.CONTINUOUS_UPLOAD)
        await outbox.wait_idle()
        assert outbox.stats().uploaded == 35


async def test_a_change_of_mode_cuts_the_backoff_short(disk, autojump_clock):
    """An operator who switches off and on is not kept waiting for minutes."""
    loop = Loop(raising(*[LoopUnavailable("away")] * 8))
    async with open_running(disk, loop) as outbox:
        await store_many(outbox, 1)
        await trio.sleep(130)  # the next try is due at 255 s
        assert len(loop.requests) == 8
        await outbox.set_mode(OutboxMode.STOPPED)
        await outbox.set_mode(OutboxMode.CONTINUOUS_UPLOAD)
        await outbox.wait_idle()
        assert outbox.stats().uploaded == 1


async def test_the_loss_of_the_loop_is_logged_once_and_so_is_its_return(disk, autojump_clock, caplog):
    """However often it is tried meanwhile; the supervisor hears why it waits."""
    caplog.set_level(logging.INFO)
    handle = Handle()
    loop = Loop(raising(*[LoopUnavailable("no route to the Loop")] * 5))
    async with open_running(disk, loop, handle=handle) as outbox:
        await store_many(outbox, 1)
        await outbox.wait_idle()
    assert [record.message for record in caplog.records] == [
        "images cannot be sent: no route to the Loop",
        "images are sent again",
    ]
    assert set(handle.reasons) == {"no route to the Loop"}


async def test_a_request_that_fails_is_repeated_under_the_same_ids(disk, autojump_clock):
    """A Loop that took the images and then cut the connection gets the same stems again."""
    loop = Loop(raising(LoopUnavailable("cut", kind="unreachable")))
    async with open_running(disk, loop) as outbox:
        await store_many(outbox, 5)
        await outbox.wait_idle()
    assert loop.requests[0] == loop.requests[1]


async def test_files_that_an_operator_deletes_are_simply_gone(disk, autojump_clock, caplog):
    """Counted as deleted: at once when they are due, within a minute otherwise; nothing is logged as an error."""
    caplog.set_level(logging.WARNING)
    loop = Loop()
    async with open_running(disk, loop) as outbox:
        await outbox.set_mode(OutboxMode.STOPPED)
        await store_many(outbox, 6)
        for name in disk.names()[:2]:
            disk.unlink(OUTBOX / name)
        await trio.sleep(61)
        assert outbox.stats().dropped[DropReason.DELETED] == 2
        assert balanced(outbox.stats())
        for name in disk.names()[:2]:
            disk.unlink(OUTBOX / name)
        await outbox.set_mode(OutboxMode.CONTINUOUS_UPLOAD)
        await outbox.wait_idle()
        stats = outbox.stats()
        assert (stats.uploaded, stats.dropped[DropReason.DELETED]) == (2, 4)
        assert balanced(stats)
    assert caplog.records == []


async def test_an_outbox_that_is_deleted_as_a_whole_is_made_again(disk, autojump_clock):
    """The next image is kept as if nothing had been."""
    async with open_running(disk) as outbox:
        await store_many(outbox, 3)
        for name in disk.names():
            disk.unlink(OUTBOX / name)
        for folder in ("normal", "priority", "incoming"):
            disk.remove_folder(OUTBOX / folder)
        disk.remove_folder(OUTBOX)
        await store_many(outbox, 1)
        assert len(disk.names()) == 1


async def test_what_is_put_back_is_found(disk, autojump_clock):
    """A file that appears in a queue is sent within a minute, and counts as stored."""
    loop = Loop()
    async with open_running(disk) as outbox:
        (item,) = await store_many(outbox, 1)
    (name,) = disk.names()
    data = disk.read(OUTBOX / name)
    disk.unlink(OUTBOX / name)
    async with open_running(disk, loop) as outbox:
        await store_many(outbox, 1)
        disk.put(OUTBOX / name, data)
        await trio.sleep(61)
        await outbox.wait_idle()
        assert outbox.stats().uploaded == 2
        assert item in loop.has


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:-1], "was cut"),
        (lambda data: data[:10], "only 10 bytes"),
        (lambda data: b"X" + data[1:], "checksum"),
        (lambda data: data[1:], "bytes, not the"),
        (lambda data: b"", "only 0 bytes"),
    ],
)
async def test_a_broken_file_is_set_aside(disk, autojump_clock, damage, said):
    """Cut, changed or emptied by whatever: it holds up nobody, and its reason says what is wrong."""
    loop = Loop()
    async with open_running(disk) as outbox:
        ids = await store_many(outbox, 3)
    name = disk.names()[1]
    disk.put(OUTBOX / name, damage(disk.read(OUTBOX / name)))
    async with open_running(disk, loop) as outbox:
        await outbox.wait_idle()
        stats = outbox.stats()
        assert (stats.uploaded, stats.dead) == (2, 1)
        assert balanced(stats)
    assert set(loop.has) == {ids[0], ids[2]}
    assert said in json.loads(disk.read(OUTBOX / "dead" / f"{ids[1]}.reason.json"))["reason"]


async def test_foreign_files_are_left_alone(disk, autojump_clock):
    """Notes, folders and names that are nearly ours: neither sent nor removed nor in the way."""
    foreign = ["normal/notes.txt", "normal/0001-x.jpg", "priority/folder/image.jpg", "README", "dead/thing", "lost/x"]
    for name in foreign:
        disk.put(OUTBOX / name, b"foreign")
    loop = Loop()
    async with open_running(disk, loop) as outbox:
        await store_many(outbox, 2)
        await trio.sleep(100)
        assert outbox.stats().uploaded == 2
    assert disk.names() == sorted(foreign)


async def test_an_image_that_is_dropped_while_it_is_sent_stays_a_dropped_one(disk, autojump_clock):
    """The accounts never count it twice."""
    going, answer = trio.Event(), trio.Event()

    async def slow(images):
        going.set()
        await answer.wait()

    async with open_running(disk, slow, limits=Limits(normal_images=2)) as outbox:
        await store_many(outbox, 2)
        await going.wait()
        await store_many(outbox, 3, start=2)
        answer.set()
        await outbox.wait_idle()
        stats = outbox.stats()
        assert balanced(stats)
        assert stats.uploaded + stats.dropped[DropReason.COUNT] == 5


async def test_nothing_to_store_is_nothing(disk, autojump_clock):
    """No images, no ids."""
    async with open_running(disk) as outbox:
        assert await outbox.store_all([]) == []
