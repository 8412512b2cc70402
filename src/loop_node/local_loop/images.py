"""Images: their records, and how new ones come in."""

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import msgspec
from attrs import frozen

from loop_node.durable import sync_files
from loop_node.errors import ImageError, InputError, NotFound, SchemaError
from loop_node.images import InspectedJpeg, inspect_jpeg
from loop_node.schemas.detections import Detections, ImageMetadata
from loop_node.schemas.local_loop import AnnotationSet, DataSet, ImageState
from loop_node.schemas.wire import structure

from .batches import annotations_of, detections_by_model, merged_detections, stored_annotations
from .folders import Folders, no_room_is_storage_full, place
from .geometry import refuse_impossible
from .projects import Project, now, require_project
from .thumbnails import keep_thumbnail

__all__ = [
    "MAX_IDS",
    "NewImage",
    "add_images",
    "attach_detections",
    "change_annotations",
    "change_state",
    "count_by_state",
    "ids_by_state",
    "keep_novelty_scores",
    "put_segmentation",
    "read_records",
    "remove_images",
    "require_image",
    "stage_image",
    "stage_pair",
]

MAX_IDS: Final = 1000
_MAX_METADATA_BYTES: Final = 16 << 20


@frozen(kw_only=True)
class NewImage:
    """An image that lies whole in `incoming` under `staged`, and its record to be."""

    id: str
    staged: Path
    inspected: InspectedJpeg
    name: str
    state: ImageState
    data_set: DataSet
    source: str | None
    created: str | None
    tags: list[str]
    size_bytes: int
    annotations: dict[str, Any]
    detections: dict[str, dict[str, Any]]


def stage_image(
    folders: Folders,
    project: Project,
    upload: Path,
    file: Path,
    filename: str,
    *,
    max_pixels: int,
    annotations: Callable[[InspectedJpeg], AnnotationSet] = lambda _: AnnotationSet(),
    metadata: ImageMetadata | None = None,
    state: ImageState = ImageState.INBOX,
    data_set: DataSet = DataSet.TRAIN,
    tags: Sequence[str] = (),
    strict: bool = True,
) -> NewImage:
    """Look at an image that has come in, and give it its id. Blocking.

    Raises:
        InputError: It is no whole JPEG, or its annotations do not fit the project; names the file.
        StorageFull: No room.
    """
    image_id = str(uuid4())
    data = file.read_bytes()
    metadata = metadata or ImageMetadata(tags=list(tags), created=now())
    try:
        inspected = inspect_jpeg(data, max_pixels=max_pixels)
        kept = stored_annotations(annotations(inspected), image_id, project.categories, strict=strict)
    except (ImageError, InputError) as error:
        raise InputError(f"{filename[:100]!r}: {error}") from error
    staged = file.rename(folders.staged_image(upload, project.number, image_id))
    with no_room_is_storage_full():
        sync_files([staged])
    return NewImage(
        id=image_id,
        staged=staged,
        inspected=inspected,
        name=Path(filename).stem,
        state=state,
        data_set=data_set,
        source=metadata.source,
        created=metadata.created or now(),
        tags=metadata.tags,
        size_bytes=len(data),
        annotations=kept,
        detections=detections_by_model(metadata, project.categories),
    )


def stage_pair(
    folders: Folders,
    project: Project,
    upload: Path,
    image: tuple[Path, str],
    metadata: tuple[Path, str],
    max_pixels: int,
) -> NewImage:
    """The same for an image with the metadata that a node sends beside it. Blocking.

    Args:
        folders: Where everything lies.
        project: Whose image it is.
        upload: The folder of its request.
        image: Its file and its name.
        metadata: The same of its metadata.
        max_pixels: More are refused.
    """
    said = _read_metadata(*metadata)
    state = ImageState(said.state) if said.state in list(ImageState) else ImageState.INBOX
    return stage_image(
        folders,
        project,
        upload,
        *image,
        max_pixels=max_pixels,
        annotations=lambda _: annotations_of(said),
        metadata=said,
        state=state,
        strict=False,
    )


def _read_metadata(file: Path, filename: str) -> ImageMetadata:
    if file.stat().st_size > _MAX_METADATA_BYTES:
        raise InputError(f"{filename[:100]!r}: metadata of more than {_MAX_METADATA_BYTES} bytes")
    try:
        said = msgspec.json.decode(file.read_bytes())
        return structure(ImageMetadata, said)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, SchemaError) as error:
        raise InputError(f"{filename[:100]!r}: {error}") from error


