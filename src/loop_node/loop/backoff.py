"""How long to wait before the Learning Loop is asked again. Pure."""

import math
from typing import Final

from attrs import field, frozen
from attrs.validators import gt, lt

__all__ = ["Retry"]

_JITTER: Final = 0.5
_JITTER_OF_THE_LOOPS_WISH: Final = 0.1


@frozen(kw_only=True)
class Retry:
    """Delays that double up to a cap, jittered so that nodes that lost the same Loop do not return in step.

    Args:
        first_s: Upper bound of the first delay.
        cap_s: Upper bound of all delays of our own.
    """

    first_s: float = field(default=1.0, validator=[gt(0), lt(math.inf)])
    cap_s: float = field(default=60.0, validator=lt(math.inf))

    def __attrs_post_init__(self) -> None:
        if not self.cap_s >= self.first_s:
            raise ValueError(f"cap_s ({self.cap_s}) must not be below first_s ({self.first_s})")

    def delay_s(self, attempt: int, dice: float, retry_after_s: float | None = None) -> float:
        """Seconds to wait after failure number `attempt`, counted from 0.

        Args:
            attempt: Failures in a row before this one.
            dice: Chance, 0..1: takes up to half off a delay of our own, adds up to a tenth to the Loop's wish.
            retry_after_s: How long the Loop asked to be left alone: never less than this, even above the cap.
        """
        # compared in logarithms: the power itself overflows after some thousand attempts
        grown_to_cap = attempt >= math.log2(self.cap_s / self.first_s)
        bound_s = self.cap_s if grown_to_cap else self.first_s * 2.0**attempt
        wished_s = (retry_after_s or 0.0) * (1 + _JITTER_OF_THE_LOOPS_WISH * dice)
        return max(bound_s * (1 - _JITTER * dice), wished_s)
