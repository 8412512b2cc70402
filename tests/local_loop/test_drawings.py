"""Drawn images and the marks on them."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_node.images import decode_image
from loop_node.local_loop.drawings import draw_image, generated_annotations, generated_detections
from loop_node.schemas.detections import Shape
from loop_node.schemas.models import Category, CategoryType

CATEGORIES = [
    Category(id=f"{kind} {n}", name=f"{kind} category {n}", type=kind) for kind in CategoryType for n in (1, 2)
]
SIDE_PX = st.integers(1, 2000)


@pytest.mark.parametrize(("style", "shape"), [("plain", (240, 320, 3)), ("beautiful", (720, 1280, 3))])
def test_the_same_seed_gives_the_same_bytes(style: str, shape: tuple[int, ...]) -> None:
    """Another seed gives another image."""
    image = draw_image("one", style)
    assert draw_image("one", style) == image != draw_image("two", style)
    assert decode_image(image, max_pixels=1 << 20).shape == shape


def test_plain_images_are_small_and_beautiful_ones_are_not_flat() -> None:
    """What the two are for: many of them, and something to look at."""
    assert all(len(draw_image(str(seed), "plain")) < 20_000 for seed in range(10))
    images = [draw_image(str(seed), "beautiful") for seed in range(3)]
    assert all(30_000 < len(image) < 1_000_000 for image in images)
    colours = np.unique(decode_image(images[0], max_pixels=1 << 20).reshape(-1, 3), axis=0)
    assert len(colours) > 1000


@given(st.text(), SIDE_PX, SIDE_PX, st.integers(0, 20))
def test_marks_lie_in_the_image(seed: str, width_px: int, height_px: int, boxes: int) -> None:
    """However small it is; one point and one outline for each category of theirs, one classification."""
    given = generated_annotations(seed, CATEGORIES, width_px, height_px, boxes=boxes)
    found = generated_detections(seed, CATEGORIES, width_px, height_px, boxes=boxes, model_name="1.0").box_detections
    assert len(given.box_annotations) == len(found) == boxes
    for box in [*given.box_annotations, *found]:
        assert 0 <= box.x < box.x + box.width <= width_px
        assert 0 <= box.y < box.y + box.height <= height_px
    assert [point.category_id for point in given.point_annotations] == ["point 1", "point 2"]
    assert all(0 <= point.x < width_px and 0 <= point.y < height_px for point in given.point_annotations)
    assert [outline.category_id for outline in given.segmentation_annotations] == ["segmentation 1", "segmentation 2"]
    for outline in given.segmentation_annotations:
        assert isinstance(outline.shape, Shape)
        assert all(0 <= corner.x <= width_px and 0 <= corner.y <= height_px for corner in outline.shape.points)
    assert given.classification_annotation is not None
    assert given == generated_annotations(seed, CATEGORIES, width_px, height_px, boxes=boxes)


def test_a_project_without_a_kind_of_category_gets_no_such_marks() -> None:
    """Though boxes were ordered."""
    points = [category for category in CATEGORIES if category.type is CategoryType.POINT]
    given = generated_annotations("seed", points, 10, 10, boxes=3)
    assert not given.box_annotations
    assert not given.segmentation_annotations
    assert given.classification_annotation is None
    assert generated_detections("seed", points, 10, 10, boxes=3, model_name="1.0").box_detections == []


def test_drawing_takes_milliseconds() -> None:
    """Ten thousand plain images are a matter of a minute."""
    began = time.monotonic()
    for seed in range(50):
        draw_image(str(seed), "plain")
    assert time.monotonic() - began < 5
