"""What clients of all generations say of images they hand in for upload.

An object of metadata has the fields of `ImageMetadata`, or those of them that there are; null is the same as none. Beyond
that, robots are taken as they are:

- Unknown fields are dropped; numbers are rounded where whole ones are needed; a shape may be a text or an object.
- Categories without an id get that of the model's category of the same name; where it has none they stay without.
- The date may be called `creation_date`. One that is no ISO 8601 date costs a warning, and the time of receipt takes its
  place, as where there is none.
- A `state` that images cannot be handed in with is dropped with a warning.
- What is said beside the object holds where the object says nothing; tags of both are kept, and `picked_by_system` is
  always among them.

All else that does not fit is refused, each fault named with its place.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import attrs
from attrs import frozen

from loop_node.errors import InputError, SchemaError
from loop_node.schemas.detections import (
    BoxAnnotation,
    BoxDetection,
    ClassificationAnnotation,
    ClassificationDetection,
    ImageMetadata,
    PointAnnotation,
    PointDetection,
    SegmentationDetection,
    now,
)
from loop_node.schemas.models import Category
from loop_node.schemas.wire import structure

from .detection import read_creation_date

__all__ = ["PICKED_TAG", "SaidBeside", "read_metadata_of_all", "read_upload_metadata"]

logger = logging.getLogger(__name__)

PICKED_TAG: Final = "picked_by_system"
_STATES: Final = ("inbox", "annotate", "review", "complete")
_MAX_PROBLEMS: Final = 20

Named = (
    BoxDetection
    | PointDetection
    | SegmentationDetection
    | ClassificationDetection
    | BoxAnnotation
    | PointAnnotation
    | ClassificationAnnotation
)


@frozen(kw_only=True)
class SaidBeside:
    """What a client says of its images beside their metadata."""

    source: str | None = None
    creation_date: str | None = None
    tags: Sequence[str] = ()


def read_upload_metadata(
    value: object,
    categories: Sequence[Category],
    *,
    beside: SaidBeside = SaidBeside(),
    field: str = "metadata",
) -> ImageMetadata:
    """Read what a client says of an image it hands in; `created` is always set.

    Args:
        value: An object as it came out of JSON; None is an empty one.
        categories: Those of the model, or none.
        beside: Holds where the object says nothing.
        field: How faults name the object.

    Raises:
        SchemaError: Something is wrong in it; names all faults, or the first twenty.
    """
    if value is not None and not isinstance(value, Mapping):
        raise SchemaError([f"{field}: an object is needed, not {type(value).__name__}"])
    said = {key: one for key, one in (value or {}).items() if one is not None}
    said["created"] = _created(said, beside)
    said["source"] = said.get("source") or beside.source
    if isinstance(tags := said.setdefault("tags", []), list):
        said["tags"] = _all_tags(tags, beside.tags)
    _drop_unknown_state(said)
    try:
        metadata = structure(ImageMetadata, said)
    except SchemaError as error:
        raise SchemaError(_bounded([f"{field}.{problem}" for problem in error.problems])) from None
    _fill_category_ids(metadata, categories)
    return metadata


def read_metadata_of_all(
    value: object,
    count: int,
    categories: Sequence[Category],
    *,
    beside: SaidBeside = SaidBeside(),
    field: str = "metadata",
) -> list[ImageMetadata]:
    """The same for several images: one object for all of them, or a list with one for each.

    The metadata of one object share its lists of detections and annotations: nobody may change them.

    Raises:
        InputError: A list of another length.
        SchemaError: As `read_upload_metadata`.
    """
    if not isinstance(value, list):
        metadata = read_upload_metadata(value, categories, beside=beside, field=field)
        return [attrs.evolve(metadata, tags=list(metadata.tags)) for _ in range(count)]
    if len(value) != count:
        raise InputError(f"{field}: a list needs one object for each image, {len(value)} came for {count} images")
    return [
        read_upload_metadata(one, categories, beside=beside, field=f"{field}[{index}]")
        for index, one in enumerate(value)
    ]


def _created(said: Mapping[str, Any], beside: SaidBeside) -> str:
    date = said.get("created") or said.get("creation_date") or beside.creation_date
    if date is not None and not isinstance(date, str):
        logger.warning(
            "a creation date that is no text but %s; the time of receipt takes its place", type(date).__name__
        )
        return now()
    return read_creation_date(date) or now()


def _all_tags(tags: Sequence[object], beside: Sequence[str]) -> list[object]:
    """Those of the object as they are, then what is said beside that is not among them; what is no text is told later."""
    known = {tag for tag in tags if isinstance(tag, str)}
    return [*tags, *(tag for tag in dict.fromkeys((*beside, PICKED_TAG)) if tag not in known)]


def _drop_unknown_state(said: dict[str, Any]) -> None:
    state = said.get("state")
    if state is not None and state not in _STATES:
        logger.warning("state %.40r is none of %s; the image goes without one", state, ", ".join(_STATES))
        del said["state"]


def _fill_category_ids(metadata: ImageMetadata, categories: Sequence[Category]) -> None:
    ids = {category.name: category.id for category in categories}
    for one in _named(metadata):
        one.category_id = one.category_id or ids.get(one.category_name)


def _named(metadata: ImageMetadata) -> Iterator[Named]:
    """All that has a category."""
    yield from metadata.box_detections
    yield from metadata.point_detections
    yield from metadata.segmentation_detections
    yield from metadata.classification_detections
    yield from metadata.box_annotations
    yield from metadata.point_annotations
    if metadata.classification_annotation is not None:
        yield metadata.classification_annotation


def _bounded(problems: list[str]) -> list[str]:
    more = len(problems) - _MAX_PROBLEMS
    return [*problems[:_MAX_PROBLEMS], f"and {more} more"] if more > 0 else problems
