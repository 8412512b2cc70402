"""What is known of the connection to the Learning Loop: for /about, the metrics and the log."""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from attrs import Factory, define, frozen

__all__ = ["LinkFault", "LinkState"]

log = logging.getLogger(__name__)

_TELL_AGAIN_S: Final = 600.0
_TOLERATED_SKEW_S: Final = 300.0


@frozen(kw_only=True)
class LinkFault:
    """Why the Learning Loop cannot be asked, in one sentence, and since when (UTC)."""

    kind: str
    sentence: str
    since: datetime


@define
class LinkState:
    """Told the outcome of every call; logs a loss once and the return once.

    A link that comes and goes, as when one call of several fails for its size, is told of every ten minutes per kind
    of fault; `error_counts` counts every time.

    Args:
        wall_clock: Seconds since the epoch.

    Attributes:
        fault: None while all is well.
        reached: When the Loop last answered; None before it first did.
        error_counts: By kind, since the node started.
        skew_s: How far the Loop's clock is ahead of ours.
    """

    _wall_clock: Callable[[], float] = time.time
    _clock: Callable[[], float] = time.monotonic
    fault: LinkFault | None = None
    reached: datetime | None = None
    error_counts: Counter[str] = Factory(Counter)
    skew_s: float = 0.0
    _told_s: dict[str, float] = Factory(dict)
    _return_is_news: bool = False

    def lost(self, kind: str, sentence: str) -> None:
        """A call found the Loop out of reach."""
        self.error_counts[kind] += 1
        known, now_s = self.fault, self._clock()
        self.fault = LinkFault(kind=kind, sentence=sentence, since=known.since if known else self._now())
        is_news = known is None or known.kind != kind
        if is_news and now_s - self._told_s.get(kind, -math.inf) >= _TELL_AGAIN_S:
            self._told_s[kind] = now_s
            self._return_is_news = True
            log.warning("the Learning Loop is out of reach (%s): %s", kind, sentence)

    def stands(self) -> None:
        """A call was answered by a Loop, whatever it answered."""
        self.reached = self._now()
        if self.fault is not None and self._return_is_news:
            log.info("the Learning Loop is back")
        self.fault, self._return_is_news = None, False

    def note_date(self, theirs_s: float) -> None:
        """An answer was dated `theirs_s` seconds since the epoch."""
        was_wrong = abs(self.skew_s) > _TOLERATED_SKEW_S
        self.skew_s = theirs_s - self._wall_clock()
        if abs(self.skew_s) > _TOLERATED_SKEW_S and not was_wrong:
            log.warning(
                "the clock of this computer and that of the Learning Loop differ by %.0f minutes: set the clock here",
                abs(self.skew_s) / 60,
            )

    def snapshot(self) -> dict[str, Any]:
        """Ready for JSON; `connected` is null before the first call, `clock_skew_s` positive if our clock is late."""
        never_asked = self.fault is None and self.reached is None
        return {
            "connected": None if never_asked else self.fault is None,
            "kind": self.fault.kind if self.fault else None,
            "reason": self.fault.sentence if self.fault else None,
            "since": self.fault.since.isoformat(timespec="milliseconds") if self.fault else None,
            "clock_skew_s": round(self.skew_s),
        }

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._wall_clock(), UTC)
