"""Models: their versions, their files per format, the one that detectors are to follow.

A version is `major.minor`. The models of training n are n.0, n.1, ...; a model that is uploaded gets the next major, `.0`.
"""

import json
import re
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from attrs import frozen

from loop_node.durable import sync_files
from loop_node.errors import Conflict, InputError, NotFound

from .folders import Folders, no_room_is_storage_full, place
from .model_zips import make_zip
from .projects import Project, now, require_project

__all__ = [
    "PlannedModel",
    "add_file",
    "check_format",
    "create_model",
    "find_by_version",
    "find_model",
    "formats_of",
    "keep_model",
    "latest_of_training",
    "list_models",
    "plan_format",
    "plan_of_training",
    "plan_upload",
    "set_target",
    "stage_model",
    "target_of",
    "version_of",
]

_FORMAT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")
_VERSION: Final = re.compile(r"[0-9]{1,9}\.[0-9]{1,9}")


def check_format(model_format: str) -> None:
    """Refuse a format that could not be a file's name.

    Raises:
        InputError: Other characters than letters, digits and `_.+-`.
    """
    if not _FORMAT.fullmatch(model_format):
        raise InputError(f"format: letters, digits and any of _.+- are needed, not {model_format[:40]!r}")


def version_of(row: sqlite3.Row) -> str:
    """`major.minor`."""
    return f"{row['major']}.{row['minor']}"


def next_major(db: sqlite3.Connection, project: Project) -> int:
    """The first major that neither a model nor a training has."""
    (model,) = db.execute("SELECT max(major) FROM models WHERE project_id = ?", (project.number,)).fetchone()
    (training,) = db.execute("SELECT max(number) FROM trainings WHERE project_id = ?", (project.number,)).fetchone()
    return max(model or 0, training or 0) + 1


def _next_minor(db: sqlite3.Connection, project: Project, major: int) -> int:
    (last,) = db.execute(
        "SELECT max(minor) FROM models WHERE project_id = ? AND major = ?", (project.number, major)
    ).fetchone()
    return 0 if last is None else int(last) + 1


def create_model(
    db: sqlite3.Connection,
    project: Project,
    *,
    major: int,
    comment: str,
    model_id: str | None = None,
    training_number: int | None = None,
    base_model: str | None = None,
    confusion_matrix: dict[str, Any] | None = None,
) -> sqlite3.Row:
    """A model without files yet, with the next minor of this major.

    Raises:
        NotFound: The project has gone meanwhile.
    """
    require_project(db, project)
    model_id = model_id or str(uuid4())
    db.execute(
        "INSERT INTO models VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            model_id,
            project.number,
            major,
            _next_minor(db, project, major),
            training_number,
            base_model,
            now(),
            comment,
            None if confusion_matrix is None else json.dumps(confusion_matrix),
        ),
    )
    return find_model(db, project, model_id)


def latest_of_training(db: sqlite3.Connection, project: Project, number: int) -> sqlite3.Row | None:
    """The last best model of a training."""
    row: sqlite3.Row | None = db.execute(
        "SELECT * FROM models WHERE project_id = ? AND training_number = ? ORDER BY minor DESC LIMIT 1",
        (project.number, number),
    ).fetchone()
    return row


def find_model(db: sqlite3.Connection, project: Project, model_id: str) -> sqlite3.Row:
    """One model.

    Raises:
        NotFound: The project has none of this id.
    """
    row: sqlite3.Row | None = db.execute(
        "SELECT * FROM models WHERE project_id = ? AND id = ?", (project.number, model_id)
    ).fetchone()
    if row is None:
        raise NotFound(f"{project.resource} has no model {model_id[:60]!r}")
    return row


def find_by_version(db: sqlite3.Connection, project: Project, version: str) -> sqlite3.Row:
    """One model.

    Raises:
        InputError: That is no version.
        NotFound: The project has none of this version.
    """
    if not _VERSION.fullmatch(version):
        raise InputError(f"version: one like 1.0 is needed, not {version[:40]!r}")
    major, minor = map(int, version.split("."))
    row: sqlite3.Row | None = db.execute(
        "SELECT * FROM models WHERE project_id = ? AND major = ? AND minor = ?", (project.number, major, minor)
    ).fetchone()
    if row is None:
        raise NotFound(f"{project.resource} has no model of version {version}")
    return row


def latest_version(db: sqlite3.Connection, project: Project) -> str | None:
    """The highest version there is."""
    row = db.execute(
        "SELECT major, minor FROM models WHERE project_id = ? ORDER BY major DESC, minor DESC LIMIT 1",
        (project.number,),
    ).fetchone()
    return None if row is None else version_of(row)


def formats_of(db: sqlite3.Connection, model_id: str) -> list[str]:
    """The formats a model is there in."""
    rows = db.execute("SELECT format FROM model_files WHERE model_id = ? ORDER BY created, format", (model_id,))
    return [model_format for (model_format,) in rows]


def list_models(
    db: sqlite3.Connection, project: Project, *, host: str, model_format: str | None = None
) -> list[dict[str, Any]]:
    """All models, or those of a format, the newest version first, as the wire has them."""
    rows = db.execute("SELECT * FROM models WHERE project_id = ? ORDER BY major DESC, minor DESC", (project.number,))
    models = [_on_the_wire(db, project, row, host) for row in rows.fetchall()]
    return [model for model in models if model_format is None or model_format in model["formats"]]


