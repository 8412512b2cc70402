import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_node.errors import ModelError
from loop_node.inference.layouts import Layout, cells, read_layout, recognise

SQUARE = (416, 416)


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("YOLOv8", Layout.YOLOV8),
        ("yolov8", Layout.YOLOV8),
        ("yolo_v8", Layout.YOLOV8),
        ("yolo11", Layout.YOLOV8),
        ("YOLOv11", Layout.YOLOV8),
        ("YOLO11-seg", Layout.YOLOV8_SEG),
        ("yolov8-seg", Layout.YOLOV8_SEG),
        ("YOLOv5", Layout.YOLOV5),
        ("yolox", Layout.YOLOX),
        ("End2End", Layout.END2END),
        ("ssd", Layout.SSD),
        ("classification", Layout.CLASSIFICATION),
        ("YOLO", None),
    ],
)
def test_layouts_are_known_by_their_usual_spellings(name, layout):
    """Case, hyphens, underscores and Intel's names do not matter."""
    assert read_layout(name) is layout


def test_an_unknown_name_is_refused_with_the_known_ones():
    """The error lists what could have been meant."""
    with pytest.raises(ModelError, match=r"'MaskRCNN' is unknown; known are YOLOv8, .*YOLOv8-seg"):
        read_layout("MaskRCNN")


@pytest.mark.parametrize(
    ("shapes", "categories", "layout", "count"),
    [
        ([(1, 84, 3549)], 80, Layout.YOLOV8, 80),
        ([(1, 84, 3549)], None, Layout.YOLOV8, 80),
        ([(1, 5, 3549)], 1, Layout.YOLOV8, 1),
        ([(1, 7, 20)], 3, Layout.YOLOV8, 3),
        ([(1, 84, None)], 80, Layout.YOLOV8, 80),
        ([(1, 10647, 85)], 80, Layout.YOLOV5, 80),
        ([(1, 10647, 85)], None, Layout.YOLOV5, 80),
        ([(1, 10647, 6)], 1, Layout.YOLOV5, 1),
        ([(1, 10647, 6)], None, Layout.YOLOV5, 1),
        ([(1, 20, 8)], 3, Layout.YOLOV5, 3),
        ([(1, 300, 6)], None, Layout.END2END, None),
        ([(1, 300, 6)], 80, Layout.END2END, None),
        ([(1, 300, 6)], 1, Layout.END2END, None),
        ([(1, None, 6)], 7, Layout.END2END, None),
        ([(1, 1, 100, 7)], None, Layout.SSD, None),
        ([(1, 1, None, 7)], 4, Layout.SSD, None),
        ([(1, 1000)], None, Layout.CLASSIFICATION, 1000),
        ([(1, 3)], 3, Layout.CLASSIFICATION, 3),
        ([(1, 116, 3549), (1, 32, 104, 104)], None, Layout.YOLOV8_SEG, 80),
        ([(1, 32, 104, 104), (1, 37, 3549)], 1, Layout.YOLOV8_SEG, 1),
    ],
)
def test_a_shape_that_only_one_layout_explains_is_recognised(shapes, categories, layout, count):
    """By the number of categories where it is known, and by the grid of the head."""
    found = recognise(shapes, input_size=SQUARE, categories=categories)
    assert (found.layout, found.categories) == (layout, count)


def test_the_outputs_of_segmentation_come_in_any_order():
    """Detections first, then prototypes, wherever the graph has them."""
    assert recognise([(1, 32, 104, 104), (1, 37, 3549)], input_size=SQUARE).outputs == (1, 0)


@pytest.mark.parametrize(
    ("shapes", "categories", "names"),
    [
        ([(1, 3549, 6)], 1, "YOLOv5 or YOLOX"),  # a raw head looks like decoded boxes
        ([(1, 3549, 85)], 80, "YOLOv5 or YOLOX"),
        ([(1, 84, 100)], None, "YOLOv8 or YOLOv5"),
        ([(1, 6, 7)], 2, "YOLOv8 or YOLOv5"),
    ],
)
def test_an_ambiguous_shape_is_refused(shapes, categories, names):
    """The error names the candidates and the cure."""
    with pytest.raises(ModelError, match=rf"{names}; set model_type in model.json to one of: .*YOLOv8 \[1,4\+cat"):
        recognise(shapes, input_size=SQUARE, categories=categories)


