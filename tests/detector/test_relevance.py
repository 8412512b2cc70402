"""Which images are chosen for a person's look: each rule, each of its borders, and what the histories cost."""

import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_node.detector.relevance import CAUSES, FORGET_AFTER_S, RelevanceFilter
from loop_node.schemas.detections import (
    BoxDetection,
    ClassificationDetection,
    ImageMetadata,
    PointDetection,
    SegmentationDetection,
)

HOUR_S = 3600.0


def box(
    x: int = 0, y: int = 0, width: int = 20, height: int = 20, *, confidence: float = 0.5, category: str = "a"
) -> BoxDetection:
    return BoxDetection(
        category_name=category, x=x, y=y, width=width, height=height, model_name="1.0", confidence=confidence
    )


def point(x: float = 0, y: float = 0, *, confidence: float = 0.5, category: str = "a") -> PointDetection:
    return PointDetection(category_name=category, x=x, y=y, model_name="1.0", confidence=confidence)


def outline(confidence: float = 0.99) -> SegmentationDetection:
    return SegmentationDetection(category_name="a", shape="1,1,2,2,3,1", model_name="1.0", confidence=confidence)


def classification(confidence: float = 0.5) -> ClassificationDetection:
    return ClassificationDetection(category_name="a", model_name="1.0", confidence=confidence)


def seen(*detections: Any) -> ImageMetadata:
    lists: dict[type, list[Any]] = {
        kind: [] for kind in (BoxDetection, PointDetection, SegmentationDetection, ClassificationDetection)
    }
    for detection in detections:
        lists[type(detection)].append(detection)
    names = ("box_detections", "point_detections", "segmentation_detections", "classification_detections")
    return ImageMetadata(**dict(zip(names, lists.values(), strict=True)))


@pytest.fixture
def relevance() -> RelevanceFilter:
    return RelevanceFilter(0.3, 0.6)


def test_an_image_without_detections_is_not_chosen(relevance: RelevanceFilter) -> None:
    """Nothing found is no cause."""
    assert relevance.causes("cam", seen(), 0) == []


@pytest.mark.parametrize("make", [box, point, classification])
@pytest.mark.parametrize(
    ("confidence", "causes"), [(0.2999, []), (0.3, ["uncertain"]), (0.6, ["uncertain"]), (0.6001, []), (0.0, [])]
)
def test_thresholds_are_included(relevance: RelevanceFilter, make: Any, confidence: float, causes: list[str]) -> None:
    """A detection is uncertain from the lower to the upper threshold, both included."""
    assert relevance.causes("cam", seen(make(confidence=confidence)), 0) == causes


@pytest.mark.parametrize("thing", [box(), point()])
def test_a_known_thing_is_no_cause_again(relevance: RelevanceFilter, thing: Any) -> None:
    """A box or a point that the camera has shown within the hour is not chosen a second time."""
    assert relevance.causes("cam", seen(thing), 0) == ["uncertain"]
    assert relevance.causes("cam", seen(thing), 1) == []


def test_classifications_have_no_memory(relevance: RelevanceFilter) -> None:
    """Each uncertain classification is a cause, however often it comes."""
    for now_s in range(3):
        assert relevance.causes("cam", seen(classification()), now_s) == ["uncertain"]


def test_an_outline_is_a_cause_each_time(relevance: RelevanceFilter) -> None:
    """Segmentations are always chosen, and for no other reason, however uncertain."""
    for now_s in range(3):
        assert relevance.causes("cam", seen(outline(0.5)), now_s) == ["segmentation_detection"]


@pytest.mark.parametrize(("count", "causes"), [(79, []), (80, ["unexpected_observations_count"])])
def test_eighty_detections_are_unexpected(relevance: RelevanceFilter, count: int, causes: list[str]) -> None:
    """The count is a cause from eighty on."""
    found = seen(*[box(x, confidence=0.9) for x in range(count)])
    assert relevance.causes("cam", found, 0) == causes


def test_all_kinds_count(relevance: RelevanceFilter) -> None:
    """Eighty detections are those of all four kinds together, and each time anew."""
    found = seen(*[box(confidence=1)] * 20, *[point(confidence=1)] * 20, *[classification(1)] * 20, *[outline()] * 20)
    for now_s in range(2):
        assert relevance.causes("cam", found, now_s) == ["segmentation_detection", "unexpected_observations_count"]


