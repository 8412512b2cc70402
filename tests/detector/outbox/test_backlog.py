"""The policy of the outbox against a model that is as naive as can be."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from loop_node.detector.outbox.backlog import Backlog, DropReason, Limits, NoRoom, Pending, Queue
from loop_node.detector.outbox.item import item_id

sizes = st.integers(1, 400)
queues = st.sampled_from(Queue)


class BacklogMachine(RuleBasedStateMachine):
    """The model is a list of all waiting images by age, and a count of what became of the others."""

    @initialize(images=st.integers(1, 6), total=st.integers(100, 2000), free=st.integers(0, 500))
    def begin(self, images, total, free):
        self.limits = Limits(normal_images=images, total_bytes=total, free_bytes=free)
        self.backlog = Backlog(self.limits)
        self.images = []
        self.fates = Counter()
        self.stored = 0
        self.sequence = 10_000
        self.oldest = 10_000
        self.flying = set()

    def new(self, queue, size, *, old=False):
        if old:
            self.oldest -= 1
        else:
            self.sequence += 1
        return Pending(item_id(self.oldest if old else self.sequence, "0" * 16), queue, size)

    def take_out(self, image, fate):
        self.images.remove(image)
        self.fates[fate] += 1

    def model_victims(self):
        normal = [image for image in self.images if image.queue is Queue.NORMAL]
        return [i for i in normal if i.id not in self.flying] + [i for i in normal if i.id in self.flying]

    def model_drops(self, size, disk, displace):
        """The images that have to go and why, or the limit that stands in the way."""
        for reason in (DropReason.DISK, DropReason.BYTES):
            lack_disk = self.limits.free_bytes + size - disk
            lack_bytes = sum(image.size_bytes for image in self.images) + size - self.limits.total_bytes
            if {DropReason.DISK: lack_disk, DropReason.BYTES: lack_bytes}[reason] == max(lack_disk, lack_bytes):
                break
        lack, drops = max(lack_disk, lack_bytes), []
        victims = self.model_victims() if displace else []
        while lack > 0:
            if not victims:
                return None, reason
            drops.append(victims.pop(0))
            lack -= drops[-1].size_bytes
        return drops, reason

    @rule(queue=queues, size=sizes, disk=st.integers(0, 3000), old=st.booleans(), works=st.booleans())
    def store(self, queue, size, disk, old, works):
        image = self.new(queue, size, old=old)
        drops, reason = self.model_drops(size, disk, displace=not old)
        if drops is None:
            with pytest.raises(NoRoom) as caught:
                self.backlog.reserve(size, disk, displace=not old)
            assert caught.value.reason is reason
            return
        assert self.backlog.reserve(size, disk, displace=not old) == drops
        for gone in drops:
            self.take_out(gone, reason)
        self.backlog.release(size)
        if not works:
            return
        self.backlog.find(image)
        self.stored += 1
        self.images.append(image)
        self.images.sort(key=lambda image: image.id)
        self.trim()

    def trim(self):
        surplus = sum(image.queue is Queue.NORMAL for image in self.images) - self.limits.normal_images
        drops = self.model_victims()[: max(0, surplus)]
        assert self.backlog.trim() == drops
        for gone in drops:
            self.take_out(gone, DropReason.COUNT)

    @rule(sizes=st.lists(sizes, min_size=2, max_size=4), disk=st.integers(0, 3000))
    def store_several_at_once(self, sizes, disk):
        """What is reserved counts for those that follow before anything is written."""
        written = []
        for size in sizes:
            beside = [*self.images, *written]
            lack = max(
                self.limits.free_bytes + size - disk,
                sum(image.size_bytes for image in beside) + size - self.limits.total_bytes,
            )
            if lack > 0:
                with pytest.raises(NoRoom):
                    self.backlog.reserve(size, disk, displace=False)
                continue
            assert self.backlog.reserve(size, disk, displace=False) == []
            disk -= size
            written.append(self.new(Queue.PRIORITY, size))
        self.backlog.release(sum(image.size_bytes for image in written))
        for image in written:
            self.backlog.find(image)
        self.stored += len(written)
        self.images = sorted(self.images + written, key=lambda image: image.id)

    @rule(queue=queues, size=sizes)
    def find(self, queue, size):
        image = self.new(queue, size)
        self.backlog.find(image)
        self.stored += 1
        self.images.append(image)
        self.trim()

    @rule(reason=st.sampled_from(DropReason))
    def turn_away(self, reason):
        self.backlog.turned_away(reason)
        self.stored += 1
        self.fates[reason] += 1

    @rule()
    def find_dead(self):
        self.backlog.found_dead()
        self.stored += 1
        self.fates["dead"] += 1

    @rule(places=st.integers(0, 25))
    def fly(self, places):
        self.flying = set(self.backlog.choose(places))
        self.backlog.in_flight = frozenset(self.flying)

    @precondition(lambda self: self.images)
    @rule(data=st.data(), fate=st.sampled_from(["uploaded", "buried", "vanished"]))
    def leave(self, data, fate):
        image = data.draw(st.sampled_from(self.images))
        assert getattr(self.backlog, fate)(image.id)
        assert not getattr(self.backlog, fate)(image.id)
        self.take_out(image, {"buried": "dead", "vanished": DropReason.DELETED}.get(fate, fate))

    @rule(places=st.integers(0, 25), data=st.data())
    def choose(self, places, data):
        without = set(data.draw(st.lists(st.sampled_from(self.images), max_size=3))) if self.images else set()
        priority = [i for i in self.images if i.queue is Queue.PRIORITY and i not in without]
        normal = [i for i in self.images if i.queue is Queue.NORMAL and i not in without]
        expected = []
        while len(expected) < places and (priority or normal):
            if len(expected) % 5 == 4 and normal:
                expected.append(normal.pop(0))
            else:
                expected.append(priority.pop(0) if priority else normal.pop())
        chosen = self.backlog.choose(places, without=[image.id for image in without])
        assert chosen == [image.id for image in expected]

    @invariant()
    def accounts_agree(self):
        if not hasattr(self, "backlog"):
            return
        counts = self.backlog.counts
        pending = {image.id: image for image in self.images}
        assert len(self.backlog) == len(pending)
        assert {queue: list(self.backlog.ids(queue)) for queue in Queue} == {
            queue: [image.id for image in self.images if image.queue is queue] for queue in Queue
        }
        assert all(self.backlog.pending(item) == image for item, image in pending.items())
        for queue in Queue:
            assert self.backlog.size_bytes(queue) == sum(i.size_bytes for i in self.images if i.queue is queue)
        assert counts.uploaded == self.fates["uploaded"]
        assert counts.dead == self.fates["dead"]
        assert all(counts.dropped[reason] == self.fates[reason] for reason in DropReason)
        assert counts.stored == self.stored == sum(self.fates.values()) + len(self.images)
        assert sum(image.queue is Queue.NORMAL for image in self.images) <= self.limits.normal_images


TestBacklog = pytest.mark.timeout(300)(BacklogMachine.TestCase)  # a failure takes its time to be made small
TestBacklog.settings = settings(max_examples=250, stateful_step_count=50, deadline=None)


def filled(normal, priority=0):
    backlog = Backlog(Limits(normal_images=10**6))
    for number in range(normal + priority):
        queue = Queue.NORMAL if number < normal else Queue.PRIORITY
        backlog.find(Pending(item_id(number, "0" * 16), queue, 1))
    return backlog


def test_the_order_of_a_batch():
    """Priority in the order they came, then the newest, and every fifth place for the oldest normal image."""
    batch = [int(item[:16]) for item in filled(100, 3).choose(20)]
    assert batch == [100, 101, 102, 99, 0, 98, 97, 96, 95, 1, 94, 93, 92, 91, 2, 90, 89, 88, 87, 3]


@given(st.integers(1, 300), st.integers(0, 40))
def test_nothing_starves(normal, arriving):
    """However many priority images arrive with each batch, the oldest normal image goes with the next full one."""
    backlog = filled(normal, 20)
    for number in range(arriving):
        backlog.find(Pending(item_id(10_000 + number, "0" * 16), Queue.PRIORITY, 1))
    assert item_id(0, "0" * 16) in backlog.choose(20)


@given(st.permutations(range(12)), st.integers(1, 20))
def test_the_order_does_not_depend_on_how_the_folder_is_listed(listing, places):
    """Images found in any order go in the same order: ids alone decide."""
    images = [Pending(item_id(n, "0" * 16), list(Queue)[n % 2], 1) for n in range(12)]
    shuffled, straight = Backlog(Limits()), Backlog(Limits())
    for number in range(12):
        shuffled.find(images[listing[number]])
        straight.find(images[number])
    assert shuffled.choose(places) == straight.choose(places)


def test_nothing_is_dropped_in_vain():
    """If all normal images together do not make enough room, none of them goes."""
    backlog = Backlog(Limits(total_bytes=100, free_bytes=0))
    backlog.find(Pending(item_id(1, "0" * 16), Queue.PRIORITY, 60))
    backlog.find(Pending(item_id(2, "0" * 16), Queue.NORMAL, 30))
    with pytest.raises(NoRoom):
        backlog.reserve(50, 10**9)
    assert len(backlog) == 2
    assert [image.id for image in backlog.reserve(40, 10**9)] == [item_id(2, "0" * 16)]


@pytest.mark.parametrize("wrong", [{"normal_images": 0}, {"total_bytes": 0}, {"free_bytes": -1}])
def test_senseless_limits_are_refused(wrong):
    """And the message names the field."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Limits(**wrong)
