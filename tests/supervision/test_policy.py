"""The pure rules: delays, budgets, what counts as stable."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_node.supervision import Backoff, CrashBudget

backoffs = st.builds(
    Backoff,
    first_s=st.floats(0.001, 1),
    factor=st.floats(1, 100),
    cap_s=st.floats(1, 1e6),
    jitter=st.floats(0, 1),
)
attempts = st.integers(0, 10**6)
dice = st.floats(0, 1)


@given(backoffs, attempts, dice)
def test_a_delay_is_finite_and_never_above_the_cap(backoff: Backoff, attempt: int, roll: float) -> None:
    """Whatever the attempt and the dice, 0 <= delay <= cap."""
    assert 0 <= backoff.delay_s(attempt, roll) <= backoff.cap_s * (1 + 1e-9)


@given(backoffs, dice)
def test_the_first_delay_is_at_most_a_second(backoff: Backoff, roll: float) -> None:
    """A single crash costs at most 1 s."""
    assert backoff.delay_s(0, roll) <= backoff.first_s <= 1


@given(backoffs, attempts, dice)
def test_delays_grow(backoff: Backoff, attempt: int, roll: float) -> None:
    """With the same dice a later attempt never waits less."""
    later_s = backoff.delay_s(attempt + 1, roll)
    assert later_s >= backoff.delay_s(attempt, roll) * (1 - 1e-9)


@given(backoffs, attempts, dice)
def test_jitter_takes_at_most_its_share(backoff: Backoff, attempt: int, roll: float) -> None:
    """The dice shorten a delay, by no more than the share of `jitter`."""
    full_s = backoff.delay_s(attempt, 0)
    assert full_s * (1 - backoff.jitter) <= backoff.delay_s(attempt, roll) * (1 + 1e-9)
    assert backoff.delay_s(attempt, roll) <= full_s


def test_the_delays_of_the_defaults() -> None:
    """Half a second, doubled up to half a minute."""
    assert [Backoff().delay_s(attempt, 0) for attempt in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert Backoff().delay_s(0, 1) == 0.25


@given(backoffs, attempts, st.floats(0, 1e9))
def test_a_stable_run_starts_over(backoff: Backoff, attempt: int, ran_s: float) -> None:
    """The attempt count goes back to 0 after a stable run, else up by one."""
    expected = 0 if ran_s >= backoff.stable_after_s else attempt + 1
    assert backoff.attempt_after(attempt, ran_s) == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"first_s": 0},
        {"first_s": 1.1},
        {"first_s": math.nan},
        {"factor": 0.5},
        {"factor": math.inf},
        {"cap_s": 0.4},
        {"cap_s": math.inf},
        {"cap_s": math.nan},
        {"jitter": -0.1},
        {"jitter": 1.1},
        {"stable_after_s": -1},
    ],
)
def test_a_senseless_backoff_is_refused(wrong: dict[str, float]) -> None:
    """A backoff that would not back off cannot be made, and the message names the field."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Backoff(**wrong)


@given(
    st.integers(0, 20), st.floats(0.1, 1000), st.lists(st.floats(0, 1e4), max_size=40).map(sorted), st.floats(0, 1e4)
)
def test_only_crashes_in_the_window_count(
    max_crashes: int, window_s: float, times_s: list[float], age_s: float
) -> None:
    """A budget is exhausted by more than `max_crashes` within the window, and by nothing else."""
    now_s = (times_s[-1] if times_s else 0) + age_s
    recent = [at_s for at_s in times_s if now_s - at_s < window_s]
    budget = CrashBudget(max_crashes=max_crashes, window_s=window_s)
    assert budget.exhausted(times_s, now_s) is (len(recent) > max_crashes)


@given(st.integers(0, 10), st.lists(st.floats(0, 1e4), max_size=40).map(sorted))
def test_the_last_crashes_are_enough_to_decide(max_crashes: int, times_s: list[float]) -> None:
    """Remembering max_crashes + 1 crashes gives the same verdict as remembering all."""
    budget = CrashBudget(max_crashes=max_crashes, window_s=60)
    now_s = times_s[-1] if times_s else 0
    assert budget.exhausted(times_s[-(max_crashes + 1) :], now_s) is budget.exhausted(times_s, now_s)


def test_the_default_budget_can_be_used_up_under_the_default_backoff() -> None:
    """A task that crashes at every start is given up after 16 to 32 s, not restarted for ever."""
    at_s, times_s, backoff, budget = 0.0, [0.0], Backoff(), CrashBudget()
    while not budget.exhausted(times_s, at_s):
        at_s += backoff.delay_s(len(times_s) - 1, 0)
        times_s.append(at_s)
    assert 15 < at_s < 32


@pytest.mark.parametrize("wrong", [{"max_crashes": -1}, {"window_s": 0}])
def test_a_senseless_budget_is_refused(wrong: dict[str, int]) -> None:
    """A budget needs a window and cannot be negative."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CrashBudget(**wrong)
