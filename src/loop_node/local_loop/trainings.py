"""Trainings: begun here, run by a trainer, known by what it reports.

The state is the last one that the trainer reported for it. Every training ends through `ready_for_cleanup`; a trainer that
passes it between two reports and is idle in the next one has been there, so that is where the training then stands.
"""

import json
import sqlite3
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid4

from loop_node.errors import Conflict, NotFound
from loop_node.schemas.status import TrainingStatus
from loop_node.schemas.training import TrainingOut
from loop_node.schemas.wire import unstructure

from .models import create_model, latest_of_training, list_models, version_of
from .projects import Project, find_project, now, require_project

__all__ = [
    "accept",
    "begin",
    "charts",
    "describe",
    "end",
    "find_training",
    "list_trainings",
    "note_report",
    "note_status",
    "running_of_trainer",
]

LAST_STATE: Final = "ready_for_cleanup"
_NOT_TRAINING: Final = (None, "idle", "blocked", "offline", "online")
_FIRST_STATUS_S: Final = 60
"""How long a trainer that has taken a training may still report what it did before."""


def begin(
    db: sqlite3.Connection,
    project: Project,
    *,
    trainer_id: str | None,
    trainer_name: str | None,
    model_variant: str,
    base_model: str | None,
    hyperparameters: dict[str, Any],
    training_id: str | None = None,
) -> sqlite3.Row:
    """Write down a training that a trainer is about to be asked for.

    Raises:
        Conflict: The trainer has one under way.
        NotFound: The project has gone meanwhile.
    """
    require_project(db, project)
    if trainer_id is not None and (busy := running_of_trainer(db, trainer_id)) is not None:
        raise Conflict(f"trainer {trainer_name or trainer_id} is busy with training {busy['number']}")
    (last,) = db.execute("SELECT max(number) FROM trainings WHERE project_id = ?", (project.number,)).fetchone()
    number = (last or 0) + 1
    db.execute(
        "INSERT INTO trainings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            project.number,
            number,
            training_id or str(uuid4()),
            trainer_id,
            trainer_name,
            model_variant,
            base_model,
            json.dumps(hyperparameters),
            "requested",
            None,
            "{}",
            now(),
            None,
        ),
    )
    return find_training(db, project, number)


def accept(db: sqlite3.Connection, project: Project, number: int) -> None:
    """Write down that the trainer has taken a training; what it has reported meanwhile stays."""
    db.execute(
        "UPDATE trainings SET state = 'accepted' WHERE project_id = ? AND number = ? AND state = 'requested'",
        (project.number, number),
    )


def find_training(db: sqlite3.Connection, project: Project, number: int) -> sqlite3.Row:
    """One training.

    Raises:
        NotFound: The project has none of this number.
    """
    row: sqlite3.Row | None = db.execute(
        "SELECT * FROM trainings WHERE project_id = ? AND number = ?", (project.number, number)
    ).fetchone()
    if row is None:
        raise NotFound(f"{project.resource} has no training {number}")
    return row


def running_of_trainer(db: sqlite3.Connection, trainer_id: str) -> sqlite3.Row | None:
    """The training that a trainer has under way, in whichever project."""
    row: sqlite3.Row | None = db.execute(
        "SELECT * FROM trainings WHERE trainer_id = ? AND ended IS NULL ORDER BY started DESC LIMIT 1", (trainer_id,)
    ).fetchone()
    return row


def end(db: sqlite3.Connection, row: sqlite3.Row, *, state: str, error: str = "") -> None:
    """Write down that a training is over; a training that was over already stays as it is."""
    errors = json.dumps({"training": error}) if error else row["errors_json"]
    db.execute(
        "UPDATE trainings SET state = ?, errors_json = ?, progress = NULL, ended = ? WHERE id = ? AND ended IS NULL",
        (state, errors, now(), row["id"]),
    )


def note_status(db: sqlite3.Connection, status: TrainingStatus) -> int | None:
    """Take over what a trainer says of the training it has under way; returns its number once it is over."""
    row = running_of_trainer(db, status.id)
    if row is None:
        return None
    if status.state in _NOT_TRAINING:
        has_begun = row["state"] not in ("requested", "accepted")
        if has_begun or _age_s(row["started"]) > _FIRST_STATUS_S:
            end(db, row, state=LAST_STATE if has_begun else "failed")
            return int(row["number"])
        return None
    db.execute(
        "UPDATE trainings SET state = ?, progress = ?, errors_json = ? WHERE id = ?",
        (status.state, _share(status.progress), json.dumps(status.errors or {}), row["id"]),
    )
    return None


