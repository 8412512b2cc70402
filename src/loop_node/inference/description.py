"""What is known about a model from all that describes it, merged into one frozen description. Pure.

For each property the first that says something wins: the operator (thresholds only), `model.json`, the IR's rt_info
`model_info` (the convention of Intel's Model API), the ONNX metadata that Ultralytics writes, the habits of the layout
(`_HABITS`). Categories that are named by rt_info or ONNX metadata, or only numbered, get an id that depends on the name
alone (a UUID of version 5), so that it survives restarts and new versions.
"""

import ast
import math
import re
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, TypeVar
from uuid import UUID, uuid5

from attrs import Factory, frozen

from loop_node.errors import ModelError
from loop_node.inference.layouts import Layout, OutputLayout, OutputShape, read_layout, recognise
from loop_node.inference.preprocessing import ResizeType
from loop_node.schemas.models import Category, CategoryType, ModelInformation

__all__ = [
    "DEFAULT_CONF_THRESHOLD",
    "DEFAULT_IOU_THRESHOLD",
    "ChannelOrder",
    "Declarations",
    "ModelDescription",
    "declared_resolution",
    "describe",
    "numbered_category",
]

DEFAULT_CONF_THRESHOLD = 0.2
DEFAULT_IOU_THRESHOLD = 0.45

_NAMESPACE = UUID("6d1ae6a7-1b4e-5d0a-9a34-0b2f1b6f2c55")
_LAYOUT_OF_TASK = {"segment": Layout.YOLOV8_SEG, "classify": Layout.CLASSIFICATION}
_UNSUPPORTED_TASKS = ("pose", "obb")
_MARKINGS = {Layout.CLASSIFICATION: CategoryType.CLASSIFICATION, Layout.YOLOV8_SEG: CategoryType.SEGMENTATION}

_T = TypeVar("_T")


class ChannelOrder(StrEnum):
    """The order of the colours in the model's input."""

    RGB = "RGB"
    BGR = "BGR"


@frozen(kw_only=True)
class _Habits:
    """How models of a layout are usually fed, where nobody says."""

    resize_type: ResizeType = ResizeType.LETTERBOX
    pad_value: int = 114
    scale: float = 255.0
    channel_order: ChannelOrder = ChannelOrder.RGB


_HABITS = {
    Layout.YOLOX: _Habits(resize_type=ResizeType.FIT_TO_WINDOW, scale=1.0, channel_order=ChannelOrder.BGR),
    Layout.SSD: _Habits(resize_type=ResizeType.STANDARD, pad_value=0, scale=1.0),
    Layout.CLASSIFICATION: _Habits(resize_type=ResizeType.STANDARD, pad_value=0),
}

_ULTRALYTICS_HABITS = {Layout.CLASSIFICATION: _Habits(resize_type=ResizeType.CROP)}


@frozen(kw_only=True)
class Declarations:
    """Everything that describes a model beside its graph.

    Attributes:
        information: `model.json`, if there is one.
        model_info: rt_info `model_info`: strings, numbers, booleans or lists of them.
        onnx_metadata: The metadata properties of an ONNX file.
        conf_threshold: What the operator set, 0..1.
        iou_threshold: What the operator set, 0..1.
    """

    information: ModelInformation | None = None
    model_info: Mapping[str, Any] = Factory(dict)
    onnx_metadata: Mapping[str, str] = Factory(dict)
    conf_threshold: float | None = None
    iou_threshold: float | None = None

    def model_json(self, name: str) -> Any:
        """A property of `model.json`; None if it is not there."""
        return getattr(self.information, name, None)

    @property
    def by_ultralytics(self) -> bool:
        """Whether the ONNX metadata is that of Ultralytics: its models want RGB, 0..1, letterboxed with grey 114."""
        return "names" in self.onnx_metadata and not {"task", "stride", "imgsz"}.isdisjoint(self.onnx_metadata)


