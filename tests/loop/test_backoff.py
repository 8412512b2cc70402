"""Delays between calls to a Loop that fails."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_node.loop.backoff import Retry

retries = st.builds(Retry, first_s=st.floats(0.01, 5), cap_s=st.floats(5, 1e4))
attempts = st.integers(0, 10**6)
dice = st.floats(0, 1)


@given(retries, attempts, dice)
def test_between_half_the_bound_and_the_cap(retry, attempt, roll):
    """Never 0, never above the cap, at most half of it left to chance."""
    delay_s = retry.delay_s(attempt, roll)
    assert retry.first_s / 2 <= delay_s <= retry.cap_s
    assert delay_s >= retry.delay_s(attempt, 0) / 2


@given(retries, attempts, dice)
def test_delays_grow(retry, attempt, roll):
    """With the same dice a later attempt never waits less."""
    assert retry.delay_s(attempt + 1, roll) >= retry.delay_s(attempt, roll)


@given(retries, attempts, dice, st.floats(0, 3600))
def test_the_loops_wish_is_honoured(retry, attempt, roll, wish_s):
    """Never less than Retry-After, and little more than it and the cap."""
    delay_s = retry.delay_s(attempt, roll, wish_s)
    assert wish_s <= delay_s <= max(wish_s * 1.1 + 1e-6, retry.cap_s)


def test_the_delays_of_the_defaults():
    """A second, doubled up to a minute."""
    assert [Retry().delay_s(attempt, 0) for attempt in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_cap_below_the_first_delay():
    """It would be a contradiction."""
    with pytest.raises(ValueError, match="must not be below"):
        Retry(first_s=2, cap_s=1)
