"""PURE. What a COCO file says of images, as annotations of a project.

The document is an object with `images`, `annotations` and `categories`. Its images are matched by file name, its categories
by name; the type of the project's category decides what an annotation becomes. Lengths are pixels of the upright image.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from attrs import Factory, define, frozen

from loop_node.errors import InputError, SchemaError
from loop_node.schemas.detections import Point, Shape
from loop_node.schemas.local_loop import (
    AnnotationSet,
    BoxAnnotationIn,
    ClassificationAnnotationIn,
    PointAnnotationIn,
    SegmentationAnnotationIn,
)
from loop_node.schemas.models import Category, CategoryType
from loop_node.schemas.wire import structure

from .projects import Categories

__all__ = ["CocoFile", "read_coco"]

_LARGEST: Final = 2**53
_MAX_NAMED: Final = 20
"""Faults and names that one error lists."""

Corners = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@define(kw_only=True)
class CocoImage:
    """An entry of `images`."""

    id: int
    file_name: str
    width: int | None = None
    height: int | None = None

    @property
    def bare_name(self) -> str:
        """The file name without its folders."""
        return _bare(self.file_name)


@define(kw_only=True)
class CocoCategory:
    """An entry of `categories`."""

    id: int
    name: str


@define(kw_only=True)
class CocoAnnotation:
    """An entry of `annotations`; `bbox` is x, y, width, height, a segmentation a list of polygons or run lengths."""

    image_id: int
    category_id: int
    bbox: list[float] | None = None
    segmentation: Any = None


@define(kw_only=True)
class CocoDocument:
    """All of it that matters here."""

    images: list[CocoImage]
    annotations: list[CocoAnnotation] = Factory(list)
    categories: list[CocoCategory] = Factory(list)


@frozen(kw_only=True)
class _Mark:
    """An annotation whose category is known; `place` is its path in the document."""

    place: str
    category: Category
    corners: Corners | None
    polygons: Sequence[Sequence[float]]
    has_run_lengths: bool


@frozen
class CocoFile:
    """A document that was checked and is indexed by image."""

    _by_file_name: Mapping[str, Sequence[CocoImage]]
    _by_bare_name: Mapping[str, Sequence[CocoImage]]
    _marks: Mapping[int, Sequence[_Mark]]

    def annotations_for(self, filename: str, width_px: int, height_px: int) -> AnnotationSet:
        """What the document says of one image; nothing where it does not know it.

        Args:
            filename: As it came, with or without folders.
            width_px: Of the upright image.
            height_px: The same.

        Raises:
            InputError: The name fits several images of the document, the document's size is another, two classifications,
                or an outline that is there as run lengths alone.
        """
        found = self._find(filename)
        if len(found) > 1:
            names = ", ".join(repr(image.file_name[:100]) for image in found[:_MAX_NAMED])
            raise InputError(f"the COCO file has several images of this name: {names}; file names must differ")
        given = AnnotationSet()
        for image in found:
            _check_size(image, width_px, height_px)
            for mark in self._marks.get(image.id, ()):
                _ADD[mark.category.type or CategoryType.BOX](given, mark, width_px, height_px)
        return given

    def unmatched(self, filenames: Iterable[str]) -> list[str]:
        """The document's file names that none of `filenames` stands for, in its order."""
        met = {image.id for filename in filenames for image in self._find(filename)}
        everything = (image for images in self._by_file_name.values() for image in images)
        return [image.file_name for image in everything if image.id not in met]

    def _find(self, filename: str) -> Sequence[CocoImage]:
        return self._by_file_name.get(filename) or self._by_bare_name.get(_bare(filename), ())


