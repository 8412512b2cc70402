"""The converter: what it accepts, how it says no, and what survives."""

import time

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_node.errors import SchemaError
from loop_node.schemas import annotation, detections, models, status, training, wire
from loop_node.schemas.detections import BoxDetection, ImageMetadata, Point, SegmentationDetection, Shape
from loop_node.schemas.models import CategoryType
from loop_node.schemas.status import SocketResponse

CLASSES = [
    kind
    for module in (annotation, detections, models, status, training)
    for name in module.__all__
    if attrs.has(kind := getattr(module, name)) and kind not in (models.Within, models.OneOf)
]
MODEL = {"id": "1", "organization": "o", "project": "p", "version": "1.0"}
BOX = {"category_name": "a", "x": 1, "y": 2, "width": 3, "height": 4, "model_name": "m", "confidence": 0.5}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def instances(kind: type) -> st.SearchStrategy:
    """Any instance of a wire class, with finite numbers: JSON has no others."""
    return st.from_type(kind)


st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False, min_value=-1e6, max_value=1e6))
st.register_type_strategy(int, st.integers(-(2**53), 2**53))
st.register_type_strategy(detections.Detections, st.builds(detections.Detections))


def test_the_answer_of_detect_has_the_contracts_keys_in_its_order() -> None:
    """Clients of generation 6 read exactly these keys."""
    assert list(wire.unstructure_flat(ImageMetadata(created=None))) == [
        "box_detections",
        "point_detections",
        "segmentation_detections",
        "classification_detections",
        "box_annotations",
        "point_annotations",
        "classification_annotation",
        "tags",
        "created",
        "source",
        "state",
    ]


def test_every_fault_of_a_body_is_named_at_once() -> None:
    """One round trip is enough to repair a body."""
    with pytest.raises(SchemaError) as caught:
        wire.structure(ImageMetadata, {"box_detections": [BOX, BOX | {"x": "left", "width": None}], "tags": "a,b"})
    assert caught.value.problems == (
        "box_detections[1].width: a whole number is needed, not null",
        "box_detections[1].x: a whole number is needed, not 'left'",
        "tags: a list is needed, not 'a,b'",
    )


@pytest.mark.parametrize("value", [None, 1, "x", [], [BOX]])
def test_what_is_no_object_is_said_to_be_none(value: object) -> None:
    """A list or a text where an object belongs is a readable fault."""
    with pytest.raises(SchemaError, match="an object is needed"):
        wire.structure(BoxDetection, value)


def test_missing_members_are_named() -> None:
    """A box without coordinates says which."""
    with pytest.raises(SchemaError) as caught:
        wire.structure(BoxDetection, {"category_name": "a", "model_name": "m", "confidence": 1})
    assert caught.value.problems == ("height: is missing", "width: is missing", "x: is missing", "y: is missing")


@pytest.mark.parametrize(("value", "read"), [(1.4, 1), (1.5, 2), (2.5, 2), (-0.6, -1), (3, 3)])
def test_floats_are_rounded_where_whole_numbers_belong(value: float, read: int) -> None:
    """Robots send box corners as floats; their images must not be lost for it."""
    assert wire.structure(BoxDetection, BOX | {"x": value}).x == read


@pytest.mark.parametrize("value", [True, "1", None, float("nan"), float("inf"), 1e300, [1]])
def test_nothing_else_is_a_number(value: object) -> None:
    """Booleans, texts and what JSON cannot hold are no coordinates."""
    with pytest.raises(SchemaError, match=r"^x: a whole number is needed"):
        wire.structure(BoxDetection, BOX | {"x": value})


def test_polygons_leave_flat_or_as_objects() -> None:
    """REST and the Loop read `x1,y1,x2,y2`, robots read points; both come in."""
    found = {"category_name": "a", "model_name": "m", "confidence": 0.5}
    metadata = wire.structure(
        ImageMetadata,
        {
            "segmentation_detections": [
                found | {"shape": {"points": [{"x": 1.2, "y": 2}, {"x": 3, "y": 4}]}},
                found | {"shape": "5,6"},
            ]
        },
    )
    flat = wire.unstructure_flat(metadata)["segmentation_detections"]
    assert [one["shape"] for one in flat] == ["1,2,3,4", "5,6"]
    objects = wire.unstructure(metadata)["segmentation_detections"]
    assert [one["shape"] for one in objects] == [
        {"points": [{"x": 1, "y": 2}, {"x": 3, "y": 4}]},
        {"points": [{"x": 5, "y": 6}]},
    ]