def _share(progress: float | None) -> float | None:
    return None if progress is None else min(1.0, max(0.0, progress))


def _age_s(then: str) -> float:
    return (datetime.fromisoformat(now()) - datetime.fromisoformat(then)) / timedelta(seconds=1)


def note_report(db: sqlite3.Connection, organization: str, project_id: str, report: TrainingOut) -> str | None:
    """Keep a report of a trainer; a new best opens the training's next minor version. Returns that version.

    The same report again, after its answer was lost, is kept once.

    Raises:
        NotFound: That trainer has no training under way in this project.
    """
    project = find_project(db, organization, project_id)
    row = running_of_trainer(db, report.trainer_id)
    if row is None or row["project_id"] != project.number:
        raise NotFound(f"trainer {report.trainer_id[:60]!r} has no training under way in {project.resource}")
    number, said = row["number"], json.dumps(unstructure(report))
    last = db.execute(
        "SELECT report_json FROM metrics WHERE project_id = ? AND training_number = ? ORDER BY number DESC LIMIT 1",
        (project.number, number),
    ).fetchone()
    if last is not None and last["report_json"] == said:
        latest = latest_of_training(db, project, number)
        return None if latest is None else version_of(latest)
    model = None
    if report.confusion_matrix is not None:
        model = create_model(
            db,
            project,
            major=number,
            comment=f"training {number}",
            training_number=number,
            base_model=row["base_model"],
            confusion_matrix=report.confusion_matrix,
        )
    db.execute(
        "UPDATE trainings SET state = 'running' WHERE id = ? AND state IN ('requested', 'accepted')", (row["id"],)
    )
    db.execute(
        "INSERT INTO metrics (project_id, training_number, received, model_id, report_json) VALUES (?, ?, ?, ?, ?)",
        (project.number, number, now(), model["id"] if model else None, said),
    )
    return version_of(model) if model else None


def describe(db: sqlite3.Connection, project: Project, number: int, *, host: str) -> dict[str, Any]:
    """All that is known of a training."""
    row = find_training(db, project, number)
    history = db.execute(
        "SELECT received, model_id, report_json FROM metrics WHERE project_id = ? AND training_number = ? ORDER BY number",
        (project.number, number),
    )
    metrics = [
        {"received": received, "model_id": model_id, **json.loads(report)} for received, model_id, report in history
    ]
    models = [one for one in list_models(db, project, host=host) if one["training_number"] == number]
    return _summary(row) | {"metrics": metrics, "models": models}


def list_trainings(db: sqlite3.Connection, project: Project) -> list[dict[str, Any]]:
    """All trainings in short, the newest first."""
    rows = db.execute("SELECT * FROM trainings WHERE project_id = ? ORDER BY number DESC", (project.number,))
    return [_summary(row) for row in rows]


def _summary(row: sqlite3.Row) -> dict[str, Any]:
    return {
        "training_number": row["number"],
        "id": row["id"],
        "trainer_id": row["trainer_id"],
        "trainer_name": row["trainer_name"],
        "model_variant": row["model_variant"],
        "base_model_id": row["base_model"],
        "hyperparameters": json.loads(row["hyperparameters_json"]),
        "state": row["state"],
        "progress": row["progress"],
        "errors": json.loads(row["errors_json"]),
        "started": row["started"],
        "ended": row["ended"],
    }


def charts(db: sqlite3.Connection, project: Project) -> list[dict[str, Any]]:
    """The trainings with their models, the newest first in both, as the wire has them."""
    rows = db.execute(
        "SELECT t.number AS number, m.id AS id, m.major AS major, m.minor AS minor FROM trainings t"
        " LEFT JOIN models m ON m.project_id = t.project_id AND m.training_number = t.number"
        " WHERE t.project_id = ? ORDER BY t.number DESC, m.minor DESC",
        (project.number,),
    )
    found: dict[int, list[dict[str, str]]] = {}
    for row in rows:
        models = found.setdefault(row["number"], [])
        if row["id"] is not None:
            models.append({"model_id": row["id"], "version": version_of(row)})
    return [{"training_number": number, "data": models} for number, models in found.items()]
