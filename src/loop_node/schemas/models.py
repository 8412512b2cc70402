"""A model and what it knows: the contract's `Category`, and `model.json`, the currency between nodes."""

from enum import StrEnum
from typing import Annotated, Any

from attrs import Factory, define, field, frozen

__all__ = ["Category", "CategoryType", "Context", "ModelInformation", "OneOf", "Within"]


@frozen
class Within:
    """A bound on a number, checked when it comes in: low <= number <= high."""

    low: float
    high: float

    def check(self, number: float) -> None:
        """Raise ValueError where `number` lies outside."""
        if not self.low <= number <= self.high:
            raise ValueError(f"a number from {self.low:g} to {self.high:g} is needed, not {number:g}")


@frozen
class OneOf:
    """The words a text may be, checked when it comes in."""

    words: tuple[str, ...]

    def check(self, text: str) -> None:
        """Raise ValueError where `text` is another."""
        if text not in self.words:
            raise ValueError(f"one of {', '.join(self.words)} is needed, not {text!r}")


Fraction = Annotated[float, Within(0, 1)]
Pixels = Annotated[int, Within(1, 65536)]
ResizeType = Annotated[str, OneOf(("standard", "fit_to_window", "fit_to_window_letterbox", "crop"))]
ChannelOrder = Annotated[str, OneOf(("RGB", "BGR"))]


class CategoryType(StrEnum):
    """How things of a category are marked."""

    BOX = "box"
    POINT = "point"
    SEGMENTATION = "segmentation"
    CLASSIFICATION = "classification"


@define(kw_only=True)
class Category:
    """A kind of thing, as the Learning Loop knows it; `point_size` in pixels."""

    id: str
    name: str
    description: str | None = None
    hotkey: str | None = None
    color: str | None = None
    point_size: int | None = None
    type: CategoryType | None = None


@define(kw_only=True)
class Context:
    """Whose project a node works for."""

    organization: str
    project: str


@define(kw_only=True)
class ModelInformation:
    """`model.json`: what the Learning Loop and the nodes say about a model.

    `id`, `organization`, `project`, `version`, `host` and `format` come from the Learning Loop, the rest from whoever
    made the model. Categories stand in the order of the model's output.

    Attributes:
        resolution: Side of the square the model expects, in pixels. Where it is not square: `resolution_x` and
            `resolution_y`, or `resolutions`, a list of which the first counts.
        model_root_path: The folder on this machine; never written to `model.json`.
        conf_threshold: Detections below this confidence (0..1) are dropped.
        iou_threshold: Boxes of one category that overlap more than this (0..1) count as one.
        model_type: The output layout, where the shape alone does not tell: YOLOv8, YOLOv5, YOLOX, end2end, SSD,
            Classification, YOLOv8-seg.
        resize_type: standard (stretch), fit_to_window (top left), fit_to_window_letterbox (centred) or crop.
        pad_value: Grey level (0..255) around a fitted image.
        mean_values: Subtracted per channel, in the model's channel order; then divided by `scale_values`.
        channel_order: RGB or BGR, what the model expects.
        extra: Properties we do not know; they survive a rewrite.
    """

    id: str
    host: str | None = None
    organization: str
    project: str
    version: str
    format: str | None = None
    categories: list[Category] = Factory(list)
    resolution: Pixels | None = None
    resolution_x: Pixels | None = None
    resolution_y: Pixels | None = None
    resolutions: list[int | list[int]] | None = None
    model_root_path: str | None = None
    model_size: str | None = None
    conf_threshold: Fraction | None = None
    iou_threshold: Fraction | None = None
    model_type: str | None = None
    resize_type: ResizeType | None = None
    pad_value: Annotated[int, Within(0, 255)] | None = None
    mean_values: list[float] | None = None
    scale_values: list[float] | None = None
    channel_order: ChannelOrder | None = None
    extra: dict[str, Any] = field(factory=dict)
