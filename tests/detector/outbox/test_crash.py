"""A loss of power after every single operation on the disk: nothing acknowledged is lost, nothing half is seen."""

import random
from functools import partial

import trio

from loop_node.detector.outbox import Limits, NewImage
from loop_node.detector.outbox.folder import Folder
from loop_node.errors import LoopRefused

from .conftest import METADATA, OUTBOX, Loop, balanced, open_running

VARIANTS = {
    "all that was not synced is lost": lambda seed, what, inode: False,
    "names are kept, contents are not": lambda seed, what, inode: what == "name",
    "everything is kept": lambda seed, what, inode: True,
    "chance decides": lambda seed, what, inode: random.Random(f"{seed} {what} {inode}").random() < 0.5,
    "chance decides otherwise": lambda seed, what, inode: random.Random(f"{seed} {what} {inode}").random() >= 0.5,
}


class Wreck:
    """Notes after every change of the disk what a loss of power would leave, and what had been promised by then."""

    def __init__(self, disk):
        self.disk = disk
        self.promised = {}  # id -> JPEG, of images somebody was told are kept
        self.over = set()  # ids that the Loop has, or that were given up or dropped
        self.states = []
        disk.on_change = self.note

    def note(self):
        seed = len(self.states)
        for keep in VARIANTS.values():
            left = self.disk.after_power_loss(partial(keep, seed))
            self.states.append((left, dict(self.promised), set(self.over)))


def seen(disk):
    """What a start finds: every waiting image, read whole, and every dead one."""
    folder = Folder(OUTBOX, disk)
    folder.prepare()
    waiting = {image.id: folder.read(image).jpeg for image in folder.survey()}
    return waiting, {image.id for image in folder.dead()}


async def test_what_was_acknowledged_survives_a_loss_of_power_at_any_moment(disk, autojump_clock):
    """Stores of one and several images, uploads, a refusal, drops and a burial: every prefix, in five variants."""
    wreck = Wreck(disk)
    submitted = {b"bad"}

    def answer(images):
        if any(image.jpeg == b"bad" for image in images):
            raise LoopRefused(422, "no")
        wreck.over |= {image.id for image in images}

    async def store(outbox, *jpegs, priority=False):
        submitted.update(jpegs)
        images = [NewImage(jpeg=jpeg, metadata=METADATA, priority=priority) for jpeg in jpegs]
        ids = await outbox.store_all(images)
        wreck.promised |= dict(zip(ids, jpegs, strict=True))
        return ids

    async with open_running(disk, limits=Limits(normal_images=6)) as outbox:
        await store(outbox, b"first")
        await store(outbox, b"second", b"third", priority=True)
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(store, outbox, b"n%d" % number)
                nursery.start_soon(partial(store, outbox, b"p%d" % number, priority=True))
        wreck.over |= wreck.promised.keys() & {i for i, jpeg in wreck.promised.items() if jpeg == b"first"}
        await store(outbox, *(b"x%d" % number for number in range(3)))  # six stay, so one is dropped
        await store(outbox, b"bad", priority=True)
        assert balanced(outbox.stats())
    async with open_running(disk, Loop(answer)) as outbox:
        await outbox.wait_idle()
        assert outbox.stats().dead == 1
    assert len(wreck.states) > 200
    for left, promised, over in wreck.states:
        waiting, dead = seen(left)
        assert promised.keys() - over <= waiting.keys() | dead
        assert set(waiting.values()) <= submitted
        assert all(waiting[item] == jpeg for item, jpeg in promised.items() if item in waiting)


async def test_a_crash_repeats_one_request_at_most_under_the_same_ids(disk, autojump_clock):
    """Of what the Loop has, no more than the images of one request are still there after a loss of power."""
    async with open_running(disk) as outbox:
        ids = await outbox.store_all([NewImage(jpeg=b"%d" % n, metadata=METADATA) for n in range(45)])
    wreck = Wreck(disk)

    def answer(images):
        wreck.over |= {image.id for image in images}

    async with open_running(disk, Loop(answer)) as outbox:
        await outbox.wait_idle()
    assert wreck.over == set(ids)
    for left, _, over in wreck.states:
        waiting, _ = seen(left)
        assert len(waiting.keys() & over) <= 20
        assert waiting.keys() <= set(ids)


async def test_a_takeover_survives_a_loss_of_power_at_any_moment(disk, autojump_clock):
    """After any of its steps the next start goes on: every image once, in the old order, the broken one set aside."""
    stamps = [f"2026-11-23_02:34:2{n}.998010" for n in range(4)]
    for stamp in stamps:
        folder = OUTBOX / "normal" / stamp
        disk.put(folder / f"image_{stamp}.jpg", stamp.encode())
        if stamp != stamps[1]:
            disk.put(folder / f"image_{stamp}.json", b'{"tags": []}')
    wreck = Wreck(disk)
    async with open_running(disk) as outbox:
        while outbox.stats().stored < 4:
            await trio.sleep(0.1)
    assert len(wreck.states) > 50
    for left, _, _ in wreck.states:
        async with open_running(left) as outbox:
            await trio.sleep(1)
            assert balanced(outbox.stats())
        waiting, dead = seen(left)
        assert [jpeg.decode() for _, jpeg in sorted(waiting.items())] == [stamps[0], stamps[2], stamps[3]]
        assert len(dead) == 1
