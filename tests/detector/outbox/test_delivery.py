"""What is sent next, and how many requests it takes, without a clock, a disk or a network."""

import math
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_node.detector.outbox.backlog import Backlog, Limits, Pending, Queue
from loop_node.detector.outbox.delivery import BATCH_BYTES, Attempt, Delivery, Wait
from loop_node.detector.outbox.item import item_id
from loop_node.errors import LoopRefused, LoopUnavailable


class Play:
    """Plays a delivery against a Learning Loop that dislikes some images; time moves only by waiting."""

    def __init__(self, images, answer, sizes=1):
        self.backlog = Backlog(Limits(normal_images=10**6, total_bytes=10**12))
        self.ids = [item_id(number, "0" * 16) for number in range(images)]
        for item in self.ids:
            self.backlog.find(Pending(item, Queue.NORMAL, sizes))
        self.delivery = Delivery(self.backlog)
        self.answer = answer
        self.now_s = 0.0
        self.requests = []  # (time, ids)
        self.delivered_at = {}
        self.dead = []

    def run(self, until=lambda play: False, most=2000):
        for _ in range(most):
            if until(self) or not len(self.backlog):
                return self
            step = self.delivery.next(self.now_s)
            if isinstance(step, Wait):
                assert step.until_s > self.now_s
                self.now_s = step.until_s
                continue
            self.request(step)
        raise AssertionError(f"no end after {most} steps: {len(self.backlog)} images left")

    def request(self, attempt):
        assert len(set(attempt.ids)) == len(attempt.ids) <= 20
        assert all(item in self.backlog for item in attempt.ids)
        self.requests.append((self.now_s, attempt.ids))
        error = self.answer([int(item[:16]) for item in attempt.ids])
        if isinstance(error, LoopRefused):
            dead = self.delivery.refused(attempt, error, self.now_s, 0.0)
            if dead:
                self.dead.append(int(dead[:16]))
                self.backlog.buried(dead)
        elif isinstance(error, LoopUnavailable):
            self.delivery.unavailable(attempt, error, self.now_s, 0.0)
        else:
            self.delivery.delivered(attempt, self.now_s)
            for item in attempt.ids:
                self.backlog.uploaded(item)
                self.delivered_at[int(item[:16])] = len(self.requests)


def refusing(bad, status=422):
    return lambda ids: LoopRefused(status, "no") if bad & set(ids) else None


def failing(bad, kind="failed"):
    return lambda ids: LoopUnavailable("broke", kind=kind) if bad & set(ids) else None


@pytest.mark.parametrize("status", [400, 413, 422, 500])
@given(images=st.integers(1, 20), data=st.data())
def test_a_bad_image_costs_few_requests(status, images, data):
    """All good ones of a batch are out after at most ceil(log2 20) + 1 more requests for each bad one."""
    bad = data.draw(st.sets(st.integers(0, images - 1)))
    good = set(range(images)) - bad
    answer = failing(bad) if status == 500 else refusing(bad, status)
    play = Play(images, answer).run(until=lambda play: good <= play.delivered_at.keys())
    singles = Counter(ids for _, ids in play.requests if len(ids) == 1)
    again = sum(count - 1 for count in singles.values())  # those of a bad one that had stepped aside
    assert len(play.requests) - again <= 1 + len(bad) * (math.ceil(math.log2(20)) + 1)


@given(st.integers(1, 300), st.sets(st.integers(0, 299), max_size=12))
def test_bad_images_die_and_good_ones_arrive(images, bad):
    """Whatever the mix, each image is delivered once or dead, never both."""
    play = Play(images, refusing(bad)).run()
    assert play.delivered_at.keys() == set(range(images)) - bad
    assert sorted(play.dead) == sorted(bad & set(range(images)))


def test_a_refused_image_has_three_chances():
    """It is sent alone 5 s after the refusal, and 15 s after the next; the third refusal is final."""
    play = Play(1, refusing({0})).run()
    assert [at_s for at_s, _ in play.requests] == [0, 5, 20]
    assert play.dead == [0]


def test_a_loop_that_was_wrong_twice_costs_nothing():
    """An image that is refused twice and then taken is delivered."""
    answers = [LoopRefused(422, "no"), LoopRefused(422, "no"), None]
    play = Play(1, lambda ids: answers.pop(0)).run()
    assert play.delivered_at == {0: 3}


def test_others_go_on_while_a_bad_one_waits():
    """New images are sent during the seconds in which a refused one stands aside."""
    play = Play(40, refusing({39})).run(until=lambda play: len(play.delivered_at) == 39)
    assert play.now_s == 0