def add_images(folders: Folders, db: sqlite3.Connection, project: Project, images: Sequence[NewImage]) -> list[str]:
    """Place the files and write the records; returns the ids.

    Within one transaction, which needs `remove_images` as its undo.

    Raises:
        NotFound: The project has gone meanwhile.
        StorageFull: No room.
    """
    require_project(db, project)
    with no_room_is_storage_full():
        place((image.staged, folders.image(project.number, image.id)) for image in images)
    write_records(db, project, images)
    for image in images:
        keep_thumbnail(folders.thumbnail(project.number, image.id), image.inspected.thumbnail)
    return [image.id for image in images]


def write_records(db: sqlite3.Connection, project: Project, images: Sequence[NewImage]) -> None:
    """Write the records of images whose files have their places."""
    db.executemany(
        'INSERT INTO images (id, project_id, name, state, "set", source, created, received, width, height, size_bytes,'
        " tags_json, annotations_json) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [_row(project.number, image, now()) for image in images],
    )
    for image in images:
        _put_detections(db, image.id, image.detections)


def remove_images(folders: Folders, project: Project, images: Iterable[NewImage]) -> None:
    """Remove the files of images that got no records. Blocking."""
    for image in images:
        folders.image(project.number, image.id).unlink(missing_ok=True)
        folders.thumbnail(project.number, image.id).unlink(missing_ok=True)


def _row(project: int, image: NewImage, received: str) -> tuple[Any, ...]:
    return (
        image.id,
        project,
        image.name,
        image.state.value,
        image.data_set.value,
        image.source,
        image.created,
        received,
        image.inspected.width_px,
        image.inspected.height_px,
        image.size_bytes,
        json.dumps(image.tags),
        json.dumps(image.annotations),
    )


def _put_detections(db: sqlite3.Connection, image_id: str, by_model: dict[str, dict[str, Any]]) -> None:
    db.executemany(
        "INSERT OR REPLACE INTO detections VALUES (?, ?, ?)",
        [(image_id, model, json.dumps(found)) for model, found in by_model.items()],
    )


def ids_by_state(db: sqlite3.Connection, project: Project, states: Sequence[ImageState]) -> list[str]:
    """The images in these states, in the order they came."""
    marks = ",".join("?" * len(states))
    rows = db.execute(
        f"SELECT id FROM images WHERE project_id = ? AND state IN ({marks}) ORDER BY number",  # noqa: S608  # marks alone
        (project.number, *states),
    )
    return [image_id for (image_id,) in rows]


def newest_of_state(
    db: sqlite3.Connection, project: Project, state: ImageState, *, limit: int, offset: int
) -> list[str]:
    """Some of the images in this state, the one that came last first; time grows with `offset`, memory does not."""
    rows = db.execute(
        "SELECT id FROM images WHERE number IN (SELECT number FROM images WHERE project_id = ? AND state = ?"
        " ORDER BY number DESC LIMIT ? OFFSET ?) ORDER BY number DESC",  # the inner one reads the index alone
        (project.number, state.value, limit, offset),
    )
    return [image_id for (image_id,) in rows]


def count_by_state(db: sqlite3.Connection, project: Project) -> dict[str, int]:
    """How many images are in each state."""
    found = dict(
        db.execute(
            "SELECT state, count(*) FROM images WHERE project_id = ? GROUP BY state", (project.number,)
        ).fetchall()
    )
    return {state.value: found.get(state.value, 0) for state in ImageState}


def read_records(
    db: sqlite3.Connection, project: Project, ids: Sequence[str], *, model_version: str | None = None
) -> list[dict[str, Any]]:
    """The records of those of `ids` that are there, in that order.

    Args:
        db: The store's.
        project: Whose images.
        ids: At most `MAX_IDS`.
        model_version: Leave out what other models found.
    """
    if len(ids) > MAX_IDS:
        raise InputError(f"ids: at most {MAX_IDS} at once, {len(ids)} came")
    wanted = json.dumps(list(ids))
    rows = {
        row["id"]: row
        for row in db.execute(
            "SELECT * FROM images WHERE project_id = ? AND id IN (SELECT value FROM json_each(?))",
            (project.number, wanted),
        )
    }
    found: dict[str, list[Any]] = {image_id: [] for image_id in rows}
    for image_id, model, detections in db.execute(
        "SELECT * FROM detections WHERE image_id IN (SELECT value FROM json_each(?)) ORDER BY image_id, model_name",
        (wanted,),
    ):
        if image_id in found and model_version in (None, model):
            found[image_id].append(json.loads(detections))
    return [_record(project, rows[image_id], found[image_id]) for image_id in dict.fromkeys(ids) if image_id in rows]


