"""What to send next, and what an answer of the Learning Loop means for each image. Pure: time and dice come as numbers.

Requests follow one another as long as there is work. What happens to a request that was not answered with 200:

- 422, 400, 413: some image in it is to blame. It is found by halving: of images known to hold a bad one, the first half
  is sent; if that is fine, the bad one is in the other half, which need not be sent to know it; if not, the other half is
  cleared of suspicion and joins what is sent again at the end. That takes at most ceil(log2 n) + 1 more requests for each
  bad one among n. An image found guilty steps aside, is sent alone 5 s later and, if refused again, 15 s after that; a third
  refusal is final. Others are sent meanwhile.
- The Loop failed or timed out while it worked on this request: the same search, at the pace of the backoff, for one image
  must not hold up the others; but the one it ends with only steps aside for growing times and is never given up.
- Any other no (401, 403, 404, ...), or the Loop was not reached: it is no image's fault. Sending goes on at the pace of
  the backoff, 1 s to 5 min with jitter.
- A time to wait that the Loop names is honoured, between a second and an hour.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Final

from attrs import define, frozen

from loop_node.errors import LoopRefused, LoopUnavailable
from loop_node.supervision.policy import Backoff

from .backlog import Backlog

__all__ = ["BATCH_BYTES", "BATCH_IMAGES", "LATER_S", "Attempt", "Delivery", "Wait"]

BATCH_IMAGES: Final = 20
BATCH_BYTES: Final = 64 * 2**20
LATER_S: Final = (5.0, 15.0)
"""How long a refused image steps aside, each time it is refused; once more, and it is dead."""

_BLAMES_AN_IMAGE: Final = frozenset({400, 413, 422})
_FAILED_AT_WORK: Final = frozenset({"failed", "timeout"})
"""Kinds of `LoopUnavailable` that a single image may cause."""
_FIRST_POSTPONEMENT: Final = 4  # as a step of the backoff: 16 s
_LONGEST_WAIT_S: Final = 3600.0
_RETRY: Final = Backoff(first_s=1.0, factor=2.0, cap_s=300.0, jitter=0.5)


@frozen
class Attempt:
    """Images to send in one request."""

    ids: tuple[str, ...]


@frozen
class Wait:
    """Nothing to send before this time (infinite: before something changes)."""

    until_s: float


@define
class _Aside:
    """An image that is kept from the others."""

    due_s: float = 0.0
    refusals: int = 0
    failures: int = 0


class Delivery:
    """The course of all requests, over one life of the process; what it knows beyond the backlog may be lost.

    Attributes:
        retry_at_s: Nothing is sent before.
        why: What is wrong with the Learning Loop or the way to it; empty if nothing.
    """

    def __init__(self, backlog: Backlog) -> None:
        self.retry_at_s = -math.inf
        self.why = ""
        self._backlog = backlog
        self._failures = 0
        self._refusing = True  # why the search is on: the Loop refuses, or fails
        self._blamed: list[str] = []  # at least one of them is bad
        self._unsure: list[str] = []  # were in a request that was refused
        self._aside: dict[str, _Aside] = {}
        self._last_was_aside = False

    def next(self, now_s: float) -> Attempt | Wait:
        """What to do now."""
        if now_s < self.retry_at_s:
            return Wait(self.retry_at_s)
        self._forget_the_gone(now_s)
        due = min(self._aside, key=lambda item: self._aside[item].due_s, default=None)
        attempt = self._among_others()
        if due is not None and self._aside[due].due_s <= now_s and not (attempt and self._last_was_aside):
            self._last_was_aside = True
            return Attempt((due,))
        self._last_was_aside = False
        if attempt:
            return attempt
        return Wait(math.inf if due is None else self._aside[due].due_s)

    def hurry(self) -> None:
        """Try at once, whatever was to be waited for."""
        self.retry_at_s = -math.inf

    def postpone(self, item: str, now_s: float) -> None:
        """Keep an image from the others that cannot be worked on here: it cannot be read, or not be set aside."""
        self._unsure = _without(self._unsure, [item])
        self._blamed = _without(self._blamed, [item])
        self._postpone(self._aside.setdefault(item, _Aside()), now_s)

    # answers

    def delivered(self, attempt: Attempt, now_s: float) -> None:
        """The Loop has them."""
        self._failures, self.why = 0, ""
        for item in attempt.ids:
            self._aside.pop(item, None)
        self._unsure = _without(self._unsure, attempt.ids)
        self._blamed = _without(self._blamed, attempt.ids)
        self._convict_the_last(now_s)

    def refused(self, attempt: Attempt, error: LoopRefused, now_s: float, random_0_1: float) -> str:
        """The Loop said no; the id of the image that has to be given up, or an empty string."""
        if error.status not in _BLAMES_AN_IMAGE:
            self.why = str(error)
            self._back_off(now_s, random_0_1)
            return ""
        self._failures, self._refusing, self.why = 0, True, ""
        if len(attempt.ids) > 1:
            self._blame(attempt)
            return ""
        return self._step_aside(attempt.ids[0], now_s)

    def unavailable(self, attempt: Attempt, error: LoopUnavailable, now_s: float, random_0_1: float) -> None:
        """The Loop was not reached, or failed."""
        self.why = str(error)
        self._back_off(now_s, random_0_1)
        if error.retry_after_s is not None:
            self.retry_at_s = now_s + min(max(_RETRY.first_s, error.retry_after_s), _LONGEST_WAIT_S)
        elif error.kind in _FAILED_AT_WORK:
            self._refusing = False
            if len(attempt.ids) > 1:
                self._blame(attempt)
            else:
                self._step_aside(attempt.ids[0], now_s)

    # the parts

    def _among_others(self) -> Attempt | None:
        """What to send of all images that have not stepped aside."""
        if self._blamed:
            return Attempt(tuple(self._blamed[: len(self._blamed) // 2]))
        ids = self._unsure or self._backlog.choose(BATCH_IMAGES, without=self._aside)
        return Attempt(tuple(self._light_enough(ids))) if ids else None

    def _light_enough(self, ids: Sequence[str]) -> Iterator[str]:
        """The first of `ids`, as many as a request may hold in bytes, at least one."""
        total_bytes = 0
        for item in ids:
            image = self._backlog.pending(item)
            total_bytes += image.size_bytes if image else 0
            if item != ids[0] and total_bytes > BATCH_BYTES:
                return
            yield item

    def _blame(self, attempt: Attempt) -> None:
        """Search in these from now on; what was suspected with them is cleared."""
        self._unsure = _without(self._unsure + self._blamed, attempt.ids)
        self._blamed = list(attempt.ids)

    def _convict_the_last(self, now_s: float) -> None:
        if len(self._blamed) == 1:
            self._step_aside(self._blamed[0], now_s)

    def _step_aside(self, item: str, now_s: float) -> str:
        """Keep a bad image from the others for a while; its id comes back if that was the last time."""
        self._unsure = _without(self._unsure + (self._blamed if item in self._blamed else []), [item])
        self._blamed = [] if item in self._blamed else self._blamed
        aside = self._aside.setdefault(item, _Aside())
        if not self._refusing:
            self._postpone(aside, now_s)
            return ""
        if aside.refusals == len(LATER_S):
            del self._aside[item]
            return item
        aside.due_s = now_s + LATER_S[aside.refusals]
        aside.refusals += 1
        return ""

    def _postpone(self, aside: _Aside, now_s: float) -> None:
        aside.due_s = now_s + _RETRY.delay_s(aside.failures + _FIRST_POSTPONEMENT, 0.0)
        aside.failures += 1

    def _back_off(self, now_s: float, random_0_1: float) -> None:
        self.retry_at_s = now_s + _RETRY.delay_s(self._failures, random_0_1)
        self._failures += 1

    def _forget_the_gone(self, now_s: float) -> None:
        self._blamed = [item for item in self._blamed if item in self._backlog]
        self._unsure = [item for item in self._unsure if item in self._backlog]
        self._aside = {item: aside for item, aside in self._aside.items() if item in self._backlog}
        self._convict_the_last(now_s)


def _without(items: Sequence[str], gone: Sequence[str]) -> list[str]:
    return [item for item in items if item not in gone]