def test_unknown_keys_are_ignored_but_kept_in_model_json() -> None:
    """`model.json` belongs to many; rewriting it loses nobody's properties."""
    raw = MODEL | {"host": None, "categories": [], "trained_by": {"who": ["me"]}, "resolution": 416}
    information = wire.read_model_information(raw)
    information.model_root_path = "/somewhere"
    assert wire.model_json(information) == raw


@pytest.mark.parametrize(
    ("member", "value", "said"),
    [
        ("resolution", 0, "a number from 1 to 65536"),
        ("resolution", "416", "a whole number"),
        ("conf_threshold", 1.5, "a number from 0 to 1"),
        ("resize_type", "squeeze", "one of standard, fit_to_window"),
        ("channel_order", "GRB", "one of RGB, BGR"),
        ("pad_value", 256, "a number from 0 to 255"),
        ("categories", [{"id": "1", "name": "a", "type": "blob"}], "one of box, point"),
        ("resolutions", [[416, "x"]], "a whole number"),
    ],
)
def test_a_bad_member_of_model_json_names_what_is_accepted(member: str, value: object, said: str) -> None:
    """Whoever writes a `model.json` by hand is told what to write."""
    with pytest.raises(SchemaError, match=rf"^{member}.*: {said}"):
        wire.read_model_information(MODEL | {member: value})


def test_numpy_numbers_leave_as_plain_ones() -> None:
    """Logics compute in numpy."""
    box = BoxDetection(**(BOX | {"x": np.int64(3), "confidence": np.float32(0.5)}))
    out = wire.unstructure_flat(box)
    assert (type(out["x"]), out["x"], type(out["confidence"]), out["confidence"]) == (int, 3, float, 0.5)


def test_half_a_character_is_no_text() -> None:
    """What could not be written into an answer is not let in."""
    with pytest.raises(SchemaError, match=r"^version: .*surrogates"):
        wire.read_model_information(MODEL | {"version": "\ud800"})


def test_enumerations_come_in_as_such() -> None:
    """A category's type is one of ours, not just a text."""
    category = wire.structure(models.Category, {"id": "1", "name": "a", "type": "point"})
    assert category.type is CategoryType.POINT


@given(st.sampled_from(CLASSES), json_values)
def test_any_json_is_read_or_refused_readably(kind: type, value: object) -> None:
    """Nothing but SchemaError comes out of the converter, and every fault has words."""
    try:
        wire.structure(kind, value)
        problems: tuple[str, ...] = ("none",)
    except SchemaError as error:
        problems = error.problems
    assert problems
    assert all(problem.strip() for problem in problems)


POLYGONS = st.builds(SegmentationDetection, shape=st.builds(Shape, points=st.lists(st.builds(Point), min_size=1)))


@given(st.builds(ImageMetadata, segmentation_detections=st.lists(POLYGONS, max_size=2)))
def test_metadata_survives_the_wire(metadata: ImageMetadata) -> None:
    """What is sent as JSON objects is read back unchanged."""
    assert wire.structure(ImageMetadata, wire.unstructure(metadata)) == metadata


@given(st.lists(st.builds(Point), min_size=1, max_size=5))
def test_the_flat_form_lists_the_points_in_order(points: list[Point]) -> None:
    """The flat form is the coordinates, joined by commas."""
    numbers = [int(number) for number in str(Shape(points=points)).split(",")]
    assert list(zip(numbers[::2], numbers[1::2], strict=True)) == [(point.x, point.y) for point in points]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_takes_keyword_arguments_only(kind: type) -> None:
    """Field order is the wire's business, not the implementer's."""
    with pytest.raises(TypeError, match="positional"):
        kind("x")


def test_true_and_false_stay_what_they_are() -> None:
    """To Python they are integers, to whoever reads JSON they are not."""
    sent = wire.unstructure(SocketResponse(success=True))
    assert sent["success"] is True


def test_a_list_of_faults_is_not_read_to_its_end():
    """Or a few megabytes of them would take minutes."""
    began = time.process_time()
    for kind, value in (
        (list[ImageMetadata], [[]] * 1_000_000),
        (dict[str, int], dict.fromkeys(map(str, range(10**6)), "")),
    ):
        with pytest.raises(SchemaError) as told:
            wire.structure(kind, value)
        assert len(told.value.problems) == 20
    assert time.process_time() - began < 5


def test_keys_of_an_object_are_checked():
    """And faults of its items are named by them."""
    assert wire.structure(dict[str, int], {"a": 1.0}) == {"a": 1}
    with pytest.raises(SchemaError, match=r"\[a\]: a whole number is needed"):
        wire.structure(dict[str, int], {"a": None})
    with pytest.raises(SchemaError, match="a string is needed"):
        wire.structure(dict[str, int], {1: 1})
