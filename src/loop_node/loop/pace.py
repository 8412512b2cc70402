"""A time limit that moves on with the bytes: slow is fine, standing still is not."""

from typing import Final

import trio

__all__ = ["PACE_BYTES", "Pace"]

PACE_BYTES: Final = 64 * 1024


class Pace:
    """A cancel scope, `scope`, that ends `limit_s` seconds after it was made or after the last 64 KiB.

    Args:
        limit_s: Never told of any bytes, it is the limit of the whole.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.scope = trio.CancelScope(deadline=trio.current_time() + limit_s)
        self._since_last_bytes = 0

    def advance(self, size_bytes: int) -> None:
        """Some bytes have passed."""
        self._since_last_bytes += size_bytes
        if self._since_last_bytes >= PACE_BYTES:
            self._since_last_bytes = 0
            self.scope.deadline = trio.current_time() + self.limit_s
