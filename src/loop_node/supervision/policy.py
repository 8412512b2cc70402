"""What follows a crash: whether to start again, how soon, and when to stop trying. Pure."""

import math
from collections.abc import Iterable
from enum import Enum

from attrs import field, frozen
from attrs.validators import ge, gt, le, lt

__all__ = ["Backoff", "CrashBudget", "Criticality", "Restart"]


class Restart(Enum):
    """What follows when a task ends by itself; cancellation is never answered by a restart."""

    ALWAYS = "always"  # it should run for ever: returning counts as a crash
    ON_ERROR = "on error"
    NEVER = "never"  # an error gives it up at once


class Criticality(Enum):
    """What it means for the node that a task was given up."""

    VITAL = "vital"  # the node ends with TaskGivenUp
    DEGRADABLE = "degradable"  # it is parked, health says so, its siblings go on


@frozen(kw_only=True)
class Backoff:
    """How long to wait before each restart: exponential with a cap, jittered downwards.

    Args:
        first_s: Upper bound of the first delay, above 0 and at most 1 second.
        factor: Growth from one delay to the next, at least 1.
        cap_s: Upper bound of all delays.
        jitter: Share of a delay left to chance, 0..1; it keeps nodes that lost the same peer from returning in step.
        stable_after_s: A run this long wipes out the delays grown before it.
    """

    first_s: float = field(default=0.5, validator=[gt(0), le(1)])
    factor: float = field(default=2.0, validator=[ge(1), lt(math.inf)])
    cap_s: float = field(default=30.0, validator=lt(math.inf))
    jitter: float = field(default=0.5, validator=[ge(0), le(1)])
    stable_after_s: float = field(default=60.0, validator=ge(0))

    def __attrs_post_init__(self) -> None:
        if not self.cap_s >= self.first_s:
            raise ValueError(f"cap_s ({self.cap_s}) must not be below first_s ({self.first_s})")

    def delay_s(self, attempt: int, random_0_1: float) -> float:
        """Seconds to wait before restart number `attempt`, counted from 0; `random_0_1` is the dice, 0..1."""
        # compared in logarithms: the power itself overflows after some hundred attempts
        grown_to_cap = attempt * math.log(self.factor) >= math.log(self.cap_s / self.first_s)
        bound_s = self.cap_s if grown_to_cap else self.first_s * self.factor**attempt
        return bound_s * (1 - self.jitter * random_0_1)

    def attempt_after(self, attempt: int, ran_s: float) -> int:
        """The attempt number that follows `attempt` after a run of `ran_s` seconds."""
        return 0 if ran_s >= self.stable_after_s else attempt + 1


@frozen(kw_only=True)
class CrashBudget:
    """How many crashes are forgiven: at most `max_crashes` within any `window_s` seconds."""

    max_crashes: int = field(default=5, validator=ge(0))
    window_s: float = field(default=300.0, validator=gt(0))

    def exhausted(self, crash_times_s: Iterable[float], now_s: float) -> bool:
        """Whether the crashes of the last `window_s` seconds before `now_s` are too many (all times on one clock)."""
        return sum(now_s - at_s < self.window_s for at_s in crash_times_s) > self.max_crashes