def test_each_cause_comes_once_and_in_order(relevance: RelevanceFilter) -> None:
    """Many reasons of one kind make one tag."""
    found = seen(*[classification()] * 80, outline(), outline(), box(), point(), box(500))
    assert relevance.causes("cam", found, 0) == list(CAUSES)


def test_a_certain_thing_is_remembered_too(relevance: RelevanceFilter) -> None:
    """What was certain once is not chosen when the model doubts it a moment later."""
    assert relevance.causes("cam", seen(box(confidence=0.9), point(100, 100, confidence=0.1)), 0) == []
    assert relevance.causes("cam", seen(box(confidence=0.5), point(100, 100, confidence=0.5)), 1) == []


@pytest.mark.parametrize(
    ("other", "is_new"),
    [
        (box(0, 0, 30, 10), False),
        (box(10, 0, 30, 10), False),  # two thirds of each: an intersection over union of exactly one half
        (box(11, 0, 30, 10), True),
        (box(0, 0, 15, 10), False),  # half of it
        (box(0, 0, 14, 10), True),
        (box(30, 0, 30, 10), True),  # side by side
        (box(300, 300, 30, 10), True),
        (box(0, 0, 30, 10, category="b"), True),
    ],
)
def test_boxes_are_the_same_from_half_an_overlap_on(
    relevance: RelevanceFilter, other: BoxDetection, is_new: bool
) -> None:
    """An intersection over union of 0.5 is enough, within one category."""
    relevance.causes("cam", seen(box(0, 0, 30, 10)), 0)
    assert relevance.causes("cam", seen(other), 1) == ["uncertain"] * is_new


@pytest.mark.parametrize(
    ("other", "is_new"),
    [
        (point(9.99, 0), False),
        (point(10, 0), True),
        (point(6, 8), True),
        (point(5.9, 8), False),
        (point(0, 0, category="b"), True),
    ],
)
def test_points_are_the_same_within_ten_pixels(relevance: RelevanceFilter, other: PointDetection, is_new: bool) -> None:
    """Less than ten pixels of distance, within one category."""
    relevance.causes("cam", seen(point(0, 0)), 0)
    assert relevance.causes("cam", seen(other), 1) == ["uncertain"] * is_new


def test_a_point_is_no_box(relevance: RelevanceFilter) -> None:
    """The two have nothing to do with each other, also at the same place."""
    relevance.causes("cam", seen(box(0, 0)), 0)
    assert relevance.causes("cam", seen(point(0, 0)), 1) == ["uncertain"]


def test_things_are_known_within_their_own_image(relevance: RelevanceFilter) -> None:
    """An uncertain box upon a certain one that came before it in the same image is no cause."""
    assert relevance.causes("cam", seen(box(confidence=0.9), box(1, confidence=0.5)), 0) == []


@pytest.mark.parametrize("camera", ["cam", None])
def test_what_is_not_seen_for_an_hour_is_forgotten(relevance: RelevanceFilter, camera: str | None) -> None:
    """Of every camera, and also where none is named: after two hours the same box is a cause again."""
    assert relevance.causes(camera, seen(box(), point(300, 300)), 0) == ["uncertain"]
    assert relevance.causes(camera, seen(box(), point(300, 300)), HOUR_S) == []
    assert relevance.causes(camera, seen(box()), 2 * HOUR_S + 1) == ["uncertain"]
    assert relevance.causes(camera, seen(point(300, 300)), 2 * HOUR_S + 1) == ["uncertain"]


def test_seeing_a_thing_keeps_it(relevance: RelevanceFilter) -> None:
    """What is in view all the time is chosen once, not once an hour; what is not in view goes on its own."""
    relevance.causes("cam", seen(box(), box(500)), 0)
    for now_s in range(1000, 20_000, 1000):
        assert relevance.causes("cam", seen(box()), now_s) == []
    assert relevance.causes("cam", seen(box(500)), 20_000) == ["uncertain"]