@pytest.mark.parametrize(
    "shapes",
    [[(1, 5)] * 2, [(2, 84, 3549)], [(1, 3, 3)], [(1, 80, 13, 13)], [()], [], [(1, 1)], [(1, 9, 5, 5), (1, 9)]],
)
def test_an_unknown_shape_is_refused_with_the_known_ones(shapes):
    """No guess is made."""
    with pytest.raises(ModelError, match=r"no known layout explains the output .*SSD \[1,1,N,7\]"):
        recognise(shapes, input_size=SQUARE)


@pytest.mark.parametrize(
    ("shapes", "declared", "has"),
    [
        ([(1, 84, 3549)], None, "80 (read as YOLOv8)"),
        ([(1, 84, 3549)], Layout.YOLOV8, "80 (read as YOLOv8)"),
        ([(1, 3549, 85)], Layout.YOLOX, "80 (read as YOLOX)"),
        ([(1, 1000)], None, "1000 (read as Classification)"),
        ([(1, 116, 3549), (1, 32, 104, 104)], None, "80 (read as YOLOv8-seg)"),
    ],
)
def test_a_wrong_number_of_categories_is_named_beside_the_right_one(shapes, declared, has):
    """Both numbers are in the error."""
    with pytest.raises(ModelError, match="3 categories are given, but the output .*" + re.escape(has)):
        recognise(shapes, input_size=SQUARE, categories=3, declared=declared)


@pytest.mark.parametrize(
    ("declared", "shape"),
    [
        (Layout.YOLOV8, (1, 84, 100)),
        (Layout.YOLOV5, (1, 3549, 85)),
        (Layout.YOLOX, (1, 3549, 6)),
        (Layout.END2END, (1, 3549, 6)),
        (Layout.SSD, (1, 1, 10, 7)),
        (Layout.CLASSIFICATION, (1, 2)),
    ],
)
def test_what_is_declared_needs_no_guess(declared, shape):
    """A declared layout settles what the shape leaves open."""
    assert recognise([shape], input_size=SQUARE, declared=declared).layout is declared


def test_further_outputs_of_a_declared_layout_are_ignored():
    """Older exports carry raw feature maps along."""
    shapes = [(1, 3, 52, 52, 85), (1, 10647, 85)]
    assert recognise(shapes, input_size=SQUARE, declared=Layout.YOLOV5, categories=80).outputs == (1,)


def test_a_declared_layout_must_fit_the_shape():
    """SSD is not what [1,84,3549] is."""
    with pytest.raises(ModelError, match=r"model_type says SSD, but the output is \[1,84,3549\]"):
        recognise([(1, 84, 3549)], input_size=SQUARE, declared=Layout.SSD)


@given(
    st.sampled_from([(416, 416), (640, 640), (640, 384), (1280, 736)]),
    st.integers(1, 400),
    st.booleans(),
    st.booleans(),
)
def test_real_heads_are_recognised_without_knowing_the_categories(input_size, count, transposed, large):
    """A head's rows follow from its input, for three strides or four, square or not."""
    rows = cells(*input_size, (8, 16, 32, 64) if large else (8, 16, 32))
    shape = (1, 4 + count, rows) if transposed else (1, 3 * rows, 5 + count)
    expected = Layout.YOLOV8 if transposed else Layout.YOLOV5
    found = recognise([shape], input_size=input_size)
    assert (found.layout, found.categories) == (expected, count)


@given(
    st.lists(st.lists(st.none() | st.integers(0, 100), max_size=5).map(tuple), max_size=3),
    st.none() | st.integers(1, 99),
)
def test_no_shape_breaks_the_recognition(shapes, categories):
    """It is recognised or refused."""
    try:
        found = recognise(shapes, input_size=(64, 64), categories=categories)
    except ModelError:
        return
    assert found.categories in (None, categories) or categories is None