def read_coco(document: object, categories: Categories) -> CocoFile:
    """Check a parsed COCO file against the categories of a project.

    Raises:
        SchemaError: Something is missing or wrong in it; faults with their paths.
        InputError: It has annotations of categories that the project does not have; lists them.
    """
    coco = structure(CocoDocument, document)
    _refuse_ids_that_repeat("images", (image.id for image in coco.images))
    _refuse_ids_that_repeat("categories", (category.id for category in coco.categories))
    names = {category.id: category.name for category in coco.categories}
    images = {image.id for image in coco.images}
    faults: list[str] = []
    for index, annotation in enumerate(coco.annotations):
        faults += (f"annotations[{index}].{fault}" for fault in _faults(annotation, names, images))
        if len(faults) >= _MAX_NAMED:
            break
    if faults:
        raise SchemaError(faults)
    known = _known_categories(coco, names, categories)
    marks: dict[int, list[_Mark]] = {}
    for index, annotation in enumerate(coco.annotations):
        mark = _mark(f"annotations[{index}]", annotation, known[annotation.category_id])
        marks.setdefault(annotation.image_id, []).append(mark)
    by_file_name: dict[str, list[CocoImage]] = {}
    by_bare_name: dict[str, list[CocoImage]] = {}
    for image in coco.images:
        by_file_name.setdefault(image.file_name, []).append(image)
        by_bare_name.setdefault(image.bare_name, []).append(image)
    return CocoFile(by_file_name, by_bare_name, marks)


def _bare(filename: str) -> str:
    return filename.replace("\\", "/").rpartition("/")[2]


def _refuse_ids_that_repeat(name: str, ids: Iterable[int]) -> None:
    met: set[int] = set()
    for index, number in enumerate(ids):
        if number in met:
            raise SchemaError([f"{name}[{index}].id: {number} came before; ids must differ"])
        met.add(number)


def _faults(annotation: CocoAnnotation, names: Mapping[int, str], images: set[int]) -> Iterable[str]:
    if annotation.category_id not in names:
        yield f"category_id: there is no category {annotation.category_id}"
    if annotation.image_id not in images:
        yield f"image_id: there is no image {annotation.image_id}"
    box = annotation.bbox
    if box and (len(box) != 4 or min(box[2:]) < 0):
        yield "bbox: [x, y, width, height] is needed, width and height not below 0"
    outlines = annotation.segmentation
    if isinstance(outlines, list):
        for index, polygon in enumerate(outlines):
            if not _is_polygon(polygon):
                yield f"segmentation[{index}]: [x1, y1, x2, y2, x3, y3, ...] is needed"
    elif outlines is not None and not isinstance(outlines, Mapping):
        yield "segmentation: a list of polygons is needed"


def _is_polygon(polygon: object) -> bool:
    return isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 and all(map(_is_number, polygon))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _known_categories(coco: CocoDocument, names: Mapping[int, str], categories: Categories) -> dict[int, Category]:
    """The project's categories by the document's ids; those that no annotation uses need not be there."""
    used = {annotation.category_id for annotation in coco.annotations}
    found = {number: categories.find(None, names[number]) for number in names if number in used}
    missing = [names[number] for number in found if found[number] is None]
    if missing:
        listed = ", ".join(repr(name[:60]) for name in missing[:_MAX_NAMED])
        more = f" and {len(missing) - _MAX_NAMED} more" if len(missing) > _MAX_NAMED else ""
        raise InputError(f"the project lacks these categories of the COCO file: {listed}{more}; make them first")
    return {number: category for number, category in found.items() if category is not None}


def _mark(place: str, annotation: CocoAnnotation, category: Category) -> _Mark:
    outlines = annotation.segmentation
    polygons = outlines if isinstance(outlines, list) else ()
    return _Mark(
        place=place,
        category=category,
        corners=_corners(annotation.bbox, polygons),
        polygons=polygons,
        has_run_lengths=isinstance(outlines, Mapping),
    )