def test_cameras_know_nothing_of_each_other(relevance: RelevanceFilter) -> None:
    """Each has its own history, and images without a camera have one together."""
    for camera in ("left", "right", None, ""):
        assert relevance.causes(camera, seen(box()), 0) == ["uncertain"]
        assert relevance.causes(camera, seen(box()), 0) == []


def test_cameras_are_bounded(relevance: RelevanceFilter) -> None:
    """The camera that was heard of longest ago makes room."""
    relevance = RelevanceFilter(0.3, 0.6, max_cameras=2)
    relevance.causes("first", seen(box()), 0)
    relevance.causes("second", seen(box()), 0)
    assert relevance.causes("first", seen(box()), 1) == []
    relevance.causes("third", seen(box()), 2)
    assert relevance.causes("first", seen(box()), 3) == []
    assert relevance.causes("second", seen(box()), 3) == ["uncertain"]


@pytest.mark.parametrize("make", [box, point])
def test_things_are_bounded(make: Any) -> None:
    """The thing that was seen longest ago makes room, not the one that came first."""
    relevance = RelevanceFilter(0.3, 0.6, max_remembered=2)
    relevance.causes("cam", seen(make(0)), 0)
    relevance.causes("cam", seen(make(100)), 1)
    relevance.causes("cam", seen(make(0)), 2)
    relevance.causes("cam", seen(make(200)), 3)
    assert relevance.causes("cam", seen(make(0)), 4) == []
    assert relevance.causes("cam", seen(make(100)), 5) == ["uncertain"]


def test_a_camera_id_of_any_length_costs_little(relevance: RelevanceFilter) -> None:
    """Of an id only the beginning is kept."""
    relevance.causes("x" * 1_000_000, seen(box()), 0)
    assert max(len(key or "") for key in relevance._histories) <= 200


def test_numbers_that_are_none_are_new_each_time(relevance: RelevanceFilter) -> None:
    """A logic that answers with nonsense costs no more than its image's place."""
    for x in (float("inf"), float("nan"), 1e300):
        relevance.causes("cam", seen(point(x), point(-x), classification(float("nan"))), 0)
    assert relevance.causes("cam", seen(box(width=0, height=-3)), 0) == ["uncertain"]
    assert relevance.causes("cam", seen(box(width=0, height=-3)), 1) == []


def test_what_was_found_is_not_changed(relevance: RelevanceFilter) -> None:
    """The same object goes to the client, and a logic may return it again."""
    found = seen(box(), outline(), point())
    before = repr(found)
    relevance.causes("cam", found, 0)
    assert repr(found) == before


def test_a_full_history_is_quick() -> None:
    """A hundred detections against a thousand remembered boxes take milliseconds (the bound has room for slow machines)."""
    relevance = RelevanceFilter(0.3, 0.6)
    for row in range(10):
        relevance.causes("cam", seen(*[box(100 * column, 100 * row) for column in range(100)]), 0)
    taken_s = []
    for turn in range(10):
        found = seen(*[box(100 * column, 100 * (turn + 20)) for column in range(100)])
        started_s = time.thread_time()
        relevance.causes("cam", found, 1)
        taken_s.append(time.thread_time() - started_s)
    assert min(taken_s) < 0.02


SIDES = st.integers(0, 12)
BOXES = st.builds(
    box,
    SIDES,
    SIDES,
    st.integers(1, 12),
    st.integers(1, 12),
    confidence=st.sampled_from([0.1, 0.3, 0.5, 0.6, 0.9]),
    category=st.sampled_from("ab"),
)
POINTS = st.builds(
    point,
    st.floats(0, 40),
    st.floats(0, 40),
    confidence=st.sampled_from([0.1, 0.3, 0.5, 0.6, 0.9]),
    category=st.sampled_from("ab"),
)
THINGS = st.lists(BOXES | POINTS, max_size=12)


def overlap(one: BoxDetection, other: BoxDetection) -> float:
    """Intersection over union by counting pixels."""

    def pixels(b: BoxDetection) -> set[tuple[int, int]]:
        return {(x, y) for x in range(b.x, b.x + b.width) for y in range(b.y, b.y + b.height)}

    return len(pixels(one) & pixels(other)) / len(pixels(one) | pixels(other))


