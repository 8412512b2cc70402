import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_node.errors import ModelError
from loop_node.inference.decoders import MAX_CANDIDATES, Found, classify, decode, mask_logits, suppress
from loop_node.inference.layouts import Layout, OutputLayout

BOXES = st.lists(
    st.tuples(
        st.integers(0, 20),
        st.integers(0, 20),
        st.integers(0, 12),
        st.integers(0, 12),
        st.integers(0, 10),
        st.integers(0, 2),
    ),
    max_size=25,
)


def _read(
    layout: Layout, *outputs: np.ndarray, conf: float = 0.25, iou: float = 0.5, size: tuple[int, int] = (64, 64)
) -> Found:
    place = OutputLayout(layout=layout, categories=None, outputs=tuple(range(len(outputs))))
    arrays = [np.asarray(output, np.float32)[None] for output in outputs]
    return decode(place, arrays, input_size=size, conf_threshold=conf, iou_threshold=iou)


def _slow_overlap(a, b) -> float:
    shared_x = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    shared_y = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared_x * shared_y
    return shared_x * shared_y / union if union > 0 else 0.0


def _slow_suppression(boxes, confidences, categories, threshold) -> list[int]:
    remaining = sorted(range(len(boxes)), key=lambda index: -confidences[index])
    stays = []
    while remaining:
        best = remaining.pop(0)
        stays.append(best)
        remaining = [
            other
            for other in remaining
            if categories[other] != categories[best] or _slow_overlap(boxes[best], boxes[other]) <= threshold
        ]
    return stays


@given(BOXES, st.sampled_from([0.0, 0.3, 0.45, 0.5, 0.99, 1.0]))
def test_suppression_agrees_with_its_definition(entries, threshold):
    """Take the best, drop its rivals of the same category, go on: written as slowly as it reads."""
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h, _, _ in entries], np.float64).reshape(-1, 4)
    confidences = np.array([entry[4] / 10 for entry in entries])
    categories = np.array([entry[5] for entry in entries], np.int64)
    fast = suppress(boxes, confidences, categories, threshold).tolist()
    assert fast == _slow_suppression(boxes.tolist(), confidences.tolist(), categories.tolist(), threshold)


def test_yolov8_reads_columns():
    """Centre, size, then a score per category; the best category wins, what is below the threshold is dropped."""
    found = _read(
        Layout.YOLOV8,
        np.array([(30, 20, 10, 8, 0.1, 0.9), (50, 50, 4, 4, 0.2, 0.1), (10, 10, 4, 6, 0.25, 0.0)]).T,
    )
    assert found.boxes.tolist() == [[25, 16, 35, 24], [8, 7, 12, 13]]
    assert found.confidences.tolist() == pytest.approx([0.9, 0.25])
    assert found.categories.tolist() == [1, 0]


def test_rivals_of_one_category_are_suppressed_and_others_are_not():
    """The same box twice as category 0 counts once; as category 1 it counts too."""
    found = _read(Layout.YOLOV8, np.array([(9, 9, 4, 4, 0.8, 0), (9, 9, 4, 4, 0.7, 0), (9, 9, 4, 4, 0, 0.6)]).T)
    assert found.categories.tolist() == [0, 1]


def test_yolov5_multiplies_objectness_and_score():
    """Neither alone decides."""
    found = _read(
        Layout.YOLOV5,
        np.array([(30, 20, 10, 8, 0.5, 0.2, 0.8), (10, 10, 4, 4, 0.9, 0.1, 0.1), (1, 1, 2, 2, 0.1, 1, 1)]),
    )
    assert found.boxes.tolist() == [[25, 16, 35, 24]]
    assert found.confidences.tolist() == pytest.approx([0.4])
    assert found.categories.tolist() == [1]


def test_yolox_counts_from_its_cells():
    """For 64x32 the strides 8, 16, 32 have 32, 8 and 2 cells; row 37 is column 1 of row 1 at stride 16."""
    rows = np.zeros((42, 6))
    rows[37] = (0.5, 0.25, np.log(2), np.log(1), 0.9, 1.0)
    rows[41] = (0.0, 0.5, 0.0, 0.0, 0.5, 1.0)  # the last cell: column 1 at stride 32
    found = _read(Layout.YOLOX, rows, size=(64, 32))
    assert found.boxes[0].tolist() == pytest.approx([24 - 16, 20 - 8, 24 + 16, 20 + 8])
    assert found.boxes[1].tolist() == pytest.approx([32 - 16, 16 - 16, 32 + 16, 16 + 16])


