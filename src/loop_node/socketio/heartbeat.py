"""When to ping and when a silent peer is dead: pure arithmetic on times in seconds."""

import math
from enum import Enum, auto

__all__ = ["Beat", "Heartbeat"]


class Beat(Enum):
    """What is due."""

    NOTHING = auto()
    PING = auto()
    DEAD = auto()


class Heartbeat:
    """Engine.IO 4's heartbeat: the server pings every interval and waits for a sign of life, the client waits for the pings.

    Args:
        interval_s: From ping to ping.
        timeout_s: How long the answer may take.
        now: The time.
        pings: Whether this is the server's end.
    """

    def __init__(self, *, interval_s: float, timeout_s: float, now: float, pings: bool) -> None:
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._pings = pings
        self._ping_at = now + interval_s if pings else math.inf
        self._dead_at = math.inf
        self._held = False
        self.heard(now)

    @property
    def deadline(self) -> float:
        """When `beat` is to be asked next."""
        return min(self._ping_at, math.inf if self._held else self._dead_at)

    def heard(self, now: float) -> None:
        """The other side has given a sign of life."""
        self._dead_at = math.inf if self._pings else now + self._interval_s + self._timeout_s

    def hold(self) -> None:
        """Nothing is read for a while: the silence is ours."""
        self._held = True

    def resume(self, now: float) -> None:
        """Reading goes on; an answer that was due before may take its time once more."""
        self._held = False
        if self._dead_at < math.inf:
            self._dead_at = max(self._dead_at, now + self._timeout_s)

    def beat(self, now: float) -> Beat:
        """Tell what is due; a PING told is taken as sent."""
        if now >= self._dead_at and not self._held:
            return Beat.DEAD
        if now < self._ping_at:
            return Beat.NOTHING
        self._ping_at = now + self._interval_s
        self._dead_at = min(self._dead_at, now + self._timeout_s)
        return Beat.PING
