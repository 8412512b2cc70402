"""The nodes that have told of themselves, and what they said last."""

import json
import sqlite3
from collections.abc import Collection
from enum import StrEnum
from typing import Any, Final

from .projects import now

__all__ = ["MAX_NODES", "NodeKind", "list_nodes", "put_node"]


MAX_NODES: Final = 1000
"""Detectors tell of themselves without a login, under any name."""


class NodeKind(StrEnum):
    """What a node does."""

    DETECTOR = "detector"
    TRAINER = "trainer"
    ANNOTATOR = "annotator"
    OTHER = "node"


def put_node(
    db: sqlite3.Connection,
    kind: NodeKind,
    node_id: str,
    name: str,
    status: dict[str, Any],
    *,
    organization: str = "",
    project: str = "",
) -> None:
    """Keep what a node says of itself, in the place of what it said before; the `MAX_NODES` heard last are kept."""
    db.execute(
        "INSERT OR REPLACE INTO nodes VALUES (?, ?, ?, ?, ?, ?, ?)",
        (kind.value, node_id, organization, project, name, json.dumps(status), now()),
    )
    (count,) = db.execute("SELECT count(*) FROM nodes").fetchone()
    if count > MAX_NODES:
        last = "SELECT seen FROM nodes ORDER BY seen DESC LIMIT 1 OFFSET ?"
        db.execute(f"DELETE FROM nodes WHERE seen < ({last})", (MAX_NODES - 1,))  # noqa: S608  # as written above


def list_nodes(db: sqlite3.Connection, connected: Collection[str]) -> list[dict[str, Any]]:
    """All of them, the ones heard last first.

    Args:
        db: The store's.
        connected: The ids of those that are connected over Socket.IO now; detectors are not, they report over REST.
    """
    rows = db.execute("SELECT * FROM nodes ORDER BY seen DESC")
    return [
        {
            "kind": row["kind"],
            "id": row["id"],
            "name": row["name"],
            "organization": row["organization"],
            "project": row["project"],
            "connected": row["id"] in connected,
            "seen": row["seen"],
            "status": json.loads(row["status_json"]),
        }
        for row in rows
    ]