def test_yolox_must_have_a_row_per_cell():
    """Both numbers are in the error."""
    with pytest.raises(ModelError, match=r"has 84 rows for an input of 64x64, this output has 10"):
        _read(Layout.YOLOX, np.zeros((10, 6)))


def test_end2end_is_taken_as_it_is():
    """Corners, confidence, category; no further suppression."""
    found = _read(Layout.END2END, np.array([(1, 2, 3, 4, 0.3, 5), (1, 2, 3, 4, 0.9, 5), (0, 0, 0, 0, 0, 0)]))
    assert found.boxes.tolist() == [[1, 2, 3, 4]] * 2
    assert found.confidences.tolist() == pytest.approx([0.9, 0.3])
    assert found.categories.tolist() == [5, 5]


def test_ssd_is_in_fractions_and_ends_with_a_negative_image():
    """What follows the end mark is rubbish."""
    rows = [
        [(0, 2, 0.9, 0.25, 0.5, 0.5, 0.75), (0, 1, 0.1, 0, 0, 1, 1), (-1, 0, 0, 0, 0, 0, 0), (0, 3, 0.9, 0, 0, 1, 1)]
    ]
    found = _read(Layout.SSD, np.array(rows), size=(64, 32))
    assert found.boxes.tolist() == [[16, 16, 32, 24]]
    assert found.categories.tolist() == [2]


def test_segmentation_carries_its_masks_along():
    """A mask is the sum of the prototypes weighted by the factors of the box that stayed."""
    prototypes = np.stack([np.full((4, 4), 1.0), np.eye(4)])
    found = _read(
        Layout.YOLOV8_SEG,
        np.array([(9, 9, 4, 4, 0.7, 9, 9), (9, 9, 4, 4, 0.8, -1, 2)]).T,
        prototypes,
    )
    assert len(found.boxes) == 1
    assert mask_logits(found, 0).tolist() == (2 * np.eye(4) - 1).tolist()


def test_only_the_most_certain_candidates_go_into_suppression():
    """A thousand separate boxes end at the cap, and it is the best that stay."""
    count = 1000
    confidences = np.random.default_rng(3).permutation(np.linspace(0.3, 0.9, count))
    columns = np.stack(
        [np.arange(count) * 10 + 5, np.full(count, 5), np.full(count, 4), np.full(count, 4), confidences]
    )
    found = _read(Layout.YOLOV8, columns)
    assert len(found.boxes) == MAX_CANDIDATES
    assert found.confidences.min() == pytest.approx(np.sort(confidences)[-MAX_CANDIDATES], abs=1e-6)


@pytest.mark.parametrize(
    ("values", "index", "probability"),
    [
        ([0.1, 0.7, 0.2], 1, 0.7),
        ([0.0, np.log(3), 0.0], 1, 0.6),
        ([1000.0, -1000.0, 0.0], 0, 1.0),
        ([0.9, 0.9, 0.2], 0, np.exp(0.9) / (2 * np.exp(0.9) + np.exp(0.2))),
        ([np.nan, 1.0], 0, 0.0),
        ([np.inf, 1.0], 0, 0.0),
    ],
)
def test_a_classifier_answers_in_probabilities(values, index, probability):
    """Probabilities are taken as they are; all else goes through a softmax; no numbers, no answer."""
    assert classify(np.array([values], np.float32)) == (index, pytest.approx(probability, abs=1e-6))


WILD = st.lists(
    st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -1.0, 0.5, 1.0, 88.0, 1e30, -1e30, 3e38]),
    min_size=84 * 7,
    max_size=84 * 7,
)


@pytest.mark.filterwarnings("error")
@given(st.sampled_from([layout for layout in Layout if layout is not Layout.CLASSIFICATION]), WILD)
def test_wild_numbers_never_break_a_request(layout, values):
    """NaN, infinity and overflow find nothing, warn of nothing, raise nothing."""
    array = np.array(values, np.float32).reshape(84, 7)
    outputs = {
        Layout.YOLOV8: [array.T],
        Layout.YOLOV8_SEG: [array.T, array[:2].reshape(2, 7, 1)],
        Layout.END2END: [array[:, :6]],
        Layout.SSD: [array[None]],
    }.get(layout, [array])
    found = _read(layout, *outputs)
    assert np.isfinite(found.boxes).all()
    assert np.isfinite(found.confidences).all()
    assert (found.confidences <= 1).all()
    assert (found.categories >= 0).all()
