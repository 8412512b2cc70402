"""Which file goes with which, and what metadata say."""

from typing import Any

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from loop_node.errors import InputError
from loop_node.local_loop.batches import annotations_of, detections_by_model, pair_files, stored_annotations
from loop_node.local_loop.projects import Categories
from loop_node.schemas.detections import (
    BoxAnnotation,
    BoxDetection,
    ClassificationAnnotation,
    ImageMetadata,
    Point,
    SegmentationDetection,
    Shape,
)
from loop_node.schemas.local_loop import AnnotationSet, BoxAnnotationIn
from loop_node.schemas.models import Category, CategoryType

CATEGORIES = Categories((Category(id="c1", name="cat", type=CategoryType.BOX), Category(id="c2", name="dog")))


@frozen
class File:
    filename: str


@given(
    st.lists(st.from_regex(r"[a-z0-9:._-]{1,12}", fullmatch=True), unique=True, min_size=1, max_size=20), st.randoms()
)
def test_pairs_are_found_in_any_order(stems: list[str], dice: Any) -> None:
    """Each image with its metadata, whatever the order of the files; dots and colons belong to the name."""
    files = [File(f"{stem}{suffix}") for stem in stems for suffix in (".jpg", ".json")]
    dice.shuffle(files)
    pairs = pair_files(files)
    assert {pair.stem for pair in pairs} == set(stems)
    assert all(pair.image.filename == f"{pair.stem}.jpg" for pair in pairs)
    assert all(pair.metadata.filename == f"{pair.stem}.json" for pair in pairs)


@pytest.mark.parametrize(
    ("names", "named"),
    [
        ([], "no image"),
        (["a.jpg"], "'a' has no .json"),
        (["a.json"], "'a' has no .jpg"),
        (["a.jpg", "a.json", "b.jpg"], "'b' has no .json"),
        (["a.jpg", "a.json", "a.jpg", "a.json"], "'a' came twice"),
        (["a.jpg", "a.json", "a.JPEG"], "'a' came twice"),
        (["a.png", "a.json"], "'a.png' is neither"),
        (["a.jpg", "b.json"], "has no"),
    ],
)
def test_a_broken_pair_is_named(names: list[str], named: str) -> None:
    """The whole batch is refused, with the name that is wrong."""
    with pytest.raises(InputError, match=named):
        pair_files([File(name) for name in names])


def box(model: str, name: str, category_id: str | None = None) -> BoxDetection:
    return BoxDetection(
        category_name=name, x=1, y=2, width=3, height=4, model_name=model, confidence=0.5, category_id=category_id
    )


def test_detections_get_their_category_and_are_kept_by_model() -> None:
    """By name where the id is missing or not known; polygons as points."""
    outline = SegmentationDetection(
        category_name="?", shape=Shape(points=[Point(x=1, y=2), Point(x=3, y=4)]), model_name="2.0", confidence=1
    )
    metadata = ImageMetadata(
        box_detections=[box("1.0", "cat"), box("2.0", "dog", "elsewhere"), box("1.0", "x", "c2")],
        segmentation_detections=[outline],
    )
    found = detections_by_model(metadata, CATEGORIES)
    assert [one["category_id"] for one in found["1.0"]["box_detections"]] == ["c1", "c2"]
    assert [one["category_id"] for one in found["2.0"]["box_detections"]] == ["c2"]
    assert found["2.0"]["segmentation_detections"][0]["shape"] == {"points": [{"x": 1, "y": 2}, {"x": 3, "y": 4}]}
    assert found["1.0"]["point_detections"] == []


def test_annotations_get_an_id_their_image_and_their_category() -> None:
    """As records have them."""
    metadata = ImageMetadata(
        box_annotations=[BoxAnnotation(category_name="cat", x=1, y=2, width=3, height=4)],
        classification_annotation=ClassificationAnnotation(category_name="dog"),
    )
    kept = stored_annotations(annotations_of(metadata), "i1", CATEGORIES, strict=True)
    (one,) = kept["box_annotations"]
    assert (one["image_id"], one["category_id"], one["category_name"]) == ("i1", "c1", "cat")
    assert len(one["id"]) == 36
    assert kept["classification_annotation"]["category_id"] == "c2"
    assert kept["segmentation_annotations"] == []


def test_a_category_the_project_lacks_is_refused_or_kept_by_name() -> None:
    """People are told; a node's image is not lost for it."""
    unknown = AnnotationSet(box_annotations=[BoxAnnotationIn(x=1, y=1, width=1, height=1, category_name="bird")])
    with pytest.raises(InputError, match=r"box_annotations\[0\]: .*'bird'; it has cat, dog"):
        stored_annotations(unknown, "i", CATEGORIES, strict=True)
    kept = stored_annotations(unknown, "i", CATEGORIES, strict=False)
    assert kept["box_annotations"][0]["category_name"] == "bird"
