"""PURE. Annotations that no image can have: without a surface, or nowhere on it. A box may be cut by an edge."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from loop_node.errors import SchemaError
from loop_node.schemas.detections import Shape
from loop_node.schemas.local_loop import AnnotationSet

__all__ = ["refuse_impossible"]

_MAX_NAMED: Final = 20
_LEAST_CORNERS: Final = 3


def refuse_impossible(given: AnnotationSet, width_px: int, height_px: int) -> None:
    """Refuse annotations that an image of this size, upright, cannot have.

    Raises:
        SchemaError: The first 20 of them, each with its place.
    """
    problems = list(islice(_problems(given, width_px, height_px), _MAX_NAMED))
    if problems:
        raise SchemaError(problems)


def _problems(given: AnnotationSet, width_px: int, height_px: int) -> Iterator[str]:
    outside = f"lies outside of the image, which has {width_px} x {height_px} pixels"
    for index, box in enumerate(given.box_annotations):
        place = f"box_annotations[{index}]"
        if box.width <= 0 or box.height <= 0:
            yield f"{place}: width and height must be above 0, not {box.width} and {box.height}"
        elif not _touches(box.x, box.y, box.x + box.width, box.y + box.height, width_px, height_px):
            yield f"{place}: {outside}"
    for index, point in enumerate(given.point_annotations):
        if not (0 <= point.x <= width_px and 0 <= point.y <= height_px):
            yield f"point_annotations[{index}]: {outside}"
    for index, outline in enumerate(given.segmentation_annotations):
        place = f"segmentation_annotations[{index}].shape"
        try:
            x, y = _corners(outline.shape)
        except ValueError:
            yield f"{place}: points or their flat form `x1,y1,x2,y2,x3,y3` are needed"
            continue
        if len(x) < _LEAST_CORNERS:
            yield f"{place}: an outline has {_LEAST_CORNERS} points or more, {len(x)} came"
        elif not _touches(min(x), min(y), max(x), max(y), width_px, height_px):
            yield f"{place}: {outside}"


def _touches(left: float, top: float, right: float, bottom: float, width_px: int, height_px: int) -> bool:
    return left < width_px and top < height_px and right > 0 and bottom > 0


def _corners(shape: Shape | str) -> tuple[Sequence[float], Sequence[float]]:
    if isinstance(shape, Shape):
        return [point.x for point in shape.points], [point.y for point in shape.points]
    numbers = [float(number) for number in shape.split(",")]
    if len(numbers) % 2:
        raise ValueError(shape)
    return numbers[::2], numbers[1::2]