@frozen(kw_only=True)
class ModelDescription:
    """How to feed a model and how to read it.

    Attributes:
        output: The layout of its outputs.
        input_size: Width and height of its input in pixels.
        categories: In the order of the output; empty where the layout does not say how many and nobody names them.
        conf_threshold: Less certain findings are dropped, 0..1.
        iou_threshold: Boxes of one category that overlap more count as one, 0..1.
        resize_type: How images are fitted.
        pad_value: Grey level around fitted images, 0..255.
        mean_values: Subtracted per channel in the model's order; empty for nothing.
        scale_values: Then divided by; empty for nothing.
        channel_order: Of the input.
    """

    output: OutputLayout
    input_size: tuple[int, int]
    categories: tuple[Category, ...]
    conf_threshold: float
    iou_threshold: float
    resize_type: ResizeType
    pad_value: int
    mean_values: tuple[float, ...]
    scale_values: tuple[float, ...]
    channel_order: ChannelOrder


def declared_resolution(declarations: Declarations) -> tuple[int, int] | None:
    """Width and height in pixels that `model.json` or the ONNX metadata names, for models of any input size.

    Raises:
        ModelError: It is there, but is no size.
    """
    information = declarations.information
    if information is not None:
        if information.resolution_x is not None and information.resolution_y is not None:
            return _size("resolution_x, resolution_y", (information.resolution_x, information.resolution_y))
        if information.resolution is not None:
            return _size("resolution", (information.resolution, information.resolution))
        if information.resolutions:
            first = information.resolutions[0]
            return _size("resolutions", first if isinstance(first, list) else (first, first))
    if "imgsz" in declarations.onnx_metadata:
        size = _literal("imgsz", declarations.onnx_metadata["imgsz"])
        return _size("imgsz", list(reversed(size)) if isinstance(size, (list, tuple)) else (size, size))
    return None


def describe(
    declarations: Declarations,
    *,
    input_size: tuple[int, int],
    output_shapes: Sequence[OutputShape],
    input_is_uint8: bool = False,
) -> ModelDescription:
    """Merge what is said about a model with what its graph shows.

    Args:
        declarations: What is said.
        input_size: Width and height of the input in pixels.
        output_shapes: One per output.
        input_is_uint8: The graph takes bytes, so it scales them itself unless somebody says otherwise.

    Raises:
        ModelError: A property is of no use, the outputs fit no layout, or the categories do not fit the outputs.
    """
    given = tuple(declarations.information.categories) if declarations.information is not None else ()
    names = () if given else _names(declarations)
    output = recognise(
        output_shapes,
        input_size=input_size,
        declared=_declared_layout(declarations),
        categories=len(given or names) or None,
    )
    names = names or tuple(str(number) for number in range(output.categories or 0))
    habits = (_ULTRALYTICS_HABITS if declarations.by_ultralytics else _HABITS).get(output.layout, _Habits())
    return ModelDescription(
        output=output,
        input_size=input_size,
        categories=given or tuple(_made_up_category(name, output.layout) for name in names),
        conf_threshold=_threshold(declarations, "conf_threshold", "confidence_threshold", DEFAULT_CONF_THRESHOLD),
        iou_threshold=_threshold(declarations, "iou_threshold", "iou_threshold", DEFAULT_IOU_THRESHOLD),
        resize_type=_said(declarations, "resize_type", "resize_type", _resize_type) or habits.resize_type,
        pad_value=_first(_said(declarations, "pad_value", "pad_value", _grey), habits.pad_value),
        mean_values=_said(declarations, "mean_values", "mean_values", _per_channel) or (),
        scale_values=_first(
            _said(declarations, "scale_values", "scale_values", _divisors),
            () if input_is_uint8 else (habits.scale,) * 3,
        ),
        channel_order=_channel_order(declarations) or habits.channel_order,
    )


def numbered_category(number: int, layout: Layout) -> Category:
    """The category of an output that nobody named."""
    return _made_up_category(str(number), layout)


def _made_up_category(name: str, layout: Layout) -> Category:
    marking = _MARKINGS.get(layout, CategoryType.BOX)
    return Category(id=str(uuid5(_NAMESPACE, name)), name=name, type=marking)


def _declared_layout(declarations: Declarations) -> Layout | None:
    name = declarations.model_json("model_type") or declarations.model_info.get("model_type")
    layout = read_layout(str(name)) if name else None
    if layout is not None or not declarations.by_ultralytics:
        return layout
    task = declarations.onnx_metadata.get("task", "detect")
    if task in _UNSUPPORTED_TASKS:
        raise ModelError(f"a model for the task {task!r} is not supported; supported are detect, segment, classify")
    return _LAYOUT_OF_TASK.get(task)


