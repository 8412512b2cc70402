"""Drawn images, and marks on them, for synthetic projects: the same seed gives the same, everywhere and always."""

import random
from collections.abc import Sequence
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

import numpy as np
from numpy.typing import NDArray

from loop_node.images import encode_jpeg
from loop_node.schemas.detections import BoxDetection, Detections, Point, Shape
from loop_node.schemas.local_loop import (
    AnnotationSet,
    BoxAnnotationIn,
    ClassificationAnnotationIn,
    PointAnnotationIn,
    SegmentationAnnotationIn,
)
from loop_node.schemas.models import Category, CategoryType

__all__ = [
    "BEAUTIFUL_SIZE_PX",
    "PLAIN_SIZE_PX",
    "draw_image",
    "generated_annotations",
    "generated_detections",
    "id_for",
]

PLAIN_SIZE_PX: Final = (320, 240)
BEAUTIFUL_SIZE_PX: Final = (1280, 720)
_NOISE_TILE_PX: Final = 80  # divides both sides; as many random numbers as pixels would take longer than all the rest
_SMALLEST_PX: Final = 4


def id_for(seed: str) -> str:
    """The id of what grew from this seed."""
    return str(uuid5(NAMESPACE_URL, f"loop-node:{seed}"))


def draw_image(seed: str, style: str) -> bytes:
    """Draw an image as a JPEG. Blocking.

    Args:
        seed: The same seed gives the same bytes.
        style: `plain`, flat colours at 320 x 240 pixels, or `beautiful`, gradients and noise at 1280 x 720.
    """
    chance = _chance(f"{seed} drawing")
    if style == "plain":
        image = np.empty((PLAIN_SIZE_PX[1], PLAIN_SIZE_PX[0], 3), np.uint8)
        image[:] = _color(chance)
        shapes, quality = chance.randint(2, 4), 90
    else:
        image = _gradient(chance, *BEAUTIFUL_SIZE_PX)
        shapes, quality = chance.randint(6, 12), 85
    for _ in range(shapes):
        _draw_shape(image, chance, is_shaded=style != "plain")
    if style != "plain":
        image = _with_noise(image, chance)
    return encode_jpeg(image, quality=quality)


def _chance(seed: str) -> random.Random:
    return random.Random(seed)  # noqa: S311  # pictures, no secrets


def _color(chance: random.Random) -> NDArray[np.float32]:
    return np.array([chance.randrange(256) for _ in range(3)], np.float32)


def _gradient(chance: random.Random, width_px: int, height_px: int) -> NDArray[np.uint8]:
    """From one colour in a corner to another in the opposite one, by way of a third."""
    start, middle, end = _color(chance), _color(chance), _color(chance)
    down = np.linspace(0, 1, height_px, dtype=np.float32)[:, None, None]
    across = np.linspace(0, 1, width_px, dtype=np.float32)[None, :, None]
    upper = (1 - across) * start + across * middle
    lower = (1 - across) * middle + across * end
    blend: NDArray[np.float32] = (1 - down) * upper + down * lower
    return blend.astype(np.uint8)


def _draw_shape(image: NDArray[np.uint8], chance: random.Random, *, is_shaded: bool) -> None:
    """A filled rectangle or ellipse; shaded, it fades from the top to the bottom."""
    height_px, width_px = image.shape[:2]
    left, top, width, height = random_box(chance, width_px, height_px)
    part = image[top : top + height, left : left + width]
    light = np.linspace(1, 0.5 if is_shaded else 1, height, dtype=np.float32)[:, None, None]
    fill = np.broadcast_to(_color(chance) * light, part.shape).astype(np.uint8)
    if chance.random() < 0.5:
        part[:] = fill
        return
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    inside = x * x + y * y <= 1
    part[inside] = fill[inside]


def _with_noise(image: NDArray[np.uint8], chance: random.Random) -> NDArray[np.uint8]:
    noise = np.random.default_rng(chance.getrandbits(64)).integers(-6, 7, (_NOISE_TILE_PX, _NOISE_TILE_PX, 1), np.int16)
    height_px, width_px = image.shape[:2]
    tiled = np.tile(noise, (height_px // _NOISE_TILE_PX, width_px // _NOISE_TILE_PX, 1))
    noisy: NDArray[np.int16] = np.clip(image + tiled, 0, 255)
    return noisy.astype(np.uint8)


def random_box(chance: random.Random, width_px: int, height_px: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of a box inside of an image, each side up to half of the image's."""
    width = chance.randint(min(_SMALLEST_PX, width_px), max(_SMALLEST_PX, width_px // 2))
    height = chance.randint(min(_SMALLEST_PX, height_px), max(_SMALLEST_PX, height_px // 2))
    width, height = min(width, width_px), min(height, height_px)
    return chance.randint(0, width_px - width), chance.randint(0, height_px - height), width, height


def generated_annotations(
    seed: str, categories: Sequence[Category], width_px: int, height_px: int, *, boxes: int
) -> AnnotationSet:
    """As many boxes, one point and one outline for each category of theirs, and a classification where there are any."""
    chance = _chance(f"{seed} annotations")

    def mark(category: Category, index: int) -> dict[str, Any]:
        return {"id": id_for(f"{seed} {category.type} annotation {index}"), "category_id": category.id}

    box_categories, points, outlines, classes = (_of_type(categories, kind) for kind in CategoryType)
    given = AnnotationSet()
    for index in range(boxes if box_categories else 0):
        x, y, width, height = random_box(chance, width_px, height_px)
        box = BoxAnnotationIn(x=x, y=y, width=width, height=height, **mark(chance.choice(box_categories), index))
        given.box_annotations.append(box)
    for index, category in enumerate(points):
        x, y = chance.randrange(width_px), chance.randrange(height_px)
        given.point_annotations.append(PointAnnotationIn(x=x, y=y, **mark(category, index)))
    for index, category in enumerate(outlines):
        shape = _diamond(*random_box(chance, width_px, height_px))
        given.segmentation_annotations.append(SegmentationAnnotationIn(shape=shape, **mark(category, index)))
    if classes:
        given.classification_annotation = ClassificationAnnotationIn(**mark(chance.choice(classes), 0))
    return given


def generated_detections(
    seed: str, categories: Sequence[Category], width_px: int, height_px: int, *, boxes: int, model_name: str
) -> Detections:
    """As many boxes, as a model would have found them; none where there are no box categories."""
    chance = _chance(f"{seed} detections")
    box_categories = _of_type(categories, CategoryType.BOX)
    found = Detections()
    for _ in range(boxes if box_categories else 0):
        x, y, width, height = random_box(chance, width_px, height_px)
        category = chance.choice(box_categories)
        found.box_detections.append(
            BoxDetection(
                category_name=category.name,
                category_id=category.id,
                x=x,
                y=y,
                width=width,
                height=height,
                model_name=model_name,
                confidence=round(chance.uniform(0.3, 1), 3),
            )
        )
    return found


def _of_type(categories: Sequence[Category], kind: CategoryType) -> list[Category]:
    return [category for category in categories if category.type is kind]


def _diamond(x: int, y: int, width: int, height: int) -> Shape:
    corners = ((x + width // 2, y), (x + width, y + height // 2), (x + width // 2, y + height), (x, y + height // 2))
    return Shape(points=[Point(x=x, y=y) for x, y in corners])
