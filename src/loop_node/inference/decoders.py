"""A model's output arrays -> what it found, in pixels of the model's input. Pure.

Numbers that are no numbers are dropped here: a model that runs wild finds nothing, it never breaks a request.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from loop_node.errors import ModelError
from loop_node.inference.layouts import STRIDES, Layout, OutputLayout, cells

__all__ = ["MAX_CANDIDATES", "Found", "classify", "decode", "mask_logits", "suppress"]

Floats = NDArray[np.floating[Any]]

MAX_CANDIDATES = 300
"""Boxes per image that go into non-maximum suppression, the most certain first: 300 cost 4 ms at most, 2000 cost 45."""


_LARGEST_PX = 1e6  # no image is larger; what is not below it is infinite, NaN or runaway


@frozen(kw_only=True, eq=False)
class Found:
    """What a model found in one image, the most certain first.

    Attributes:
        boxes: float64, shape (n, 4): left, top, right, bottom in input pixels, unclipped.
        confidences: float64, shape (n,), 0..1.
        categories: int64, shape (n,): indices into the model's categories.
        masks: float64, shape (n, K): factors of the prototypes; None without segmentation.
        prototypes: float32, shape (K, h, w), covering the input; None without segmentation.
    """

    boxes: NDArray[np.float64]
    confidences: NDArray[np.float64]
    categories: NDArray[np.int64]
    masks: NDArray[np.float64] | None = None
    prototypes: Floats | None = None


def decode(
    found_layout: OutputLayout,
    outputs: Sequence[Floats],
    *,
    input_size: tuple[int, int],
    conf_threshold: float,
    iou_threshold: float,
) -> Found:
    """Read the boxes of any layout but classification.

    Args:
        found_layout: From `recognise`.
        outputs: The model's outputs, all of them.
        input_size: Width and height of the model's input in pixels.
        conf_threshold: Less certain boxes are dropped.
        iou_threshold: Of boxes of one category that overlap more, the most certain stays. Layouts whose graph has done
            that already (end2end, SSD) are left as they are.

    Raises:
        ModelError: A YOLOX head that does not fit its input.
    """
    array = outputs[found_layout.outputs[0]][0]
    with np.errstate(over="ignore", invalid="ignore"):
        match found_layout.layout:
            case Layout.YOLOV8:
                found = _columns(array, conf_threshold, scores_end=len(array))
            case Layout.YOLOV8_SEG:
                prototypes = outputs[found_layout.outputs[1]][0]
                found = _columns(array, conf_threshold, scores_end=len(array) - len(prototypes), prototypes=prototypes)
            case Layout.YOLOV5:
                found = _rows(array, conf_threshold)
            case Layout.YOLOX:
                found = _rows(array, conf_threshold, grid=_grid(len(array), input_size))
            case Layout.END2END:
                return _finished(array[:, :4], array[:, 4], array[:, 5], conf_threshold)
            case Layout.SSD:
                return _ssd(array[0], conf_threshold, input_size)
            case _:
                raise ValueError(f"{found_layout.layout} has no boxes")
    return _pick(found, suppress(found.boxes, found.confidences, found.categories, iou_threshold))


def classify(array: Floats) -> tuple[int, float]:
    """Read the output of a classifier, shape (1, C).

    Returns:
        The index of the most probable category, and its probability. What does not look like probabilities (each in
        0..1, sum 1 within 1 %) goes through a softmax. (0, 0.0) if the output holds no numbers.
    """
    values = np.asarray(array, np.float64).reshape(-1)
    if not np.isfinite(values).all():
        return 0, 0.0
    if values.min() < 0 or values.max() > 1 or abs(values.sum() - 1) > 0.01:
        exponentials = np.exp(values - values.max())
        values = exponentials / exponentials.sum()
    best = int(values.argmax())
    return best, float(values[best])


def suppress(
    boxes: NDArray[np.float64], confidences: NDArray[np.float64], categories: NDArray[np.int64], iou_threshold: float
) -> NDArray[np.int64]:
    """Greedy non-maximum suppression, each category by itself.

    Returns:
        Indices of the boxes that stay, the most certain first; of equals, the first.
    """
    order = np.argsort(-confidences, kind="stable")
    rivals = _overlaps(boxes[order]) > iou_threshold
    rivals &= categories[order][:, None] == categories[order][None, :]
    stays = np.ones(len(order), bool)
    for index in range(len(order)):
        if stays[index]:
            stays[index + 1 :] &= ~rivals[index, index + 1 :]
    return order[stays]


def mask_logits(found: Found, index: int) -> Floats:
    """The mask of one finding over the whole input, shape (h, w) of the prototypes: > 0 is inside.

    Raises:
        ValueError: `found` has no masks.
    """
    if found.masks is None or found.prototypes is None:
        raise ValueError("only segmentation has masks")
    factors = found.masks[index].astype(found.prototypes.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        logits: Floats = np.tensordot(factors, found.prototypes, axes=1)
    return logits


def _overlaps(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of every pair, shape (n, n); boxes without area overlap nothing."""
    left_top = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    right_bottom = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.maximum(right_bottom - left_top, 0).prod(axis=2)
    areas = np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1)
    union = areas[:, None] + areas[None, :] - shared
    overlaps: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlaps


def _columns(array: Floats, threshold: float, *, scores_end: int, prototypes: Floats | None = None) -> Found:
    """YOLOv8: a candidate per column: centre x, centre y, width, height, scores, mask factors."""
    scores = array[4:scores_end]
    best = scores.max(axis=0)
    chosen = _most_certain(best, threshold)
    return _valid(
        _corners(array[:4, chosen].T),
        best[chosen],
        scores[:, chosen].argmax(axis=0),
        masks=None if prototypes is None else array[scores_end:, chosen].T,
        prototypes=prototypes,
    )


def _rows(array: Floats, threshold: float, *, grid: NDArray[np.float64] | None = None) -> Found:
    """YOLOv5 and YOLOX: a candidate per row: centre x, centre y, width, height, objectness, scores.

    With a grid, centres count from their cell and sizes are logarithms, both in strides (Ge et al., YOLOX, 2021).
    """
    confidences = array[:, 5:].max(axis=1) * array[:, 4]
    chosen = _most_certain(confidences, threshold)
    boxes = array[chosen, :4].astype(np.float64)
    if grid is not None:
        cell, stride = grid[chosen, :2], grid[chosen, 2:]
        boxes = np.concatenate([(boxes[:, :2] + cell) * stride, np.exp(boxes[:, 2:]) * stride], axis=1)
    return _valid(_corners(boxes), confidences[chosen], array[chosen, 5:].argmax(axis=1))


def _grid(rows: int, input_size: tuple[int, int]) -> NDArray[np.float64]:
    """Column, row and stride of every cell, shape (rows, 3), stride by stride, each row by row."""
    for strides in (STRIDES, (*STRIDES, 64)):
        if cells(*input_size, strides) == rows:
            return np.concatenate([_cells_of(stride, input_size) for stride in strides])
    raise ModelError(
        f"a YOLOX head with strides {STRIDES} has {cells(*input_size)} rows "
        f"for an input of {input_size[0]}x{input_size[1]}, this output has {rows}"
    )


def _cells_of(stride: int, input_size: tuple[int, int]) -> NDArray[np.float64]:
    rows, columns = np.mgrid[: input_size[1] // stride, : input_size[0] // stride]
    return np.stack([columns.ravel(), rows.ravel(), np.full(rows.size, stride)], axis=1).astype(np.float64)


def _ssd(array: Floats, threshold: float, input_size: tuple[int, int]) -> Found:
    """SSD: image, category, confidence, left, top, right, bottom as fractions; a negative image ends the list."""
    ends = np.flatnonzero(array[:, 0] < 0)
    array = array[: ends[0]] if len(ends) else array
    return _finished(array[:, 3:7] * np.tile(input_size, 2), array[:, 2], array[:, 1], threshold)


def _finished(boxes: Floats, confidences: Floats, categories: Floats, threshold: float) -> Found:
    """Boxes that went through suppression in the graph, with a category number each."""
    numbered = np.isfinite(categories) & (categories >= 0) & (categories < 2**31)
    chosen = _most_certain(np.where(numbered, confidences, -np.inf), threshold)
    return _valid(boxes[chosen], confidences[chosen], categories[chosen])


def _most_certain(confidences: Floats, threshold: float) -> NDArray[np.int64]:
    """Indices of at most MAX_CANDIDATES entries over the threshold, the most certain first; what is NaN is not."""
    chosen = np.flatnonzero(confidences >= threshold)
    order = np.argsort(-confidences[chosen], kind="stable")[:MAX_CANDIDATES]
    return chosen[order]


def _corners(boxes: Floats) -> NDArray[np.float64]:
    """(n, 4) centre x, centre y, width, height -> left, top, right, bottom."""
    boxes = np.asarray(boxes, np.float64)
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def _valid(
    boxes: Floats,
    confidences: Floats,
    categories: NDArray[Any],
    *,
    masks: Floats | None = None,
    prototypes: Floats | None = None,
) -> Found:
    """Drop boxes without finite corners; confidences a rounding error above 1 become 1."""
    found = Found(
        boxes=np.asarray(boxes, np.float64),
        confidences=np.minimum(np.asarray(confidences, np.float64), 1.0),
        categories=np.asarray(categories).astype(np.int64),
        masks=None if masks is None else np.asarray(masks, np.float64),
        prototypes=prototypes,
    )
    return _pick(found, np.flatnonzero((np.abs(found.boxes) < _LARGEST_PX).all(axis=1) & np.isfinite(confidences)))


def _pick(found: Found, chosen: NDArray[np.int64]) -> Found:
    return Found(
        boxes=found.boxes[chosen],
        confidences=found.confidences[chosen],
        categories=found.categories[chosen],
        masks=None if found.masks is None else found.masks[chosen],
        prototypes=found.prototypes,
    )