@given(st.sampled_from([401, 403, 404, 402, 409]), st.integers(2, 60))
def test_a_no_that_blames_no_image_condemns_none(status, images):
    """A login, a right or a project that is missing is waited for: nothing is split, nothing dies."""
    answers = [LoopRefused(status, "no")] * 30
    play = Play(images, lambda ids: answers.pop() if answers else None).run()
    assert len(play.delivered_at) == images
    assert {len(ids) for _, ids in play.requests[:30]} == {min(20, images)}


def test_the_backoff_doubles_from_a_second_to_five_minutes():
    """Without the dice: 1, 2, 4 ... 256, 300, 300 s, and from the beginning after a success."""
    answers = [LoopUnavailable("away")] * 11 + [None] + [LoopUnavailable("away"), None]
    play = Play(40, lambda ids: answers.pop(0)).run()
    times_s = [at_s for at_s, _ in play.requests]
    waits_s = [later - earlier for earlier, later in pairwise(times_s)]
    assert waits_s == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 0, 1]


@given(st.integers(0, 50), st.floats(0, 1))
def test_the_backoff_is_jittered_within_its_bounds(failures, roll):
    """Between half of the step and the step, never above 5 minutes."""
    backlog = Backlog(Limits())
    backlog.find(Pending(item_id(1, "0" * 16), Queue.NORMAL, 1))
    delivery = Delivery(backlog)
    for _ in range(failures + 1):
        delivery.unavailable(Attempt((item_id(1, "0" * 16),)), LoopUnavailable("away"), 0.0, roll)
    step_s = min(300, 2**failures)
    assert delivery.retry_at_s == pytest.approx(step_s * (1 - roll / 2))


@pytest.mark.parametrize(("told_s", "waited_s"), [(0.0, 1), (7.5, 7.5), (1e9, 3600), (-5.0, 1), (math.nan, 1)])
def test_what_the_loop_says_about_waiting_is_honoured(told_s, waited_s):
    """From a second, so that a Loop that says 0 is not flooded, up to an hour."""
    answers = [LoopUnavailable("busy", kind="overloaded", retry_after_s=told_s), None]
    play = Play(3, lambda ids: answers.pop(0))
    play.request(play.delivery.next(0))
    assert play.delivery.retry_at_s == waited_s
    play.run()
    assert len(play.requests) == 2


def test_an_image_that_breaks_the_loop_never_dies_and_holds_up_nobody():
    """A single image that is answered with 500 again and again stays, is tried rarely, and all others arrive."""
    play = Play(60, failing({50}))
    play.run(until=lambda play: len(play.delivered_at) == 59)
    assert play.now_s < 120
    play.run(until=lambda play: play.now_s > 7200)
    alone = [at_s for at_s, ids in play.requests if len(ids) == 1 and at_s > 3600]
    assert play.dead == []
    assert 10 < len(alone) < 15


def test_a_loop_that_is_not_reached_is_asked_with_whole_batches():
    """Nobody is suspected when the network is gone."""
    answers = [LoopUnavailable("no route", kind="unreachable")] * 5
    play = Play(20, lambda ids: answers.pop() if answers else None).run()
    assert [len(ids) for _, ids in play.requests] == [20] * 6


def test_a_request_is_bounded_in_bytes():
    """Large images go in smaller batches, one alone if it must be."""
    assert Play(10, lambda ids: None, sizes=BATCH_BYTES // 3).run().requests[0][1].__len__() == 3
    assert Play(2, lambda ids: None, sizes=BATCH_BYTES * 2).run().requests[0][1].__len__() == 1


@pytest.mark.parametrize("limit", [1, 3, 7])
def test_a_loop_with_a_small_limit_gets_everything(limit):
    """A Loop that answers 413 to more than a few images at once costs no image."""
    play = Play(45, lambda ids: LoopRefused(413, "too large") if len(ids) > limit else None).run()
    assert len(play.delivered_at) == 45


@given(st.data())
def test_images_that_vanish_meanwhile_confuse_nothing(data):
    """Deleted or dropped during a search, at any moment: the others arrive, the bad ones die."""
    bad = data.draw(st.sets(st.integers(0, 19)))
    play = Play(20, refusing(bad))
    gone = set()
    while len(play.backlog):
        for number in data.draw(st.sets(st.integers(0, 19), max_size=2)):
            if play.backlog.vanished(item_id(number, "0" * 16)):
                gone.add(number)
        steps = len(play.requests) + 1
        play.run(until=lambda play, steps=steps: len(play.requests) >= steps)
    assert gone | set(play.dead) | play.delivered_at.keys() == set(range(20))
    assert set(play.dead) <= bad
