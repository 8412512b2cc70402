"""Pixel resampling by Pillow: bilinear with an area that grows with the reduction, so that small things survive."""

import numpy as np
from PIL import Image

from loop_node.inference.preprocessing import Pixels

__all__ = ["resample"]

# Reduces by the whole factor first (2.8 instead of 5.8 ms for 1280x720 to 416x234) and resamples the rest.
_REDUCING_GAP = 1.0


def resample(image: Pixels, box: tuple[float, float, float, float], size: tuple[int, int]) -> Pixels:
    """Scale the part `box` (left, top, right, bottom) of an image (H, W, 3) to `size` (width, height)."""
    resized = Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, box=box, reducing_gap=_REDUCING_GAP)
    return np.asarray(resized)
