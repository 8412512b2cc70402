"""What is known of the connection, and what the log is told of it."""

import logging

import pytest

from loop_node.loop.link_state import LinkState


@pytest.fixture
def times():
    return {"wall_s": 1_800_000_000.0, "s": 0.0}


@pytest.fixture
def link(times, caplog):
    caplog.set_level(logging.INFO)
    return LinkState(lambda: times["wall_s"], lambda: times["s"])


def test_a_loss_and_the_return_are_logged_once(link, caplog):
    """However many calls find so."""
    assert link.snapshot()["connected"] is None
    for _ in range(3):
        link.lost("dns", "the name is not known")
    assert link.snapshot() == {
        "connected": False,
        "kind": "dns",
        "reason": "the name is not known",
        "since": "2027-01-15T08:00:00.000+00:00",
        "clock_skew_s": 0,
    }
    for _ in range(3):
        link.stands()
    assert caplog.messages == [
        "the Learning Loop is out of reach (dns): the name is not known",
        "the Learning Loop is back",
    ]
    assert link.error_counts == {"dns": 3}
    assert link.snapshot()["connected"] is True


def test_another_fault_is_told_but_is_no_other_loss(link, times, caplog):
    """`since` stays that of the first."""
    link.lost("dns", "a")
    times["wall_s"] += 60
    link.lost("tls", "b")
    assert link.fault.kind == "tls"
    assert link.fault.since.minute == 0
    assert len(caplog.messages) == 2


def test_a_link_that_comes_and_goes_does_not_fill_the_log(link, times, caplog):
    """One call that always fails beside one that never does: told of every ten minutes."""
    for _ in range(360):
        link.lost("failed", "HTTP 500")
        link.stands()
        times["s"] += 5
    assert caplog.messages == ["the Learning Loop is out of reach (failed): HTTP 500", "the Learning Loop is back"] * 3
    assert link.error_counts["failed"] == 360


def test_a_clock_that_is_wrong_is_told_once(link, times, caplog):
    """And again when it was right in between; five minutes are tolerated."""
    for ahead_s in (299, 301, 4000, 0, -500):
        link.note_date(times["wall_s"] + ahead_s)
    warning = "the clock of this computer and that of the Learning Loop differ by {} minutes: set the clock here"
    assert caplog.messages == [warning.format(5), warning.format(8)]
    assert link.snapshot()["clock_skew_s"] == -500