def _on_the_wire(db: sqlite3.Connection, project: Project, row: sqlite3.Row, host: str) -> dict[str, Any]:
    return {
        "id": row["id"],
        "version": version_of(row),
        "formats": formats_of(db, row["id"]),
        "created": row["created"],
        "comment": row["comment"],
        "host": host,
        "organization": project.organization,
        "project": project.project,
        "training_number": row["training_number"],
        "base_model_id": row["base_model"],
        "confusion_matrix": json.loads(row["confusion_matrix_json"] or "null"),
        "is_target": row["id"] == project.target_model,
    }


@frozen(kw_only=True)
class PlannedModel:
    """The model that a zip on its way in will belong to, as things stand while the zip is made."""

    id: str
    version: str
    major: int
    is_new: bool
    training_number: int | None = None
    comment: str = ""


def plan_upload(db: sqlite3.Connection, project: Project, comment: str) -> PlannedModel:
    """A model of its own, with the next major."""
    major = next_major(db, project)
    return PlannedModel(id=str(uuid4()), version=f"{major}.0", major=major, is_new=True, comment=comment)


def plan_of_training(db: sqlite3.Connection, project: Project, number: int) -> PlannedModel:
    """The last best of a training; a training that reported none, but has a model to keep, gets a version for it.

    Raises:
        NotFound: There is no such training.
    """
    if not db.execute(
        "SELECT 1 FROM trainings WHERE project_id = ? AND number = ?", (project.number, number)
    ).fetchone():
        raise NotFound(f"{project.resource} has no training {number}")
    latest = latest_of_training(db, project, number)
    if latest is not None:
        return _planned(latest)
    return PlannedModel(
        id=str(uuid4()),
        version=f"{number}.{_next_minor(db, project, number)}",
        major=number,
        is_new=True,
        training_number=number,
        comment=f"training {number}",
    )


def plan_format(db: sqlite3.Connection, project: Project, model_id: str) -> PlannedModel:
    """A model that is there, in another format.

    Raises:
        NotFound: There is no such model.
    """
    return _planned(find_model(db, project, model_id))


def _planned(row: sqlite3.Row) -> PlannedModel:
    return PlannedModel(id=row["id"], version=version_of(row), major=row["major"], is_new=False)


def stage_model(
    upload: Path,
    project: Project,
    planned: PlannedModel,
    model_format: str,
    files: Sequence[tuple[str, Path]],
    *,
    host: str,
    max_bytes: int,
) -> Path:
    """Write the zip that is to be kept into the request's folder, durably. Blocking.

    Raises:
        InputError, StorageFull: See `make_zip`.
    """
    staged = upload / f"{planned.id}.zip"
    known = {
        "host": host,
        "organization": project.organization,
        "project": project.project,
        "version": planned.version,
        "id": planned.id,
        "format": model_format,
    }
    with no_room_is_storage_full():
        make_zip(files, staged, known, max_bytes=max_bytes)
        sync_files([staged])
    return staged


def keep_model(
    folders: Folders, db: sqlite3.Connection, project: Project, planned: PlannedModel, model_format: str, staged: Path
) -> bool:
    """Place a zip and write its records. Within one transaction.

    Returns:
        False, and nothing is kept, when the planned version was taken meanwhile.

    Raises:
        Conflict: The model is there in this format already; its id is the detail.
        NotFound: The model has gone meanwhile.
    """
    if planned.is_new:
        if planned.version != f"{planned.major}.{_next_minor(db, project, planned.major)}":
            return False
        create_model(
            db,
            project,
            major=planned.major,
            comment=planned.comment,
            model_id=planned.id,
            training_number=planned.training_number,
        )
    add_file(folders, db, project, planned.id, model_format, staged)
    return True


def add_file(
    folders: Folders, db: sqlite3.Connection, project: Project, model_id: str, model_format: str, staged: Path
) -> None:
    """Place a zip and write its record. Within one transaction.

    Raises:
        Conflict: The model is there in this format already; its id is the detail.
        NotFound: The model has gone meanwhile.
    """
    find_model(db, project, model_id)
    refuse_second(db, model_id, model_format)
    final = folders.model(project.number, model_id, model_format)
    final.unlink(missing_ok=True)  # without a record it is what a process that was killed has left
    try:
        with no_room_is_storage_full():
            place([(staged, final)])
        note_file(db, model_id, model_format, final.stat().st_size)
    except BaseException:
        final.unlink(missing_ok=True)
        raise


def note_file(db: sqlite3.Connection, model_id: str, model_format: str, size_bytes: int) -> None:
    """Write the record of a zip that has its place."""
    db.execute("INSERT INTO model_files VALUES (?, ?, ?, ?)", (model_id, model_format, size_bytes, now()))


def refuse_second(db: sqlite3.Connection, model_id: str, model_format: str) -> None:
    """Refuse a format that a model is there in already.

    Raises:
        Conflict: With the model's id as the detail.
    """
    if model_format in formats_of(db, model_id):
        raise Conflict(f"model {model_id} is there in the format {model_format} already", detail={"id": model_id})


def set_target(db: sqlite3.Connection, project: Project, version: str | None) -> str | None:
    """Let detectors follow this version; returns its id.

    Raises:
        InputError, NotFound: As `find_by_version`.
    """
    model_id = None if version is None else find_by_version(db, project, version)["id"]
    db.execute("UPDATE projects SET target_model = ? WHERE id = ?", (model_id, project.number))
    return model_id


def target_of(db: sqlite3.Connection, project: Project) -> dict[str, str]:
    """What detectors are to follow, as the wire has it.

    Raises:
        NotFound: Nothing was chosen.
    """
    if project.target_model is None:
        raise NotFound(f"{project.resource} has no deployment target")
    return {"model_uuid": project.target_model, "version": version_of(find_model(db, project, project.target_model))}
