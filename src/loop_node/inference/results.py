"""What a model found, in input pixels -> the contract's detections, in image pixels. Pure."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loop_node.inference.decoders import Found, mask_logits
from loop_node.inference.description import ModelDescription, numbered_category
from loop_node.inference.outlines import enlarge, outline, simplify
from loop_node.inference.preprocessing import Geometry
from loop_node.schemas.detections import (
    BoxDetection,
    ClassificationDetection,
    ImageMetadata,
    Point,
    PointDetection,
    SegmentationDetection,
    Shape,
)
from loop_node.schemas.models import Category, CategoryType

__all__ = ["classification_metadata", "found_metadata"]

_TOLERANCE_PX = 0.75  # of polygons, in input pixels: smooths the stairs of a slope, keeps a side in its place

Corners = tuple[float, float, float, float]


def classification_metadata(
    number: int, confidence: float, description: ModelDescription, model_name: str
) -> ImageMetadata:
    """The category of a whole image; nothing if it is less certain than the threshold."""
    metadata = ImageMetadata(created=None)
    if confidence >= description.conf_threshold:
        category = _category(description, number)
        metadata.classification_detections.append(
            ClassificationDetection(
                category_name=category.name, model_name=model_name, confidence=confidence, category_id=category.id
            )
        )
    return metadata


def found_metadata(found: Found, geometry: Geometry, description: ModelDescription, model_name: str) -> ImageMetadata:
    """Boxes, points and outlines, clipped to the image; what lies outside of it is dropped.

    A category's type decides: `point` takes the centre of the box, `segmentation` the outline of the mask, where the
    model has masks; all else is a box.
    """
    metadata = ImageMetadata(created=None)
    corners = geometry.clip(geometry.to_image(found.boxes.reshape(-1, 2, 2))).reshape(-1, 4)
    for index, (left, top, right, bottom) in enumerate(corners.tolist()):
        if right <= left or bottom <= top:
            continue
        category = _category(description, int(found.categories[index]))
        _add(metadata, category, found, index, (left, top, right, bottom), geometry, model_name)
    return metadata


def _category(description: ModelDescription, number: int) -> Category:
    """A number beyond the known categories (lists of finished boxes may hold any) names itself: nothing is lost."""
    if 0 <= number < len(description.categories):
        return description.categories[number]
    return numbered_category(number, description.output.layout)


def _add(
    metadata: ImageMetadata,
    category: Category,
    found: Found,
    index: int,
    corners: Corners,
    geometry: Geometry,
    model_name: str,
) -> None:
    left, top, right, bottom = corners
    name, id_, confidence = category.name, category.id, float(found.confidences[index])
    if category.type is CategoryType.POINT:
        metadata.point_detections.append(
            PointDetection(
                category_name=name,
                x=(left + right) / 2,
                y=(top + bottom) / 2,
                model_name=model_name,
                confidence=confidence,
                category_id=id_,
            )
        )
    elif found.masks is not None and category.type is not CategoryType.BOX:
        metadata.segmentation_detections.append(
            SegmentationDetection(
                category_name=name,
                shape=_shape(found, index, corners, geometry),
                model_name=model_name,
                confidence=confidence,
                category_id=id_,
            )
        )
    else:
        metadata.box_detections.append(_box(name, id_, confidence, corners, geometry, model_name))


def _box(name: str, id_: str, confidence: float, corners: Corners, geometry: Geometry, model_name: str) -> BoxDetection:
    """Whole pixels, at least one wide and high."""
    left, right = _whole(corners[0], corners[2], geometry.image_width)
    top, bottom = _whole(corners[1], corners[3], geometry.image_height)
    return BoxDetection(
        category_name=name,
        x=left,
        y=top,
        width=right - left,
        height=bottom - top,
        model_name=model_name,
        confidence=confidence,
        category_id=id_,
    )


def _whole(low: float, high: float, size: int) -> tuple[int, int]:
    start = min(round(low), size - 1)
    return start, max(round(high), start + 1)


def _shape(found: Found, index: int, corners: Corners, geometry: Geometry) -> Shape:
    """The outline of the mask inside its box; the box itself if the mask has none."""
    polygon = _mask_polygon(mask_logits(found, index), found.boxes[index], geometry)
    if polygon is not None:
        points = geometry.clip(geometry.to_image(polygon)).round().astype(int)
        points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
        if len(points) >= 3:
            return Shape(points=[Point(x=x, y=y) for x, y in points.tolist()])
    left, top, right, bottom = (round(corner) for corner in corners)
    return Shape(
        points=[Point(x=left, y=top), Point(x=right, y=top), Point(x=right, y=bottom), Point(x=left, y=bottom)]
    )


def _mask_polygon(
    logits: NDArray[np.floating[Any]], box: NDArray[np.float64], geometry: Geometry
) -> NDArray[np.float64] | None:
    """Trace the mask at the input's resolution, in the part that the box covers; in input pixels."""
    rows, columns = logits.shape
    step_x, step_y = geometry.input_width / columns, geometry.input_height / rows
    # one prototype pixel more on each side, for the interpolation
    first_column, last_column = _span(box[0] / step_x, box[2] / step_x, columns)
    first_row, last_row = _span(box[1] / step_y, box[3] / step_y, rows)
    part = logits[first_row:last_row, first_column:last_column]
    if part.size == 0 or not np.isfinite(part).all():
        return None
    width, height = round(part.shape[1] * step_x), round(part.shape[0] * step_y)
    offset = np.array([first_column * step_x, first_row * step_y])
    mask = enlarge(part, (width, height)) > 0
    mask &= _inside(np.arange(height) + offset[1] + 0.5, box[1], box[3])[:, None]
    mask &= _inside(np.arange(width) + offset[0] + 0.5, box[0], box[2])[None, :]
    traced = outline(mask)
    return None if traced is None else simplify(traced, _TOLERANCE_PX) + offset


def _span(low: float, high: float, size: int) -> tuple[int, int]:
    clipped = np.clip([low, high], 0, size)
    return max(0, math.floor(clipped[0]) - 1), min(size, math.ceil(clipped[1]) + 1)


def _inside(positions: NDArray[np.float64], low: float, high: float) -> NDArray[np.bool_]:
    return (positions >= low) & (positions <= high)
