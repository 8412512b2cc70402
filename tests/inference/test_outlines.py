import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from loop_node.inference.outlines import MAX_POINTS, enlarge, outline, simplify

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=6))


def _area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


def _flood(free: np.ndarray, first: tuple[int, int], steps: list[tuple[int, int]]) -> set[tuple[int, int]]:
    reached, pending = {first}, [first]
    while pending:
        y, x = pending.pop()
        near = {(y + down, x + right) for down, right in steps} - reached
        found = [pixel for pixel in near if min(pixel) >= 0 and np.less(pixel, free.shape).all() and free[pixel]]
        reached.update(found)
        pending += found
    return reached


def _largest_region(mask: np.ndarray) -> int:
    """Pixels of the largest 4-connected region with its holes filled, by flooding it and then what is around it."""
    cross = [(1, 0), (-1, 0), (0, 1), (0, -1)]
    padded = np.pad(mask, 1)
    sizes = [0]
    for first in map(tuple, np.argwhere(padded).tolist()):
        around = np.ones(padded.shape, bool)
        around[tuple(np.transpose(sorted(_flood(padded, first, cross))))] = False
        sizes.append(around.size - len(_flood(around, (0, 0), [*cross, (1, 1), (1, -1), (-1, 1), (-1, -1)])))
    return max(sizes)


@given(MASKS)
def test_the_outline_encloses_the_largest_region(mask):
    """Its area is that region's number of pixels with holes filled, and it runs clockwise."""
    traced = outline(mask)
    if traced is None:
        assert not mask.any()
    else:
        assert _area(traced) == _largest_region(mask)


def test_a_rectangle_has_four_corners():
    """Along the pixels' outer edges, so width and height are those of the rectangle."""
    mask = np.zeros((10, 12), bool)
    mask[2:5, 3:9] = True
    assert sorted(outline(mask).tolist()) == sorted([[3, 2], [9, 2], [9, 5], [3, 5]])


def test_regions_that_touch_at_a_corner_stay_apart():
    """4 neighbours: two pixels on a diagonal are two regions."""
    assert _area(outline(np.eye(2, dtype=bool))) == 1


def test_noise_has_no_outline():
    """A checkerboard is refused before it costs time."""
    assert outline(np.indices((300, 300)).sum(axis=0) % 2 == 0) is None


@given(MASKS, st.floats(0, 3))
def test_simplified_outlines_leave_out_corners_only(mask, tolerance):
    """Every corner left was a corner before, in the same order."""
    traced = outline(mask)
    if traced is not None:
        corners = simplify(traced, tolerance).tolist()
        assert [corner for corner in traced.tolist() if corner in corners][: len(corners)] == corners


def test_a_circle_keeps_its_area_with_few_corners():
    """Within the tolerance of one pixel, and never more than the bound."""
    rows, columns = np.mgrid[:400, :400]
    traced = outline((rows - 200) ** 2 + (columns - 200) ** 2 < 180**2)
    few = simplify(traced, 1.0)
    assert len(few) <= 100
    assert _area(few) == pytest.approx(_area(traced), rel=0.02)


def test_the_number_of_corners_is_bounded():
    """However ragged the mask: the tolerance grows until the corners suffice."""
    heights = np.random.default_rng(0).integers(0, 40, 150)
    ragged = np.arange(80)[:, None] > heights[None, :]
    traced = outline(ragged)
    assert len(traced) > 2 * MAX_POINTS
    assert 3 <= len(simplify(traced, 0.0)) <= MAX_POINTS


def test_enlarging_is_linear_between_centres():
    """Half-pixel centred: 0, 1 becomes 0, 0.25, 0.75, 1."""
    assert enlarge(np.array([[0.0, 1.0]]), (4, 1)).tolist() == [[0, 0.25, 0.75, 1]]
