"""How often a client may ask."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_node.errors import RateLimited
from loop_node.local_loop.rates import Rate


def test_no_limit_is_no_limit() -> None:
    """0 lets everybody in."""
    rate = Rate(0)
    for _ in range(1000):
        rate.take("a", 0)


@given(st.integers(1, 100), st.lists(st.floats(0, 30), min_size=1, max_size=300))
def test_nobody_gets_more_than_a_minutes_worth_and_the_refill(per_minute: int, pauses_s: list[float]) -> None:
    """Over any time: at most the bucket and what has flowed in since; who waits as told is let in."""
    rate, now_s, taken = Rate(per_minute), 0.0, 0
    for pause_s in pauses_s:
        now_s += pause_s
        try:
            rate.take("a", now_s)
            taken += 1
        except RateLimited as refused:
            now_s += refused.retry_after_s
            rate.take("a", now_s)
            taken += 1
    assert taken <= per_minute + now_s * per_minute / 60 + 1e-6


def test_clients_do_not_pay_for_each_other() -> None:
    """Each has a bucket, and the remembered ones are bounded."""
    rate = Rate(1, max_clients=2)
    for client in ("a", "b"):
        rate.take(client, 0)
    with pytest.raises(RateLimited):
        rate.take("a", 0)
    rate.take("c", 0)
    assert len(rate._buckets) == 2
