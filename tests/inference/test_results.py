import numpy as np
import pytest
from attrs import evolve

from loop_node.inference.decoders import Found
from loop_node.inference.description import Declarations, ModelDescription, describe
from loop_node.inference.preprocessing import ResizeType, fit
from loop_node.inference.results import classification_metadata, found_metadata
from loop_node.schemas.models import Category, CategoryType, ModelInformation

GEOMETRY = fit(ResizeType.LETTERBOX, (200, 100), (64, 64))  # scale 3.125, 16 rows of padding above and below


def _description(*types: CategoryType | None, shapes=None) -> ModelDescription:
    categories = [Category(id=f"id{n}", name=f"name{n}", type=kind) for n, kind in enumerate(types)]
    model = ModelInformation(id="m", organization="", project="", version="1", categories=categories)
    shapes = shapes or [(1, 4 + len(types), 84)]
    return describe(Declarations(information=model), input_size=(64, 64), output_shapes=shapes)


def _found(*boxes: tuple[float, float, float, float], category: int = 0, **masks) -> Found:
    return Found(
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        confidences=np.linspace(0.9, 0.5, len(boxes)),
        categories=np.full(len(boxes), category),
        **masks,
    )


def _boxes(*boxes: tuple[float, float, float, float]) -> list[tuple[int, int, int, int]]:
    metadata = found_metadata(_found(*boxes), GEOMETRY, _description(CategoryType.BOX), "1")
    return [(box.x, box.y, box.width, box.height) for box in metadata.box_detections]


def test_boxes_come_back_in_whole_pixels_of_the_image():
    """(16, 24)-(32, 40) in the letterbox is (50, 25)-(100, 75) in the image, with id, name, model and confidence."""
    metadata = found_metadata(_found((16, 24, 32, 40)), GEOMETRY, _description(None), "1.7")
    (box,) = metadata.box_detections
    assert (box.x, box.y, box.width, box.height) == (50, 25, 50, 50)
    assert (box.category_name, box.category_id, box.model_name, box.confidence) == ("name0", "id0", "1.7", 0.9)
    assert all(type(value) is int for value in (box.x, box.y, box.width, box.height))
    assert metadata.created is None


def test_boxes_are_clipped_to_the_image_and_empty_ones_dropped():
    """What hangs over is cut, what lies in the padding is no detection, a sliver is one pixel."""
    assert _boxes((-10, -10, 32, 32)) == [(0, 0, 100, 50)]
    assert _boxes((0, 0, 64, 15), (0, 50, 64, 64), (-9, 20, -1, 40), (30, 30, 30, 40), (40, 40, 30, 30)) == []
    assert _boxes((16.0, 24.0, 16.05, 24.05)) == [(50, 25, 1, 1)]
    assert _boxes((63.99, 47.99, 70, 70)) == [(199, 99, 1, 1)]


def test_a_point_category_takes_the_centre_of_the_box():
    """As floats."""
    metadata = found_metadata(_found((16, 24, 33, 40)), GEOMETRY, _description(CategoryType.POINT), "1")
    (point,) = metadata.point_detections
    assert (point.x, point.y) == (pytest.approx(76.5625), 50.0)
    assert (point.category_id, point.confidence, metadata.box_detections) == ("id0", 0.9, [])


def test_a_number_beyond_the_categories_names_itself():
    """Lists of finished boxes may hold any number; nothing that was found is lost."""
    description = _description(CategoryType.BOX, shapes=[(1, 300, 6)])
    (box,) = found_metadata(_found((16, 24, 32, 40), category=7), GEOMETRY, description, "1").box_detections
    assert (box.category_name, box.category_id is None) == ("7", False)


def test_a_classification_under_the_threshold_is_none():
    """At the threshold it is one."""
    description = evolve(_description(None, None, shapes=[(1, 2)]), conf_threshold=0.6)
    assert classification_metadata(1, 0.59, description, "1").classification_detections == []
    (found,) = classification_metadata(1, 0.6, description, "1").classification_detections
    assert (found.category_name, found.category_id, found.confidence) == ("name1", "id1", 0.6)


def _segmented(mask: np.ndarray, box: tuple[float, float, float, float], kind: CategoryType | None = None):
    description = _description(kind, shapes=[(1, 6, 84), (1, 1, 16, 16)])
    found = _found(box, masks=np.array([[1.0]]), prototypes=np.where(mask, 8.0, -8.0)[None].astype(np.float32))
    return found_metadata(found, GEOMETRY, description, "1")


def test_a_mask_becomes_the_polygon_around_it():
    """Prototype pixels (4..8, 6..10) of 4 input pixels each: exact but for the corners, which interpolation rounds."""
    mask = np.zeros((16, 16), bool)
    mask[6:10, 4:8] = True
    (found,) = _segmented(mask, (0, 16, 64, 48)).segmentation_detections
    corners = np.array([(point.x, point.y) for point in found.shape.points])
    assert corners.min(axis=0) == pytest.approx([50, 25], abs=0)
    assert corners.max(axis=0) == pytest.approx([100, 75], abs=0)
    x, y = corners.T
    assert abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2 == pytest.approx(2500, rel=0.12)


def test_a_mask_counts_inside_its_box_only():
    """Everything is inside the mask, so the outline is the box."""
    (found,) = _segmented(np.ones((16, 16), bool), (16, 24, 32, 40)).segmentation_detections
    assert sorted((point.x, point.y) for point in found.shape.points) == [(50, 25), (50, 75), (100, 25), (100, 75)]


def test_without_a_usable_mask_the_outline_is_the_box():
    """Empty masks and masks of NaN lose no detection."""
    expected = [(50, 25), (100, 25), (100, 75), (50, 75)]
    (empty,) = _segmented(np.zeros((16, 16), bool), (16, 24, 32, 40)).segmentation_detections
    assert [(point.x, point.y) for point in empty.shape.points] == expected
    found = _found((16, 24, 32, 40), masks=np.array([[np.nan]]), prototypes=np.ones((1, 16, 16), np.float32))
    description = _description(None, shapes=[(1, 6, 84), (1, 1, 16, 16)])
    (wild,) = found_metadata(found, GEOMETRY, description, "1").segmentation_detections
    assert [(point.x, point.y) for point in wild.shape.points] == expected


def test_a_box_category_of_a_segmentation_model_gives_boxes():
    """The category's type decides, not the layout."""
    metadata = _segmented(np.ones((16, 16), bool), (16, 24, 32, 40), CategoryType.BOX)
    assert (len(metadata.box_detections), metadata.segmentation_detections) == (1, [])
