"""Records of projects and their categories."""

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

from attrs import frozen

from loop_node.errors import Conflict, InputError, NotFound
from loop_node.schemas.local_loop import NewCategory
from loop_node.schemas.models import Category, CategoryType

__all__ = [
    "Categories",
    "Project",
    "check_name",
    "create_project",
    "delete_project",
    "find_project",
    "list_projects",
    "now",
    "require_project",
]

_COLORS: Final = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#46f0f0", "#f032e6", "#bcf60c")
_MAX_NAME: Final = 200
_MAX_NAME_BYTES: Final = 255  # of a folder's name
_MAX_CATEGORIES: Final = 1000
_MANAGEMENT: Final = "local"
"""An organization of this name could not be told from the management API, `/api/local/...`."""


def now() -> str:
    """The time as records have it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")


@frozen
class Categories:
    """The categories of a project, in their order."""

    all: tuple[Category, ...]

    def find(self, category_id: str | None, name: str | None) -> Category | None:
        """By id, else by name; None where there is no such one."""
        by_id = next((one for one in self.all if category_id and one.id == category_id), None)
        return by_id or next((one for one in self.all if name and one.name == name), None)


@frozen(kw_only=True)
class Project:
    """A project as the store knows it; `number` names its folder."""

    number: int
    organization: str
    project: str
    name: str
    created: str
    target_model: str | None
    categories: Categories

    @property
    def resource(self) -> str:
        """Its path behind `/api`."""
        return f"/{self.organization}/projects/{self.project}"


def check_name(what: str, name: str) -> None:
    """Refuse what could not stand in a path.

    Raises:
        InputError: Empty, too long, or with characters that mean something in paths or are not printable.
    """
    if (
        not 1 <= len(name) <= _MAX_NAME
        or not name.isprintable()
        or name.strip(". ") != name
        or set(name) & set('/\\:*?"<>|#%')
        or len(name.encode()) > _MAX_NAME_BYTES
    ):
        raise InputError(
            f"{what}: 1 to {_MAX_NAME} letters, digits, spaces or any of -_.+ are needed, not {name[:40]!r}"
        )
    if what == "organization" and name == _MANAGEMENT:
        raise InputError(f"organization: {_MANAGEMENT!r} is the management API's name; choose another")


def create_project(
    db: sqlite3.Connection,
    organization: str,
    project: str,
    categories: Sequence[NewCategory],
    *,
    name: str | None = None,
) -> Project:
    """Make a project.

    Args:
        db: The store's.
        organization: Whose project it is to be.
        project: Its id, as it stands in paths.
        categories: In their order.
        name: How people call it; None for its id.

    Raises:
        InputError: A name that cannot be used, or a category twice.
        Conflict: There is one of this name.
    """
    check_name("organization", organization)
    check_name("project", project)
    _check_categories(categories)
    try:
        created = db.execute(
            "INSERT INTO projects (organization, project, name, created) VALUES (?, ?, ?, ?)",
            (organization, project, name or project, now()),
        )
        db.executemany(
            "INSERT INTO categories VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [_category_row(created.lastrowid, index, category) for index, category in enumerate(categories)],
        )
    except sqlite3.IntegrityError as error:
        raise Conflict(f"there is a project {organization}/{project} already, or a category with this id") from error
    return find_project(db, organization, project)


def _category_row(project: int | None, position: int, category: NewCategory) -> tuple[Any, ...]:
    return (
        category.id or str(uuid4()),
        project,
        position,
        category.name,
        category.type.value,
        category.color or _COLORS[position % len(_COLORS)],
        category.hotkey,
        category.point_size if category.point_size or category.type is not CategoryType.POINT else 20,
        category.description,
    )


def _check_categories(categories: Sequence[NewCategory]) -> None:
    if len(categories) > _MAX_CATEGORIES:
        raise InputError(f"categories: a project may have {_MAX_CATEGORIES}, {len(categories)} came")
    names: set[str] = set()
    for one in categories:
        if not 1 <= len(one.name) <= _MAX_NAME or not one.name.isprintable() or one.name in names:
            raise InputError(
                f"categories: names of 1 to {_MAX_NAME} characters that differ are needed, see {one.name[:40]!r}"
            )
        names.add(one.name)


def find_project(db: sqlite3.Connection, organization: str, project: str) -> Project:
    """One project.

    Raises:
        NotFound: There is none of this name.
    """
    row = db.execute(
        "SELECT * FROM projects WHERE organization = ? AND project = ?", (organization, project)
    ).fetchone()
    if row is None:
        raise NotFound(f"there is no project {organization[:100]}/{project[:100]}")
    return _project(db, row)


def require_project(db: sqlite3.Connection, project: Project) -> None:
    """Refuse to write what belongs to a project that has been deleted meanwhile.

    Raises:
        NotFound: It has.
    """
    if db.execute("SELECT 1 FROM projects WHERE id = ?", (project.number,)).fetchone() is None:
        raise NotFound(f"project {project.organization}/{project.project} has been deleted")


def list_projects(db: sqlite3.Connection) -> list[Project]:
    """All of them, by name."""
    return [_project(db, row) for row in db.execute("SELECT * FROM projects ORDER BY organization, project")]


def delete_project(db: sqlite3.Connection, project: Project) -> None:
    """Delete a project's records; its files stay, see `folders`."""
    db.execute("DELETE FROM projects WHERE id = ?", (project.number,))
    db.execute("DELETE FROM nodes WHERE organization = ? AND project = ?", (project.organization, project.project))


def _project(db: sqlite3.Connection, row: sqlite3.Row) -> Project:
    categories = db.execute("SELECT * FROM categories WHERE project_id = ? ORDER BY position", (row["id"],))
    return Project(
        number=row["id"],
        organization=row["organization"],
        project=row["project"],
        name=row["name"],
        created=row["created"],
        target_model=row["target_model"],
        categories=Categories(tuple(_category(one) for one in categories)),
    )


def _category(row: sqlite3.Row) -> Category:
    return Category(
        id=row["id"],
        name=row["name"],
        description=row["description"],
        hotkey=row["hotkey"],
        color=row["color"],
        point_size=row["point_size"],
        type=CategoryType(row["type"]),
    )