def _corners(box: list[float] | None, polygons: Sequence[Sequence[float]]) -> Corners | None:
    if box:
        x, y, width, height = box
        return x, y, x + width, y + height
    if not polygons:
        return None
    xs = [x for polygon in polygons for x in polygon[::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def _check_size(image: CocoImage, width_px: int, height_px: int) -> None:
    if (image.width or width_px, image.height or height_px) != (width_px, height_px):
        raise InputError(
            f"the COCO file says {image.width} x {image.height} pixels, the upright image has {width_px} x {height_px};"
            " its coordinates must be those of the image with its EXIF orientation applied"
        )


def _require_corners(mark: _Mark) -> Corners:
    if mark.corners is None:
        raise InputError(f"{mark.place}: a bbox or polygons are needed; run lengths are not read")
    return mark.corners


def _add_box(given: AnnotationSet, mark: _Mark, width_px: int, height_px: int) -> None:
    left, top, right, bottom = map(round, _require_corners(mark))
    left, right = max(0, left), min(width_px, right)
    top, bottom = max(0, top), min(height_px, bottom)
    if left < right and top < bottom:
        given.box_annotations.append(
            BoxAnnotationIn(x=left, y=top, width=right - left, height=bottom - top, category_id=mark.category.id)
        )


def _add_point(given: AnnotationSet, mark: _Mark, width_px: int, height_px: int) -> None:
    left, top, right, bottom = _require_corners(mark)
    x, y = (left + right) / 2, (top + bottom) / 2
    if 0 <= x <= width_px and 0 <= y <= height_px:
        given.point_annotations.append(PointAnnotationIn(x=x, y=y, category_id=mark.category.id))


def _add_outlines(given: AnnotationSet, mark: _Mark, width_px: int, height_px: int) -> None:
    if mark.has_run_lengths:
        raise InputError(f"{mark.place}.segmentation: polygons are needed for outlines; run lengths are not read")
    polygons = mark.polygons or [_rectangle(_require_corners(mark))]
    for polygon in polygons:
        points = _clip(list(zip(polygon[::2], polygon[1::2], strict=True)), width_px, height_px)
        if len(points) >= 3:
            shape = Shape(points=[Point(x=x, y=y) for x, y in points])
            given.segmentation_annotations.append(SegmentationAnnotationIn(shape=shape, category_id=mark.category.id))


def _rectangle(corners: Corners) -> list[float]:
    left, top, right, bottom = corners
    return [left, top, right, top, right, bottom, left, bottom]


def _clip(points: list[tuple[float, float]], width_px: int, height_px: int) -> list[tuple[int, int]]:
    """The part of a polygon inside of the image (Sutherland and Hodgman's way, an edge after the other), in whole pixels."""
    for axis, limit, sign in ((0, 0, 1), (1, 0, 1), (0, width_px, -1), (1, height_px, -1)):
        kept: list[tuple[float, float]] = []
        for before, here in zip([*points[-1:], *points[:-1]], points, strict=True):
            inside_before, inside = ((point[axis] - limit) * sign >= 0 for point in (before, here))
            if inside_before != inside:
                part = (limit - before[axis]) / (here[axis] - before[axis])
                across = before[1 - axis] + part * (here[1 - axis] - before[1 - axis])
                kept.append((limit, across) if axis == 0 else (across, limit))
            if inside:
                kept.append(here)
        points = kept
    whole = [(round(x), round(y)) for x, y in points]
    return [point for index, point in enumerate(whole) if point != whole[index - 1]]


def _add_classification(given: AnnotationSet, mark: _Mark, width_px: int, height_px: int) -> None:  # noqa: ARG001  # as its neighbours
    said = given.classification_annotation
    if said is not None and said.category_id != mark.category.id:
        raise InputError(f"{mark.place}: a second classification, {mark.category.name[:60]!r}; an image can have one")
    given.classification_annotation = ClassificationAnnotationIn(category_id=mark.category.id)


_ADD: Final = {
    CategoryType.BOX: _add_box,
    CategoryType.POINT: _add_point,
    CategoryType.SEGMENTATION: _add_outlines,
    CategoryType.CLASSIFICATION: _add_classification,
}
