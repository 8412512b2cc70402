"""Which output layout a model has: declared by name, or recognised by the shape of its outputs. Pure.

A shape is recognised only if exactly one layout explains it; otherwise the model is refused with the list of what is
known, because a wrong guess looks like a model that sees nothing.
"""

import re
from collections.abc import Sequence
from enum import StrEnum

from attrs import frozen

from loop_node.errors import ModelError

__all__ = ["KNOWN_LAYOUTS", "STRIDES", "Layout", "OutputLayout", "OutputShape", "cells", "read_layout", "recognise"]

OutputShape = tuple[int | None, ...]
"""Dimensions of an output; None is dynamic."""


class Layout(StrEnum):
    """How a model writes down what it found; the names are those of `model_type`."""

    YOLOV8 = "YOLOv8"
    YOLOV5 = "YOLOv5"
    YOLOX = "YOLOX"
    END2END = "end2end"
    SSD = "SSD"
    CLASSIFICATION = "Classification"
    YOLOV8_SEG = "YOLOv8-seg"


KNOWN_LAYOUTS = (
    "YOLOv8 [1,4+categories,N], YOLOv5 [1,N,5+categories], YOLOX [1,N,5+categories] (only if declared), "
    "end2end [1,N,6], SSD [1,1,N,7], Classification [1,categories], "
    "YOLOv8-seg [1,4+categories+K,N] with prototypes [1,K,h,w]"
)

_SPELLINGS: dict[str, Layout | None] = {
    "yolo": None,  # Ultralytics writes this for all its models: the shape has to tell
    "yolov8": Layout.YOLOV8,
    "yolov9": Layout.YOLOV8,
    "yolov11": Layout.YOLOV8,
    "yolov12": Layout.YOLOV8,
    "yolov5": Layout.YOLOV5,
    "yolov7": Layout.YOLOV5,
    "yolox": Layout.YOLOX,
    "end2end": Layout.END2END,
    "yolov10": Layout.END2END,
    "ssd": Layout.SSD,
    "detectionoutput": Layout.SSD,
    "classification": Layout.CLASSIFICATION,
    "yolov8seg": Layout.YOLOV8_SEG,
    "yolov9seg": Layout.YOLOV8_SEG,
    "yolov11seg": Layout.YOLOV8_SEG,
    "yolov12seg": Layout.YOLOV8_SEG,
}

STRIDES = (8, 16, 32)
_CURE = f"set model_type in model.json to one of: {KNOWN_LAYOUTS}"
_MOST_END2END_ROWS = 1000  # exporters write 100 or 300


def read_layout(name: str) -> Layout | None:
    """Read a `model_type` in any usual spelling (`yolo11`, `YOLO_v8`, `ssd`); None means that the shape has to tell.

    Raises:
        ModelError: Nothing we know is called that.
    """
    key = re.sub(r"^yolo(?=\d)", "yolov", re.sub(r"[^a-z0-9]", "", name.lower()))
    if key not in _SPELLINGS:
        raise ModelError(f"model_type {name!r} is unknown; known are {', '.join(Layout)}")
    return _SPELLINGS[key]


@frozen(kw_only=True)
class OutputLayout:
    """A layout and where it is in the model's outputs.

    Attributes:
        layout: Its kind.
        categories: How many categories the output has room for; None where the shape does not say.
        outputs: Indices of the outputs that matter; for segmentation detections first, then prototypes.
    """

    layout: Layout
    categories: int | None
    outputs: tuple[int, ...]


