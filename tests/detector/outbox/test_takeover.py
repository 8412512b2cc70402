"""What older software left behind is taken over, in all its layouts."""

# pytest-trio takes its clock from an argument of the test, used or not

import json

import pytest
import trio

from loop_node.detector.outbox import DropReason, Limits, Queue
from loop_node.detector.outbox.folder import Folder

from .conftest import METADATA, OUTBOX, FailingDisk, Loop, balanced, open_running

STAMPS = [f"2026-11-23_02:34:{n:02d}.998010" for n in range(60)]


def first_layout(disk, stamp, jpeg, metadata=b"{}"):
    disk.put(OUTBOX / stamp / "image.jpg", jpeg)
    disk.put(OUTBOX / stamp / "image.json", metadata)


def second_layout(disk, stamp, jpeg, metadata=b"{}"):
    disk.put(OUTBOX / stamp / f"image_{stamp}.jpg", jpeg)
    disk.put(OUTBOX / stamp / f"image_{stamp}.json", metadata)


def third_layout(disk, stamp, jpeg, metadata=b"{}", queue="normal"):
    disk.put(OUTBOX / queue / stamp / f"image_{stamp}.jpg", jpeg)
    disk.put(OUTBOX / queue / stamp / f"image_{stamp}.json", metadata)


def waiting(disk):
    folder = Folder(OUTBOX, disk)
    return [(image.queue, folder.read(image).jpeg) for image in folder.survey()]


async def test_all_three_layouts_keep_their_order(disk, autojump_clock):
    """Mixed in one folder, beside images of our own: the old ones come first, each in its queue, metadata untouched."""
    async with open_running(disk) as outbox:
        await outbox.store(b"ours", METADATA, priority=False)
    third_layout(disk, STAMPS[2], b"2")
    first_layout(disk, STAMPS[0], b"0", b'{"tags": ["x"], "unknown": 1}')
    second_layout(disk, STAMPS[1], b"1")
    third_layout(disk, STAMPS[3], b"3", queue="priority")
    async with open_running(disk) as outbox:
        await trio.sleep(1)
        await outbox.store(b"new", METADATA, priority=False)
        stats = outbox.stats()
        assert stats.images == {Queue.NORMAL: 5, Queue.PRIORITY: 1}
        assert balanced(stats)
    assert [jpeg for _, jpeg in waiting(disk)] == [b"0", b"1", b"2", b"3", b"ours", b"new"]
    assert [queue for queue, _ in waiting(disk)].index(Queue.PRIORITY) == 3
    assert all(name.endswith(".jpg") for name in disk.names())
    folder = Folder(OUTBOX, disk)
    assert folder.read(folder.survey()[0]).metadata == b'{"tags": ["x"], "unknown": 1}'
    assert [entry.name for entry in disk.scan(OUTBOX / "normal") if entry.is_folder] == []


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"image.jpg": b"x"}, "its JSON is missing or empty"),
        ({"image.json": b"{}"}, "its JPEG is missing or empty"),
        ({"image.jpg": b"", "image.json": b"{}"}, "its JPEG is missing or empty"),
        ({"image.jpg": b"x", "image.json": b""}, "its JSON is missing or empty"),
        ({"image.jpg": b"x", "image.json": b'{"tags": ['}, "its JSON cannot be read"),
        ({"image.jpg": b"x", "image.json": b"\x00\xff"}, "its JSON cannot be read"),
        ({"image.jpg": b"x", "image.json": b"[1]"}, "its JSON cannot be read"),
        ({"image.jpg": b"x", "image.json": b"[" * 100_000}, "its JSON cannot be read"),
    ],
)
async def test_a_half_one_is_set_aside_and_blocks_nothing(disk, autojump_clock, files, said):
    """What there is of it is kept among the dead, with the reason; its neighbours arrive."""
    for name, data in files.items():
        disk.put(OUTBOX / STAMPS[1] / name, data)
    third_layout(disk, STAMPS[0], b"before")
    third_layout(disk, STAMPS[2], b"after")
    loop = Loop()
    async with open_running(disk, loop) as outbox:
        await trio.sleep(1)
        await outbox.wait_idle()
        stats = outbox.stats()
        assert (stats.uploaded, stats.dead) == (2, 1)
        assert balanced(stats)
    (reason,) = [name for name in disk.names() if name.endswith(".json")]
    assert json.loads(disk.read(OUTBOX / reason))["reason"] == f"{STAMPS[1]}: {said}"
    assert {image.jpeg for image in loop.has.values()} == {b"before", b"after"}
    assert not [name for name in disk.names() if STAMPS[1] in name]


async def test_an_empty_old_folder_is_removed(disk, autojump_clock):
    """And nothing is counted for it."""
    third_layout(disk, STAMPS[0], b"x")
    disk.make_folder(OUTBOX / "normal" / STAMPS[1])
    async with open_running(disk) as outbox:
        await trio.sleep(1)
        assert outbox.stats().stored == 1
    assert [entry.name for entry in disk.scan(OUTBOX / "normal") if entry.is_folder] == []


async def test_folders_that_only_look_similar_are_left_alone(disk, autojump_clock):
    """A name that is no time, or a folder without an image, is not ours to touch."""
    disk.put(OUTBOX / "normal" / "2026-backup" / "image.jpg", b"x")
    disk.put(OUTBOX / STAMPS[0] / "notes.txt", b"x")
    before = disk.names()
    async with open_running(disk) as outbox:
        await trio.sleep(100)
        assert outbox.stats().stored == 0
    assert disk.names() == before


async def test_the_limit_holds_for_old_images_too(disk, autojump_clock):
    """Of more than are allowed the oldest are dropped, counted."""
    for number in range(30):
        third_layout(disk, STAMPS[number], b"%d" % number)
    async with open_running(disk, limits=Limits(normal_images=10)) as outbox:
        await trio.sleep(1)
        stats = outbox.stats()
        assert (stats.stored, stats.dropped[DropReason.COUNT]) == (30, 20)
        assert balanced(stats)
    assert [jpeg for _, jpeg in waiting(disk)] == [b"%d" % n for n in range(20, 30)]


async def test_an_old_image_waits_where_it_is_while_the_disk_is_full(disk, autojump_clock):
    """Nothing is dropped for want of disk; it is taken over when there is room again."""
    third_layout(disk, STAMPS[0], b"x", queue="priority")
    third_layout(disk, STAMPS[1], b"y")
    disk.free = 10
    async with open_running(disk) as outbox:
        await trio.sleep(100)
        assert outbox.stats().stored == 0
        disk.free = 10**12
        await trio.sleep(100)
        assert outbox.stats().stored == 2
    assert len(waiting(disk)) == 2


async def test_images_come_in_while_old_ones_are_taken_over(disk, autojump_clock):
    """A store waits for one old image at most, not for all."""
    for number in range(60):
        third_layout(disk, STAMPS[number], b"%d" % number)
    failing = FailingDisk(disk, lambda name, path: None)
    async with open_running(failing) as outbox:
        while outbox.stats().stored < 3:
            await trio.lowlevel.checkpoint()
        await outbox.store(b"ours", METADATA, priority=True)
        assert outbox.stats().stored < 10
