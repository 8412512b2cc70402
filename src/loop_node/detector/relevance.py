"""Which images are worth a person's look: the choice behind `autoupload=filtered`. Pure; times are handed in.

Each camera has a history of the things it has shown, and so have all images without a camera together. An image is
chosen for any of these causes, which become its tags:

- `uncertain`: a box or a point that its camera's history does not have yet, or a classification, has a confidence
  between the two thresholds, both included. A box is in the history if one of its category overlaps it with an
  intersection over union of 0.5 or more, a point if one of its category is less than 10 px away.
- `segmentation_detection`: there is an outline, however certain.
- `unexpected_observations_count`: there are 80 detections or more, of all kinds together.

Boxes and points enter the history whatever their confidence; one that is there already counts as seen again, and no more.
What was not seen for more than an hour is forgotten. Client-chosen camera ids and busy scenes cost bounded memory: beyond
`max_cameras` the camera goes that was heard of longest ago, beyond `max_remembered` boxes or as many points of a camera
the one that was seen longest ago, and of a camera's id the first 200 characters count.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import compress
from typing import Final

import numpy as np
from attrs import Factory, define, field, frozen
from numpy.typing import NDArray

from loop_node.schemas.detections import BoxDetection, ImageMetadata, PointDetection

__all__ = ["CAUSES", "FORGET_AFTER_S", "RelevanceFilter"]

CAUSES: Final = ("uncertain", "segmentation_detection", "unexpected_observations_count")
FORGET_AFTER_S: Final = 3600.0

_SIMILAR_WITHIN_PX: Final = 10.0
_UNEXPECTED_COUNT: Final = 80
_CAMERA_ID_CHARACTERS: Final = 200
_AT_ONCE: Final = 100

Places = NDArray[np.float64]
Similarity = Callable[[Places, Places], NDArray[np.bool_]]


def _similar_boxes(some: Places, others: Places) -> NDArray[np.bool_]:
    """Which of some boxes, (4, n) as x, y, width, height, are which of others, (4, m); shape (n, m).

    A logic may answer with boxes that have no area; as one pixel they are like themselves.
    """
    x, y, width, height = some[:, :, None]
    other_x, other_y, other_width, other_height = others
    width, height, other_width, other_height = (
        np.maximum(side, 1) for side in (width, height, other_width, other_height)
    )
    shared = np.minimum(x + width, other_x + other_width) - np.maximum(x, other_x)
    np.maximum(shared, 0, out=shared)
    shared *= np.minimum(y + height, other_y + other_height) - np.maximum(y, other_y)
    shared *= 3  # shared / (a + b - shared) >= 1/2, without a rounding
    similar: NDArray[np.bool_] = shared >= width * height + other_width * other_height
    return similar


def _similar_points(some: Places, others: Places) -> NDArray[np.bool_]:
    """The same for points, (2, n) as x, y."""
    (x, y), (other_x, other_y) = some[:, :, None], others
    similar: NDArray[np.bool_] = (x - other_x) ** 2 + (y - other_y) ** 2 < _SIMILAR_WITHIN_PX**2
    return similar


@define
class _Things:
    """Things of one form that a camera has shown, in the order in which they first came."""

    similar: Similarity
    places: Places
    categories: NDArray[np.object_] = Factory(lambda: np.empty(0, object))
    last_seen_s: NDArray[np.float64] = Factory(lambda: np.empty(0))

    def look(
        self, categories: Sequence[str], places: Sequence[Sequence[float]], now_s: float, limit: int
    ) -> list[bool]:
        """Which of these are new; they are remembered, and the others count as seen now.

        Taken by the hundred, so that a logic which finds a million things needs no more memory.
        """
        are_new: list[bool] = []
        for start in range(0, len(categories), _AT_ONCE):
            end = start + _AT_ONCE
            are_new += self._look(categories[start:end], np.array(places[start:end], float).T, now_s)
            self._bound(limit)
        return are_new

    def _look(self, categories: Sequence[str], places: Places, now_s: float) -> list[bool]:
        known, count = len(self.last_seen_s), len(categories)
        self.places = np.hstack((self.places, places))
        self.categories = np.append(self.categories, np.array(categories, object))
        self.last_seen_s = np.append(self.last_seen_s, np.full(count, now_s))
        codes = _codes(self.categories)
        with np.errstate(over="ignore", invalid="ignore"):  # a logic's numbers may be no numbers; they are like nothing
            similar = self.similar(places, self.places) & (codes[known:, None] == codes)
        is_kept = np.arange(known + count) < known
        for row, alike in enumerate(similar, start=known):  # each may be like one that came just before it
            candidates = alike & is_kept
            first = candidates.argmax()
            if candidates[first]:
                self.last_seen_s[first] = now_s
            else:
                is_kept[row] = True
        self._keep(is_kept)
        are_new: list[bool] = is_kept[known:].tolist()
        return are_new

    def forget(self, before_s: float) -> None:
        """Drop what was last seen before that time."""
        self._keep(self.last_seen_s >= before_s)

    def _bound(self, limit: int) -> None:
        if len(self.last_seen_s) > limit:
            youngest = self.last_seen_s.argsort(kind="stable")[-limit:]
            is_kept = np.zeros(len(self.last_seen_s), bool)
            is_kept[youngest] = True
            self._keep(is_kept)

    def _keep(self, is_kept: NDArray[np.bool_]) -> None:
        if not is_kept.all():
            self.places, self.categories = self.places[:, is_kept], self.categories[is_kept]
            self.last_seen_s = self.last_seen_s[is_kept]


@define
class _History:
    """What one camera has shown."""

    heard_s: float
    boxes: _Things = Factory(lambda: _Things(_similar_boxes, np.empty((4, 0))))
    points: _Things = Factory(lambda: _Things(_similar_points, np.empty((2, 0))))


@frozen
class RelevanceFilter:
    """Chooses images by what was found in them.

    Args:
        min_confidence: From here on a detection is uncertain, 0..1.
        max_confidence: Up to here.
        max_cameras: So many histories are kept.
        max_remembered: So many boxes, and so many points, are kept of each camera.
    """

    min_confidence: float
    max_confidence: float
    max_cameras: int = field(default=1000, kw_only=True)
    max_remembered: int = field(default=1000, kw_only=True)
    _histories: "OrderedDict[str | None, _History]" = field(init=False, factory=OrderedDict)

    def causes(self, camera_id: str | None, found: ImageMetadata, now_s: float) -> list[str]:
        """Why this image is worth a look: of `CAUSES`, in their order, each at most once; empty if it is not.

        Args:
            camera_id: Whose history counts, and learns of this image; None is one of its own.
            found: What was found in the image; it is not changed.
            now_s: The time, of a clock that never goes back.
        """
        history = self._history(camera_id if camera_id is None else camera_id[:_CAMERA_ID_CHARACTERS], now_s)
        holds = (
            self._has_uncertain(history, found, now_s),
            bool(found.segmentation_detections),
            _count(found) >= _UNEXPECTED_COUNT,
        )
        return [cause for cause, is_given in zip(CAUSES, holds, strict=True) if is_given]

    def _history(self, key: str | None, now_s: float) -> _History:
        """The camera's history, without what is too old; histories stand in the order in which they were heard of."""
        history = self._histories.setdefault(key, _History(now_s))
        history.heard_s = now_s
        self._histories.move_to_end(key)
        before_s = now_s - FORGET_AFTER_S
        while len(self._histories) > self.max_cameras or next(iter(self._histories.values())).heard_s < before_s:
            self._histories.popitem(last=False)
        history.boxes.forget(before_s)
        history.points.forget(before_s)
        return history

    def _has_uncertain(self, history: _History, found: ImageMetadata, now_s: float) -> bool:
        """Whether a new thing or a classification is uncertain; all things are looked at, to be remembered."""
        boxes, points = found.box_detections, found.point_detections
        corners = [(box.x, box.y, box.width, box.height) for box in boxes]
        centres = [(point.x, point.y) for point in points]
        are_new = history.boxes.look(_categories(boxes), corners, now_s, self.max_remembered)
        are_new += history.points.look(_categories(points), centres, now_s, self.max_remembered)
        confidences = [one.confidence for one in boxes] + [one.confidence for one in points]
        candidates = [*compress(confidences, are_new), *(one.confidence for one in found.classification_detections)]
        return any(self.min_confidence <= confidence <= self.max_confidence for confidence in candidates)


def _categories(detections: Sequence[BoxDetection | PointDetection]) -> list[str]:
    return [one.category_name for one in detections]


def _codes(categories: NDArray[np.object_]) -> NDArray[np.intp]:
    """A number for each, the same for the same: numbers are compared much faster."""
    known: dict[str, int] = {}
    return np.array([known.setdefault(category, len(known)) for category in categories], np.intp)


def _count(found: ImageMetadata) -> int:
    return (
        len(found.box_detections)
        + len(found.point_detections)
        + len(found.segmentation_detections)
        + len(found.classification_detections)
    )
