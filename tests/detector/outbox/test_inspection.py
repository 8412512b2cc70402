"""What an operator sees of an outbox and does to it, with a node at work or without."""

import json

import pytest
import trio

from loop_node.detector.outbox import Limits, NewImage, OutboxMode
from loop_node.detector.outbox.disk import RealDisk
from loop_node.detector.outbox.inspection import (
    Outcome,
    Place,
    drop_images,
    export_images,
    folder_stats,
    list_images,
    pick,
    retry_images,
)
from loop_node.errors import LoopRefused, NotFound

from .conftest import METADATA, OUTBOX, Loop, MemoryDisk, open_running


@pytest.fixture
async def filled(tmp_path):
    """A folder with three normal images and two priority ones, in this order."""
    folder = tmp_path / "outbox"
    async with open_running(RealDisk(), folder=folder, limits=Limits(free_bytes=0)) as outbox:
        for number in range(5):
            await outbox.store(b"\xff\xd8%d" % number, METADATA, priority=number >= 3)
    return folder


async def test_images_are_listed_in_the_order_they_go(filled):
    """Priority first in, first out, then normal, newest first; with size and age."""
    images = list_images(filled)
    assert [image.place for image in images] == [Place.PRIORITY] * 2 + [Place.NORMAL] * 3
    assert [image.id[:16] for image in images] == [f"{10**12 + n:016d}" for n in (3, 4, 2, 1, 0)]
    assert all(0 <= image.age_s < 60 and image.size_bytes > 100 for image in images)


async def test_the_folder_shows_the_pictures(filled):
    """Every waiting file begins as the JPEG that was handed over, so that any viewer opens it."""
    assert [path.read_bytes()[:3] for path in sorted(filled.glob("*/*.jpg"))] == [b"\xff\xd8%d" % n for n in range(5)]


async def test_stats_by_place(filled):
    """Images and bytes of each place, zero where nothing lies."""
    stats = folder_stats(list_images(filled))
    assert [stats[place].images for place in Place] == [2, 3, 0]
    assert stats[Place.NORMAL].size_bytes == sum(path.stat().st_size for path in (filled / "normal").iterdir())
    assert stats[Place.DEAD].oldest_s == 0


async def test_export_writes_pairs(filled, tmp_path):
    """A JPEG and a JSON of each, under the name the Loop gets; the outbox stays as it was."""
    images = list_images(filled)
    assert export_images(filled, images, tmp_path / "out" / "deep") == [Outcome(image.id) for image in images]
    for image in images:
        assert (tmp_path / "out" / "deep" / f"image_{image.id}.jpg").read_bytes().startswith(b"\xff\xd8")
        assert json.loads((tmp_path / "out" / "deep" / f"image_{image.id}.json").read_text())["tags"] == ["a"]
    assert list_images(filled) != []


async def test_drop_deletes(filled):
    """Those that were picked, and no others."""
    images = list_images(filled)
    assert drop_images(filled, pick(images, [images[1].id])) == [Outcome(images[1].id)]
    assert [image.id for image in list_images(filled)] == [image.id for image in images if image is not images[1]]


async def test_images_that_leave_meanwhile_are_said_to_be_gone(filled, tmp_path):
    """A node may send them under the operator's hands."""
    images = list_images(filled)
    for path in filled.glob("*/*.jpg"):
        path.unlink()
    gone = [Outcome(image.id, "is gone") for image in images]
    assert export_images(filled, images, tmp_path / "out") == gone
    assert drop_images(filled, images) == gone


async def test_a_broken_image_is_named(filled, tmp_path):
    """Export goes on with the others and says what is wrong."""
    images = list_images(filled)
    path = next((filled / "normal").iterdir())
    path.write_bytes(b"cut")
    problems = [outcome for outcome in export_images(filled, images, tmp_path) if outcome.problem]
    assert [(outcome.id, "is broken" in outcome.problem) for outcome in problems] == [(path.name[:33], True)]


def test_no_outbox_and_no_such_image_are_said(tmp_path):
    """With what was looked for."""
    with pytest.raises(NotFound, match=r"no outbox in .*nothing"):
        list_images(tmp_path / "nothing")
    with pytest.raises(NotFound, match="called abc"):
        pick([], ["abc"])
    (tmp_path / "outbox").mkdir()
    assert list_images(tmp_path / "outbox") == []


@pytest.mark.parametrize("priority", [False, True])
async def test_the_dead_can_be_tried_again_while_a_node_runs(autojump_clock, priority):
    """Back into their queue, found within a minute, sent under the same id; their reason is gone."""
    disk, good = MemoryDisk(), []

    def answer(images):
        if not good:
            raise LoopRefused(422, "not yet")

    loop = Loop(answer)
    async with open_running(disk, loop) as outbox:
        item = await outbox.store(b"x", METADATA, priority=priority)
        await outbox.wait_idle()
        assert outbox.stats().dead == 1
        (dead,) = dead_images(disk)
        assert (dead.id, dead.reason) == (item, "the Learning Loop answered 422: not yet")
        good.append(True)
        assert retry_images(OUTBOX, [dead], disk=disk) == [Outcome(item)]
        await trio.sleep(61)
        await outbox.wait_idle()
        assert outbox.stats().uploaded == 1
    assert list(loop.has) == [item]
    assert disk.names() == []
    assert retry_images(OUTBOX, [dead], disk=disk) == [Outcome(item, "is gone")]


def dead_images(disk):
    return [image for image in list_images(OUTBOX, disk=disk) if image.place is Place.DEAD]


async def test_the_dead_without_a_reason_go_back_to_normal(autojump_clock):
    """An operator may have deleted the note; what waits already is left where it is."""
    disk = MemoryDisk()
    async with open_running(disk) as outbox:
        await outbox.store(b"x", METADATA, priority=True)
        waiting = list_images(OUTBOX, disk=disk)
        assert retry_images(OUTBOX, waiting, disk=disk) == [Outcome(waiting[0].id)]
        (name,) = disk.names()
        disk.make_folder(OUTBOX / "dead")
        disk.rename(OUTBOX / name, OUTBOX / "dead" / name.removeprefix("priority/"))
        (dead,) = dead_images(disk)
        assert dead.reason == "unknown"
        assert retry_images(OUTBOX, [dead], disk=disk) == [Outcome(dead.id)]
    assert disk.names() == [name.replace("priority", "normal")]


async def test_dropping_the_dead_takes_their_reasons_too(autojump_clock):
    """Nothing is left of them."""
    disk = MemoryDisk()

    def answer(images):
        raise LoopRefused(400, "no")

    async with open_running(disk, Loop(answer)) as outbox:
        await outbox.store_all([NewImage(jpeg=b"%d" % n, metadata=METADATA) for n in range(3)])
        await outbox.wait_idle()
        await outbox.set_mode(OutboxMode.STOPPED)
    assert len(disk.names()) == 6
    assert not any(outcome.problem for outcome in drop_images(OUTBOX, dead_images(disk), disk=disk))
    assert disk.names() == []