def _names(declarations: Declarations) -> tuple[str, ...]:
    if declarations.model_info.get("labels"):
        return tuple(label.replace("_", " ") for label in _words(declarations.model_info["labels"]))
    if "names" in declarations.onnx_metadata:
        return tuple(_numbered_names(_literal("names", declarations.onnx_metadata["names"])))
    return ()


def _numbered_names(names: Any) -> list[str]:
    if isinstance(names, (list, tuple)):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or sorted(names, key=str) != sorted(range(len(names)), key=str):
        raise ModelError("names in the ONNX metadata must be a list, or a dict with the keys 0, 1, 2, ...")
    return [str(names[number]) for number in range(len(names))]


def _channel_order(declarations: Declarations) -> ChannelOrder | None:
    order = declarations.model_json("channel_order")
    if order is not None:
        if str(order).upper() not in list(ChannelOrder):
            raise ModelError(f"channel_order is {order!r}; it must be RGB or BGR")
        return ChannelOrder(str(order).upper())
    reverse = declarations.model_info.get("reverse_input_channels")
    if reverse in (None, ""):
        return None
    # our images are RGB: to reverse one means that the model wants BGR
    return ChannelOrder.BGR if str(reverse).lower() in ("true", "yes", "1") else ChannelOrder.RGB


def _said(declarations: Declarations, ours: str, theirs: str, read: Callable[[str, Any], _T]) -> _T | None:
    """A property of `model.json`, else of rt_info; an empty text or list says nothing."""
    for name, value in (
        (f"{ours} in model.json", declarations.model_json(ours)),
        (f"{theirs} in rt_info", declarations.model_info.get(theirs)),
    ):
        if value not in (None, "", []):
            return read(name, value)
    return None


def _first(value: _T | None, otherwise: _T) -> _T:
    return otherwise if value is None else value


def _threshold(declarations: Declarations, ours: str, theirs: str, otherwise: float) -> float:
    explicit: float | None = getattr(declarations, ours)
    if explicit is not None:
        return explicit
    return _first(_said(declarations, ours, theirs, _fraction), otherwise)


def _fraction(name: str, value: Any) -> float:
    number = _numbers(name, value)
    if len(number) != 1 or not 0 <= number[0] <= 1:
        raise ModelError(f"{name} is {value!r}; it must be a number from 0 to 1")
    return number[0]


def _grey(name: str, value: Any) -> int:
    number = _numbers(name, value)
    if len(number) != 1 or not 0 <= number[0] <= 255:
        raise ModelError(f"{name} is {value!r}; it must be a grey level from 0 to 255")
    return round(number[0])


def _resize_type(name: str, value: Any) -> ResizeType:
    try:
        return ResizeType(str(value).lower())
    except ValueError:
        raise ModelError(f"{name} is {value!r}; it must be one of {', '.join(ResizeType)}") from None


def _per_channel(name: str, value: Any) -> tuple[float, ...]:
    numbers = _numbers(name, value)
    if len(numbers) not in (1, 3) or not all(map(math.isfinite, numbers)):
        raise ModelError(f"{name} is {value!r}; it must be one number, or three")
    return tuple(numbers * 3)[:3]


def _divisors(name: str, value: Any) -> tuple[float, ...]:
    numbers = _per_channel(name, value)
    if 0 in numbers:
        raise ModelError(f"{name} is {value!r}; nothing can be divided by 0")
    return numbers


def _numbers(name: str, value: Any) -> list[float]:
    try:
        return [float(word) for word in _words(value)]
    except ValueError:
        raise ModelError(f"{name} is {value!r}; it must be a number, or several with spaces between") from None


def _words(value: Any) -> list[str]:
    """Lists arrive as lists, as one string with spaces, or as numbers."""
    if isinstance(value, (list, tuple)):
        return [str(item) for item in value]
    return [word for word in re.split(r"[\s,]+", str(value)) if word]


def _literal(name: str, text: str) -> Any:
    """A Python literal, as Ultralytics writes them."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise ModelError(f"{name} in the ONNX metadata is no Python literal: {text[:80]!r}") from None


def _size(name: str, size: Any) -> tuple[int, int]:
    if len(size) != 2 or not all(isinstance(side, int) and 0 < side <= 8192 for side in size):
        raise ModelError(f"{name} is {size!r}; it must be one or two whole numbers of pixels from 1 to 8192")
    return size[0], size[1]