def cells(width: int, height: int, strides: Sequence[int] = STRIDES) -> int:
    """How many grid cells a detection head of these strides has for an input of `width` x `height` pixels."""
    return sum((width // stride) * (height // stride) for stride in strides)


def recognise(
    shapes: Sequence[OutputShape],
    *,
    input_size: tuple[int, int],
    declared: Layout | None = None,
    categories: int | None = None,
) -> OutputLayout:
    """Find the layout of a model's outputs.

    Args:
        shapes: One per output.
        input_size: Width and height of the model's input in pixels; tells grids from lists.
        declared: What `model_type` says.
        categories: How many categories are known, if they are known.

    Raises:
        ModelError: No layout, or more than one, explains the outputs; or the number of categories does not.
    """
    possible = _declared(declared, shapes) if declared is not None else _undeclared(shapes, input_size)
    matching = [found for found in possible if categories is None or found.categories in (None, categories)]
    if not matching:
        raise _miscounted(possible, shapes, categories)
    if declared is not None:
        return matching[0]
    return _decide(matching, shapes, input_size)


def _declared(layout: Layout, shapes: Sequence[OutputShape]) -> list[OutputLayout]:
    found = _segmentation(shapes) if layout is Layout.YOLOV8_SEG else _fits(layout, shapes)
    if not found:
        raise ModelError(f"model_type says {layout}, but the output is {_spell(shapes)}; known are {KNOWN_LAYOUTS}")
    return found


def _undeclared(shapes: Sequence[OutputShape], input_size: tuple[int, int]) -> list[OutputLayout]:
    found = _segmentation(shapes)
    if len(shapes) == 1:
        found = [fit for layout in Layout for fit in _fits(layout, shapes) if _believable(fit, shapes[0], input_size)]
    if not found:
        raise ModelError(f"no known layout explains the output {_spell(shapes)}; {_CURE}")
    return found


def _decide(found: list[OutputLayout], shapes: Sequence[OutputShape], input_size: tuple[int, int]) -> OutputLayout:
    """Choose by the number of rows, which a head shares with its grid; never guess."""
    fitting = found if len(found) == 1 else [fit for fit in found if _on_grid(fit, shapes[0], input_size)]
    if len(fitting) != 1 or fitting[0].layout is Layout.YOLOX:
        names = " or ".join(fit.layout for fit in found)
        raise ModelError(f"the output {_spell(shapes)} could be {names}; {_CURE}")
    return fitting[0]


def _segmentation(shapes: Sequence[OutputShape]) -> list[OutputLayout]:
    if sorted(len(shape) for shape in shapes) != [3, 4]:
        return []
    rows, prototypes = sorted(range(2), key=lambda index: len(shapes[index]))
    length, coefficients = shapes[rows][1], shapes[prototypes][1]
    if length is None or coefficients is None or length - 4 - coefficients < 1:
        return []
    count = length - 4 - coefficients
    return [OutputLayout(layout=Layout.YOLOV8_SEG, categories=count, outputs=(rows, prototypes))]


def _fits(layout: Layout, shapes: Sequence[OutputShape]) -> list[OutputLayout]:
    """Every output that the layout explains, whatever the number of categories."""
    explained = ((index, _explain(layout, shape)) for index, shape in enumerate(shapes))
    return [OutputLayout(layout=layout, categories=fit[0], outputs=(index,)) for index, fit in explained if fit]


def _explain(layout: Layout, shape: OutputShape) -> tuple[int | None] | None:
    """The number of categories in a tuple of one, or None if the layout does not explain the shape."""
    match layout, shape:
        case Layout.YOLOV8, (1 | None, int(rows), _) if rows >= 5:
            return (rows - 4,)
        case ((Layout.YOLOV5 | Layout.YOLOX), (1 | None, _, int(columns))) if columns >= 6:
            return (columns - 5,)
        case (Layout.END2END, (1 | None, _, 6)) | (Layout.SSD, (1 | None, 1, _, 7)):
            return (None,)
        case Layout.CLASSIFICATION, (1 | None, int(columns)) if columns >= 2:
            return (columns,)
    return None


def _grids(input_size: tuple[int, int]) -> tuple[int, ...]:
    return cells(*input_size), cells(*input_size, (*STRIDES, 64))


def _believable(fit: OutputLayout, shape: OutputShape, input_size: tuple[int, int]) -> bool:
    """A raw YOLOX head has exactly a row per cell; a list of finished boxes has no reason to."""
    grids = _grids(input_size)
    if fit.layout is Layout.YOLOX:
        return shape[1] in grids
    if fit.layout is Layout.END2END:
        return shape[1] not in (*grids, *(3 * count for count in grids))
    return True


def _on_grid(fit: OutputLayout, shape: OutputShape, input_size: tuple[int, int]) -> bool:
    match fit.layout:
        case Layout.YOLOV8:
            return shape[2] in _grids(input_size)
        case Layout.YOLOV5:
            return shape[1] in [3 * count for count in _grids(input_size)]
        case Layout.END2END:
            return shape[1] is None or shape[1] <= _MOST_END2END_ROWS
        case _:
            return True


def _miscounted(fits: Sequence[OutputLayout], shapes: Sequence[OutputShape], known: int | None) -> ModelError:
    has = " or ".join(f"{fit.categories} (read as {fit.layout})" for fit in fits)
    return ModelError(f"{known} categories are given, but the output {_spell(shapes)} has {has}")


def _spell(shapes: Sequence[OutputShape]) -> str:
    return " and ".join("[" + ",".join("?" if side is None else str(side) for side in shape) + "]" for shape in shapes)
