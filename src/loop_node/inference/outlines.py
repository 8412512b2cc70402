"""The outer contour of a mask as a polygon with few corners. Pure.

The contour runs along the edges between pixels, clockwise as seen on the screen, so a mask's polygon encloses exactly
its pixels until it is simplified (Douglas and Peucker, 1973).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_POINTS", "enlarge", "outline", "simplify"]

MAX_POINTS = 128
"""Corners of a polygon at most; the tolerance is doubled until they suffice."""

_MAX_EDGES = 8_000  # a mask with more pixel edges is noise, and would cost milliseconds to walk

_STEPS = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])  # east, south, west, north


def outline(mask: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    """Trace the largest connected part (4 neighbours) of a mask.

    Args:
        mask: Shape (h, w).

    Returns:
        Corners of the contour as x, y in 0..w, 0..h, shape (n, 2); None if the mask is empty or mere noise.
    """
    starts, directions = _edges(mask)
    if not 0 < len(starts) <= _MAX_EDGES:
        return None
    loops = _loops(_chain(starts, directions, mask.shape[1] + 1))
    return _without_straights(starts[loops[_largest(loops, starts, directions)]])


def simplify(polygon: NDArray[Any], tolerance: float, most: int = MAX_POINTS) -> NDArray[Any]:
    """Leave out corners of a closed polygon (n, 2) that are less than `tolerance` from the line without them."""
    while True:
        opposite = int(np.argmax(((polygon - polygon[0]) ** 2).sum(axis=1)))
        closed = np.concatenate([polygon, polygon[:1]])
        kept = sorted(_needed(closed, 0, opposite, tolerance) | _needed(closed, opposite, len(polygon), tolerance))
        if len(kept) <= most:
            return polygon[kept]
        tolerance = max(tolerance, 0.5) * 2


def enlarge(values: NDArray[np.floating[Any]], size: tuple[int, int]) -> NDArray[np.floating[Any]]:
    """Resample (h, w) bilinearly, half-pixel centred, to `size` (width, height)."""
    before, after, weights = _neighbours(values.shape[0], size[1], values.dtype)
    tall = values[before] + (values[after] - values[before]) * weights[:, None]
    before, after, weights = _neighbours(values.shape[1], size[0], values.dtype)
    left = np.take(tall, before, axis=1)
    enlarged: NDArray[np.floating[Any]] = left + (np.take(tall, after, axis=1) - left) * weights
    return enlarged


def _neighbours(
    sources: int, targets: int, dtype: np.dtype[Any]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[Any]]:
    """For each target the sources before and after it, and how near it is to the latter; held beyond the ends."""
    positions = np.clip((np.arange(targets) + 0.5) * sources / targets - 0.5, 0, sources - 1)
    before = positions.astype(np.intp)
    return before, np.minimum(before + 1, sources - 1), (positions - before).astype(dtype)


def _edges(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All pixel edges between inside and outside, directed with the inside to the right: start (n, 2) and direction."""
    padded = np.pad(mask, 1)
    inside, outside = padded[1:-1, 1:-1], ~padded
    neighbours = (outside[:-2, 1:-1], outside[1:-1, 2:], outside[2:, 1:-1], outside[1:-1, :-2])
    offsets = ((0, 0), (1, 0), (1, 1), (0, 1))  # where the edge of each side starts, seen from the pixel
    starts, directions = [], []
    for direction, (neighbour, offset) in enumerate(zip(neighbours, offsets, strict=True)):
        rows, columns = np.divmod(np.flatnonzero(inside & neighbour), mask.shape[1])
        starts.append(np.stack([columns + offset[0], rows + offset[1]], axis=1))
        directions.append(np.full(len(rows), direction))
    return np.concatenate(starts), np.concatenate(directions)


def _chain(starts: NDArray[np.int64], directions: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """The edge that follows each edge. Where two regions touch at a corner, turning right keeps them apart."""
    corners = starts[:, 1] * width + starts[:, 0]
    ends = starts + _STEPS[directions]
    reached = ends[:, 1] * width + ends[:, 0]
    leaving = np.full((4, int(max(corners.max(), reached.max())) + 1), -1)
    leaving[directions, corners] = np.arange(len(starts))
    right, straight, left = (leaving[(directions + turn) % 4, reached] for turn in (1, 0, 3))
    following: NDArray[np.int64] = np.where(right >= 0, right, np.where(straight >= 0, straight, left))
    return following


def _loops(following: NDArray[np.int64]) -> list[list[int]]:
    next_edge = following.tolist()
    seen = bytearray(len(next_edge))
    loops = []
    for first in range(len(next_edge)):
        loop = []
        edge = first
        while not seen[edge]:
            seen[edge] = 1
            loop.append(edge)
            edge = next_edge[edge]
        if loop:
            loops.append(loop)
    return loops


def _largest(loops: list[list[int]], starts: NDArray[np.int64], directions: NDArray[np.int64]) -> int:
    """The loop around the largest area, by the shoelace formula: outer contours count positive, holes negative."""
    ends = starts + _STEPS[directions]
    shares = starts[:, 0] * ends[:, 1] - ends[:, 0] * starts[:, 1]
    offsets = np.cumsum([0] + [len(loop) for loop in loops[:-1]])
    return int(np.add.reduceat(shares[np.concatenate(loops)], offsets).argmax())


def _without_straights(polygon: NDArray[np.int64]) -> NDArray[np.int64]:
    before, after = polygon - np.roll(polygon, 1, axis=0), np.roll(polygon, -1, axis=0) - polygon
    turns: NDArray[np.bool_] = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    return polygon[turns]


def _needed(points: NDArray[Any], first: int, last: int, tolerance: float) -> set[int]:
    """Indices in first..last-1 that the line needs."""
    needed = {first}
    pending = [(first, last)]
    while pending:
        start, end = pending.pop()
        if end - start < 2:
            continue
        distances = _distances(points[start + 1 : end], points[start], points[end])
        farthest = int(distances.argmax())
        if distances[farthest] > tolerance:
            middle = start + 1 + farthest
            needed.add(middle)
            pending += [(start, middle), (middle, end)]
    return needed


def _distances(points: NDArray[Any], start: NDArray[Any], end: NDArray[Any]) -> NDArray[np.float64]:
    along, offsets = (end - start).astype(np.float64), (points - start).astype(np.float64)
    length = float(np.hypot(*along))
    crossed: NDArray[np.float64] = along[0] * offsets[:, 1] - along[1] * offsets[:, 0]
    apart: NDArray[np.float64] = np.hypot(offsets[:, 0], offsets[:, 1])
    return np.abs(crossed) / length if length else apart