@given(BOXES, BOXES)
def test_being_the_same_is_mutual(one: BoxDetection, other: BoxDetection) -> None:
    """Whichever of two boxes comes first, and as a count of their pixels says."""
    answers = []
    for first, second in ((one, other), (other, one)):
        relevance = RelevanceFilter(0, 1)
        relevance.causes(None, seen(first), 0)
        answers.append(relevance.causes(None, seen(second), 1) == [])
    is_same = one.category_name == other.category_name and overlap(one, other) >= 0.5
    assert answers == [is_same, is_same]


@given(THINGS, st.floats(0, HOUR_S))
def test_no_image_is_chosen_twice_within_the_hour(things: list[Any], later_s: float) -> None:
    """Boxes and points of an image are known when it comes again, whatever they are."""
    relevance = RelevanceFilter(0, 1)
    relevance.causes(None, seen(*things), 0)
    assert relevance.causes(None, seen(*things), later_s) == []


@given(THINGS, st.floats(HOUR_S + 1, 10 * HOUR_S))
def test_any_image_is_chosen_again_after_the_hour(things: list[Any], later_s: float) -> None:
    """Nothing of it is left then."""
    relevance = RelevanceFilter(0, 1)
    first = relevance.causes("cam", seen(*things), 0)
    assert relevance.causes("cam", seen(*things), later_s) == first


class Slowly:
    """The rules as slowly as they read: one list, one detection after the other."""

    def __init__(self) -> None:
        self.histories: dict[str | None, list[list[Any]]] = {}

    def causes(self, camera: str | None, found: ImageMetadata, now_s: float) -> list[str]:
        history = [entry for entry in self.histories.get(camera, []) if now_s - entry[1] <= FORGET_AFTER_S]
        self.histories[camera] = history
        causes = []
        for one in [*found.box_detections, *found.point_detections]:
            known = next((entry for entry in history if self.is_same(entry[0], one)), None)
            if known:
                known[1] = now_s
            else:
                history.append([one, now_s])
                causes += ["uncertain"] if 0.3 <= one.confidence <= 0.6 else []
        return causes[:1]

    def is_same(self, known: Any, one: Any) -> bool:
        if type(known) is not type(one) or known.category_name != one.category_name:
            return False
        if isinstance(one, BoxDetection):
            return overlap(known, one) >= 0.5
        return (known.x - one.x) ** 2 + (known.y - one.y) ** 2 < 100


IMAGES = st.lists(st.tuples(st.sampled_from([None, "left"]), THINGS, st.sampled_from([0, 1, 1800, 3600, 3601])))


@given(IMAGES)
def test_it_chooses_as_the_rules_say(images: Sequence[tuple[str | None, list[Any], int]]) -> None:
    """Any stream of images is judged as by the rules, one detection after the other."""
    relevance, slowly, now_s = RelevanceFilter(0.3, 0.6), Slowly(), 0
    for camera, things, later_s in images:
        now_s += later_s
        found = seen(*things)
        assert relevance.causes(camera, found, now_s) == slowly.causes(camera, found, now_s)


@given(st.lists(st.tuples(st.text(max_size=2), st.lists(BOXES | POINTS, max_size=8)), max_size=12))
def test_memory_is_bounded(images: Sequence[tuple[str, list[Any]]]) -> None:
    """Whatever clients call their cameras and whatever is in view, no bound is ever passed."""
    relevance = RelevanceFilter(0.3, 0.6, max_cameras=3, max_remembered=4)
    for now_s, (camera, things) in enumerate(images):
        relevance.causes(camera, seen(*things), now_s)
        assert len(relevance._histories) <= 3
        for history in relevance._histories.values():
            for things_of_a_form in (history.boxes, history.points):
                assert len(things_of_a_form.last_seen_s) <= 4
                assert things_of_a_form.places.shape[1] == len(things_of_a_form.categories) <= 4


def test_a_crowd_is_looked_at_in_pieces() -> None:
    """Things are recognised across the pieces in which a large answer is taken."""
    relevance = RelevanceFilter(0.3, 0.6, max_remembered=5000)
    crowd = [box(100 * index, confidence=0.9) for index in range(2500)]
    assert relevance.causes(None, seen(*crowd, *crowd), 0) == ["unexpected_observations_count"]
    assert len(relevance._histories[None].boxes.last_seen_s) == 2500
