"""PURE. How often a client may do something."""

from collections import OrderedDict
from typing import Final

from attrs import define, field

from loop_node.errors import RateLimited

__all__ = ["Rate"]

_MINUTE_S: Final = 60.0


@define
class Rate:
    """A bucket per client that holds a minute's worth and fills evenly (a token bucket).

    Args:
        per_minute: How often; 0 is no limit.
        max_clients: How many are remembered, the last ones.
    """

    per_minute: int
    max_clients: int = 10_000
    _buckets: OrderedDict[str, tuple[float, float]] = field(factory=OrderedDict)

    def take(self, client: str, now_s: float) -> None:
        """Count one time.

        Raises:
            RateLimited: That is too often; says when it will not be.
        """
        if not self.per_minute:
            return
        left, at_s = self._buckets.pop(client, (float(self.per_minute), now_s))
        left = min(self.per_minute, left + (now_s - at_s) * self.per_minute / _MINUTE_S)
        allowed = left >= 1
        self._buckets[client] = (left - 1 if allowed else left, now_s)
        if len(self._buckets) > self.max_clients:
            self._buckets.popitem(last=False)
        if not allowed:
            wait_s = (1 - left) * _MINUTE_S / self.per_minute
            raise RateLimited(f"more than {self.per_minute} uploads a minute", retry_after_s=int(wait_s) + 1)
