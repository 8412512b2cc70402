"""PURE. What an upload of images means: which file goes with which, and what metadata say of an image."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final, Generic, Protocol, TypeVar
from uuid import uuid4

import attrs
from attrs import frozen

from loop_node.errors import InputError
from loop_node.schemas.detections import Detections, ImageMetadata
from loop_node.schemas.local_loop import ANNOTATION_LISTS, AnnotationSet, AnyAnnotation
from loop_node.schemas.wire import structure, unstructure

from .projects import Categories

__all__ = [
    "DETECTION_LISTS",
    "Pair",
    "annotations_of",
    "detections_by_model",
    "pair_files",
    "stored_annotations",
]

DETECTION_LISTS: Final = (
    "box_detections",
    "point_detections",
    "segmentation_detections",
    "classification_detections",
)
_IMAGE_SUFFIXES: Final = (".jpg", ".jpeg")


class _Named(Protocol):
    @property
    def filename(self) -> str: ...


File = TypeVar("File", bound=_Named)


@frozen
class Pair(Generic[File]):
    """An image and what is said of it."""

    stem: str
    image: File
    metadata: File


def pair_files(files: Sequence[File]) -> list[Pair[File]]:
    """Pair `stem.jpg` with `stem.json`, in the order of the images.

    Raises:
        InputError: A file without its partner, a stem twice, or a file that is neither.
    """
    images: dict[str, File] = {}
    metadata: dict[str, File] = {}
    for file in files:
        name = PurePosixPath(file.filename)
        suffix = name.suffix.lower()
        if suffix not in (*_IMAGE_SUFFIXES, ".json"):
            raise InputError(f"files: {file.filename[:100]!r} is neither .jpg nor .json")
        kind = metadata if suffix == ".json" else images
        if name.stem in kind:
            raise InputError(f"files: {name.stem[:100]!r} came twice as {suffix}; names must differ within a request")
        kind[name.stem] = file
    if not images and not metadata:
        raise InputError("files: no image came; send pairs of .jpg and .json with the same name")
    for stem in images.keys() ^ metadata.keys():
        missing = ".json" if stem in images else ".jpg"
        raise InputError(f"files: {stem[:100]!r} has no {missing}; images and metadata come in pairs of the same name")
    return [Pair(stem, image, metadata[stem]) for stem, image in images.items()]


def detections_by_model(found: ImageMetadata | Detections, categories: Categories) -> dict[str, dict[str, Any]]:
    """The four lists of each model that is named, ready to be stored, with categories by id."""
    by_model: dict[str, dict[str, Any]] = {}
    for name in DETECTION_LISTS:
        for detection in getattr(found, name):
            known = categories.find(detection.category_id, detection.category_name)
            with_id = attrs.evolve(detection, category_id=known.id if known else detection.category_id)
            lists = by_model.setdefault(detection.model_name, {each: [] for each in DETECTION_LISTS})
            lists[name].append(unstructure(with_id))
    return by_model


def annotations_of(metadata: ImageMetadata) -> AnnotationSet:
    """The annotations a node sends beside an image."""
    said = unstructure(metadata)
    wanted = ("box_annotations", "point_annotations", "classification_annotation")
    return structure(AnnotationSet, {name: said[name] for name in wanted})


def stored_annotations(given: AnnotationSet, image_id: str, categories: Categories, *, strict: bool) -> dict[str, Any]:
    """Annotations as records have them, each with an id, its image and its category's id.

    Args:
        given: As they came.
        image_id: Of their image.
        categories: Of their project.
        strict: Whether a category that the project does not have is refused; else it is kept by its name.

    Raises:
        InputError: Such a category, named with its place.
    """

    def stored(place: str, annotation: AnyAnnotation) -> dict[str, Any]:
        known = categories.find(annotation.category_id, annotation.category_name)
        if known is None and strict:
            named = annotation.category_id or annotation.category_name or ""
            names = ", ".join(one.name for one in categories.all[:20])
            raise InputError(f"{place}: the project has no category {named[:60]!r}; it has {names or 'none'}")
        fields: dict[str, Any] = unstructure(annotation)
        return fields | {
            "id": annotation.id or str(uuid4()),
            "image_id": image_id,
            "category_id": known.id if known else annotation.category_id,
            "category_name": known.name if known else annotation.category_name,
        }

    one = given.classification_annotation
    return {
        name: [stored(f"{name}[{index}]", each) for index, each in enumerate(getattr(given, name))]
        for name in ANNOTATION_LISTS
    } | {"classification_annotation": one and stored("classification_annotation", one)}


def merged_detections(stored: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The detections of all models in the four lists of a record."""
    by_model = list(stored)
    return {name: [found for one in by_model for found in one[name]] for name in DETECTION_LISTS}