def _record(project: Project, row: sqlite3.Row, detections: Iterable[Any]) -> dict[str, Any]:
    resource = f"{project.resource}/images/{row['id']}"
    tags = json.loads(row["tags_json"])
    return {
        "id": row["id"],
        "name": row["name"],
        "created": row["created"],
        "received": row["received"],
        "state": row["state"],
        "set": row["set"],
        "source": row["source"],
        "resource": resource,
        "thumbnail": f"{resource}/thumbnail",
        "width": row["width"],
        "height": row["height"],
        "size_bytes": row["size_bytes"],
        "tags": [{"id": tag, "name": tag} for tag in tags],
        "novelty_score": row["novelty_score"],
        **json.loads(row["annotations_json"]),
        **merged_detections(detections),
    }


def require_image(db: sqlite3.Connection, project: Project, image_id: str) -> sqlite3.Row:
    """The row of one image.

    Raises:
        NotFound: The project has none of this id.
    """
    row: sqlite3.Row | None = db.execute(
        "SELECT * FROM images WHERE project_id = ? AND id = ?", (project.number, image_id)
    ).fetchone()
    if row is None:
        raise NotFound(f"{project.resource} has no image {image_id[:60]!r}")
    return row


def change_annotations(db: sqlite3.Connection, project: Project, image_id: str, given: AnnotationSet) -> None:
    """Put these in the place of all annotations of an image.

    Raises:
        InputError: A category that the project does not have, or what lies outside of the image.
        NotFound: The project has no such image.
    """
    row = require_image(db, project, image_id)
    refuse_impossible(given, row["width"], row["height"])
    kept = stored_annotations(given, image_id, project.categories, strict=True)
    db.execute("UPDATE images SET annotations_json = ? WHERE id = ?", (json.dumps(kept), image_id))


def put_segmentation(db: sqlite3.Connection, project: Project, given: AnnotationSet, image_id: str) -> None:
    """Add outlines to an image; one with an id that is there already takes its place."""
    row = require_image(db, project, image_id)
    new = stored_annotations(given, image_id, project.categories, strict=True)["segmentation_annotations"]
    kept = json.loads(row["annotations_json"])
    ids = {one["id"] for one in new}
    kept["segmentation_annotations"] = [one for one in kept["segmentation_annotations"] if one["id"] not in ids] + new
    db.execute("UPDATE images SET annotations_json = ? WHERE id = ?", (json.dumps(kept), image_id))


def change_state(db: sqlite3.Connection, project: Project, ids: Sequence[str], state: ImageState) -> int:
    """Move images to a state, all or none.

    Raises:
        NotFound: The project does not have one of them.
    """
    for image_id in ids:
        require_image(db, project, image_id)
    db.executemany("UPDATE images SET state = ? WHERE id = ?", [(state.value, image_id) for image_id in ids])
    return len(ids)


def keep_novelty_scores(db: sqlite3.Connection, project: Project, scores: Mapping[str, int]) -> None:
    """Write down how new each image is, all or none.

    Raises:
        NotFound: The project does not have one of them.
    """
    for image_id in scores:
        require_image(db, project, image_id)
    db.executemany("UPDATE images SET novelty_score = ? WHERE id = ?", [(score, one) for one, score in scores.items()])


def attach_detections(db: sqlite3.Connection, project: Project, given: Sequence[Detections]) -> list[str]:
    """Keep what a trainer found; images that have gone meanwhile are passed over.

    Returns:
        The ids that are not there.

    Raises:
        InputError: A detection without its image.
        NotFound: None of the images is there.
    """
    unknown: list[str] = []
    for index, one in enumerate(given):
        if one.image_id is None:
            raise InputError(f"[{index}].image_id: is missing")
        try:
            require_image(db, project, one.image_id)
        except NotFound:
            unknown.append(one.image_id)
        else:
            _put_detections(db, one.image_id, detections_by_model(one, project.categories))
    if given and len(unknown) == len(given):
        raise NotFound(f"{project.resource} has none of these images, for example {unknown[0][:60]!r}")
    return unknown
