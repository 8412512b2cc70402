"""Annotations that no image can have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_node.errors import SchemaError
from loop_node.local_loop.geometry import refuse_impossible
from loop_node.schemas.detections import Point, Shape
from loop_node.schemas.local_loop import AnnotationSet, BoxAnnotationIn, SegmentationAnnotationIn

numbers = st.integers(-200, 200)


@given(numbers, numbers, numbers, numbers)
def test_a_box_shares_pixels_with_its_image_or_is_refused(x: int, y: int, width: int, height: int) -> None:
    """Whatever its numbers."""
    box = AnnotationSet(box_annotations=[BoxAnnotationIn(x=x, y=y, width=width, height=height)])
    shared = set(range(x, x + width)) & set(range(40)) and set(range(y, y + height)) & set(range(30))
    if shared:
        refuse_impossible(box, 40, 30)
    else:
        with pytest.raises(SchemaError, match=r"box_annotations\[0\]"):
            refuse_impossible(box, 40, 30)


@pytest.mark.parametrize("points", [[(-5, 0), (9, 0), (9, 9)], [(0, 0), (100, 0), (0, 100)]])
def test_an_outline_may_be_cut_by_an_edge(points: list[tuple[int, int]]) -> None:
    """In either of its forms."""
    shape = Shape(points=[Point(x=x, y=y) for x, y in points])
    for form in (shape, str(shape)):
        refuse_impossible(AnnotationSet(segmentation_annotations=[SegmentationAnnotationIn(shape=form)]), 40, 30)


@pytest.mark.parametrize(
    ("shape", "named"),
    [("", "flat form"), ("1,2,3", "flat form"), ("1,2,3,4", "2 came"), ("50,1,60,1,60,9", "outside"), ("a,b", "flat")],
)
def test_an_outline_that_is_none_is_refused(shape: str, named: str) -> None:
    """With what is wrong."""
    with pytest.raises(SchemaError, match=named):
        refuse_impossible(AnnotationSet(segmentation_annotations=[SegmentationAnnotationIn(shape=shape)]), 40, 30)


def test_only_the_first_faults_are_named() -> None:
    """A body of thousands of them gets a short answer."""
    boxes = [BoxAnnotationIn(x=0, y=0, width=0, height=0) for _ in range(1000)]
    with pytest.raises(SchemaError) as caught:
        refuse_impossible(AnnotationSet(box_annotations=boxes), 40, 30)
    assert len(caught.value.problems) == 20
