"""Images onto the model's input, and coordinates back: pure geometry, the resampling itself is passed in.

Coordinates are continuous: (0, 0) is the top left corner of the top left pixel, (width, height) the bottom right corner
of the last one. That is the convention of half-pixel centred resampling, so boxes map by scale and offset alone.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Any

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

__all__ = ["Geometry", "Pixels", "Resample", "ResizeType", "fit", "prepare"]

Pixels = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]

Resample = Callable[[Pixels, tuple[float, float, float, float], tuple[int, int]], Pixels]
"""(image (H, W, 3), box (left, top, right, bottom) in its pixels, (width, height)) -> uint8, (height, width, 3)."""


class ResizeType(StrEnum):
    """How an image is brought to the size a model expects; names as in Intel's Model API."""

    STANDARD = "standard"
    """Stretched to the input, aspect ignored."""
    FIT_TO_WINDOW = "fit_to_window"
    """Aspect kept, top left, padded at the right or the bottom."""
    LETTERBOX = "fit_to_window_letterbox"
    """Aspect kept, centred, padded on both sides."""
    CROP = "crop"
    """The largest centred part of the input's aspect, stretched to the input; what lies outside is not seen."""


@frozen(kw_only=True)
class Geometry:
    """Which part of an image lands where in the model's input.

    Attributes:
        image_width: Width of the image in pixels.
        image_height: Height of the image in pixels.
        input_width: Width of the model's input in pixels.
        input_height: Height of the model's input in pixels.
        source: Part of the image that is used: left, top, right, bottom, in image pixels.
        target: Where it lands: left, top, width, height, in whole input pixels.
    """

    image_width: int
    image_height: int
    input_width: int
    input_height: int
    source: tuple[float, float, float, float]
    target: tuple[int, int, int, int]

    @property
    def scale(self) -> tuple[float, float]:
        """Image pixels per input pixel, horizontally and vertically."""
        left, top, right, bottom = self.source
        _, _, width, height = self.target
        return (right - left) / width, (bottom - top) / height

    def to_image(self, points: Floats) -> NDArray[np.float64]:
        """Map points (..., 2) as x, y from input pixels to image pixels, unclipped."""
        return (np.asarray(points, np.float64) - self.target[:2]) * self.scale + self.source[:2]

    def to_input(self, points: Floats) -> NDArray[np.float64]:
        """Map points (..., 2) as x, y from image pixels to input pixels."""
        return (np.asarray(points, np.float64) - self.source[:2]) / self.scale + self.target[:2]

    def clip(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Move points (..., 2) outside the image to its border."""
        return np.clip(points, 0.0, (self.image_width, self.image_height))


def fit(resize_type: ResizeType, image_size: tuple[int, int], input_size: tuple[int, int]) -> Geometry:
    """Lay out an image of `image_size` in an input of `input_size`, both (width, height) in pixels."""
    image_width, image_height = image_size
    input_width, input_height = input_size
    source = (0.0, 0.0, float(image_width), float(image_height))
    target = (0, 0, input_width, input_height)
    if resize_type is ResizeType.CROP:
        source = _centred_part(image_size, input_size)
    elif resize_type is not ResizeType.STANDARD:
        target = _fitted(image_size, input_size, centred=resize_type is ResizeType.LETTERBOX)
    return Geometry(
        image_width=image_width,
        image_height=image_height,
        input_width=input_width,
        input_height=input_height,
        source=source,
        target=target,
    )


def _fitted(image_size: tuple[int, int], input_size: tuple[int, int], *, centred: bool) -> tuple[int, int, int, int]:
    scale = min(input_size[0] / image_size[0], input_size[1] / image_size[1])
    width, height = (max(1, min(room, round(side * scale))) for side, room in zip(image_size, input_size, strict=True))
    if not centred:
        return 0, 0, width, height
    return (input_size[0] - width) // 2, (input_size[1] - height) // 2, width, height


def _centred_part(image_size: tuple[int, int], input_size: tuple[int, int]) -> tuple[float, float, float, float]:
    scale = min(image_size[0] / input_size[0], image_size[1] / input_size[1])
    width, height = input_size[0] * scale, input_size[1] * scale
    left, top = (image_size[0] - width) / 2, (image_size[1] - height) / 2
    return (
        max(0.0, left),
        max(0.0, top),
        min(float(image_size[0]), left + width),
        min(float(image_size[1]), top + height),
    )


def prepare(image: Pixels, geometry: Geometry, *, pad_value: int, resample: Resample, out: Pixels) -> None:
    """Fill the model's input.

    Args:
        image: uint8, shape (H, W, 3), as `geometry` was made for.
        geometry: From `fit`.
        pad_value: Grey level 0..255 around a fitted image.
        resample: Does the pixel work.
        out: Written to: uint8, shape (input_height, input_width, 3).
    """
    left, top, width, height = geometry.target
    if (width, height) != (geometry.input_width, geometry.input_height):
        out.fill(pad_value)
    whole = (0.0, 0.0, float(width), float(height))
    same = geometry.source == whole and image.shape[:2] == (height, width)
    out[top : top + height, left : left + width] = image if same else resample(image, geometry.source, (width, height))
