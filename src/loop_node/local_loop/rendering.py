"""The pages as HTML: plain records in, text out. No script, no style sheet, no font and no picture from elsewhere.

Everything that a node, a client or a file has said is escaped where it stands in a page, and quoted where it stands in an
address.
"""

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, Final
from urllib.parse import quote

from attrs import frozen
from jinja2 import Environment, FunctionLoader, StrictUndefined

from loop_node.schemas.local_loop import ANNOTATION_LISTS, ImageState

from .batches import DETECTION_LISTS
from .nodes import NodeKind
from .projects import Project

__all__ = [
    "ImagesView",
    "OverviewView",
    "ProjectLine",
    "ProjectView",
    "render_fault",
    "render_images",
    "render_login",
    "render_overview",
    "render_project",
]

MAX_ROWS: Final = 100
"""Rows of a table of models, trainings or nodes; the newest stand there."""
_MAX_ERRORS: Final = 10
_MAX_ERROR_CHARACTERS: Final = 500
_COLOR: Final = re.compile(r"#[0-9a-fA-F]{3,8}")


@frozen(kw_only=True)
class ProjectLine:
    """A project in the overview; `trainings` are those under way, as `trainings.list_trainings` has them."""

    project: Project
    counts: Mapping[str, int]
    latest_version: str | None
    target_version: str | None
    trainings: Sequence[Mapping[str, Any]] = ()


@frozen(kw_only=True)
class OverviewView:
    """What stands in the overview; `nodes` as `nodes.list_nodes` has them, `now` as the other times of records."""

    user: str
    now: str
    projects: Sequence[ProjectLine]
    nodes: Sequence[Mapping[str, Any]]


@frozen(kw_only=True)
class ProjectView:
    """What stands on a project's page; models and trainings as their lists have them, the newest first."""

    user: str
    now: str
    project: Project
    counts: Mapping[str, int]
    models: Sequence[Mapping[str, Any]]
    trainings: Sequence[Mapping[str, Any]]


@frozen(kw_only=True)
class ImagesView:
    """A page of a project's images in one state; `records` as `images.read_records` has them."""

    user: str
    project: Project
    counts: Mapping[str, int]
    state: ImageState
    records: Sequence[Mapping[str, Any]]
    page: int
    page_count: int


def render_overview(view: OverviewView) -> str:
    """All projects, the trainings under way, and the nodes."""
    return _render(
        "overview.html",
        user=view.user,
        view={
            "now": view.now,
            "projects": view.projects,
            "trainings": [(line.project, _training(one)) for line in view.projects for one in line.trainings],
            "nodes": [_node(one) for one in view.nodes[:MAX_ROWS]],
            "node_count": len(view.nodes),
        },
    )


def render_project(view: ProjectView) -> str:
    """One project: its images by state, models, trainings and categories."""
    return _render(
        "project.html",
        user=view.user,
        view={
            "now": view.now,
            "project": view.project,
            "counts": view.counts,
            "models": view.models[:MAX_ROWS],
            "model_count": len(view.models),
            "trainings": [_training(one) for one in view.trainings[:MAX_ROWS]],
            "training_count": len(view.trainings),
        },
    )


def render_images(view: ImagesView) -> str:
    """Thumbnails of one page of images."""
    return _render(
        "images.html",
        user=view.user,
        view={
            "project": view.project,
            "counts": view.counts,
            "state": view.state.value,
            "images": [_image(one) for one in view.records],
            "page": view.page,
            "page_count": view.page_count,
        },
    )


def render_login(fault: str = "") -> str:
    """The form; `fault` says why the last try was in vain."""
    return _render("login.html", user=None, fault=fault)


def render_fault(status: int, fault: str, user: str | None) -> str:
    """Why there is no such page."""
    return _render("fault.html", user=user, status=status, fault=fault)


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_read_template),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(part=_part, readable=_readable, instant=_instant, size=_size)
    environment.tests["color"] = lambda text: bool(_COLOR.fullmatch(text or ""))
    return environment


def _read_template(name: str) -> str:
    return (resources.files("loop_node") / "bundled" / "pages" / name).read_text("utf-8")


def _part(text: str) -> str:
    """One part of a path."""
    return quote(text, safe="")


def _readable(time: str) -> str:
    return time[:19].replace("T", " ")


def _instant(time: str) -> str:
    return f"{time[:19]}Z"


def _size(size_bytes: int) -> str:
    if size_bytes < 1000:
        return f"{size_bytes} B"
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.0f} kB"


def _training(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "number": record["training_number"],
        "state": record["state"],
        "progress": _progress(record["progress"]),
        "trainer": record["trainer_name"] or record["trainer_id"] or "",
        "model_variant": record["model_variant"],
        "started": record["started"],
        "ended": record["ended"],
        "errors": _errors(record["errors"]),
    }


def _node(record: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the table of nodes; what a status says may be missing, or anything."""
    status = record["status"]
    reports_by_rest = record["kind"] == NodeKind.DETECTOR and not record["connected"]
    return {
        "kind": record["kind"],
        "id": record["id"],
        "name": record["name"],
        "organization": record["organization"],
        "project": record["project"],
        "connected": None if reports_by_rest else record["connected"],
        "seen": record["seen"],
        "state": status.get("state") or "",
        "model": status.get("current_model") or "",
        "errors": _errors(status.get("errors")),
    }


def _image(record: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("id", "name", "set", "width", "height", "size_bytes")
    classification = record["classification_annotation"] is not None
    return {name: record[name] for name in kept} | {
        "tags": [tag["name"] for tag in record["tags"]],
        "annotation_count": sum(len(record[name]) for name in ANNOTATION_LISTS) + classification,
        "detection_count": sum(len(record[name]) for name in DETECTION_LISTS),
    }


def _progress(said: float | None) -> float | None:
    return None if said is None or math.isnan(said) else min(1.0, max(0.0, said))


def _errors(said: object) -> list[str]:
    """A line for each of the errors that a node has."""
    if not isinstance(said, Mapping):
        return []
    lines = [f"{name}: {text}" for name, text in said.items() if text]
    return [line[:_MAX_ERROR_CHARACTERS] for line in lines[:_MAX_ERRORS]]
