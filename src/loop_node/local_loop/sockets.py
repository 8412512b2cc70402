"""The Socket.IO side of the Learning Loop: nodes connect and tell of themselves, and are asked to work.

Every event of a node is acknowledged with `{success, error_msg, payload}`.
"""

import logging
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final

from attrs import frozen

from loop_node.errors import InputError, NotFound
from loop_node.schemas.annotation import SegmentationAnnotation
from loop_node.schemas.local_loop import AnnotationSet, SegmentationAnnotationIn
from loop_node.schemas.status import AnnotationNodeStatus, DetectionStatus, SocketResponse, TrainingStatus
from loop_node.schemas.training import TrainingOut
from loop_node.schemas.wire import structure, unstructure
from loop_node.serving.openapi import SESSION_COOKIE
from loop_node.socketio.packets import Value
from loop_node.socketio.session import Handler, Peer

from .images import put_segmentation
from .links import Link
from .loop import LocalLoop
from .models import target_of
from .nodes import NodeKind, put_node
from .projects import find_project
from .trainings import note_report, note_status

__all__ = ["LoopSockets", "refused"]

log = logging.getLogger(__name__)

_KINDS: Final[Mapping[str, NodeKind]] = {
    "trainer": NodeKind.TRAINER,
    "annotation_node": NodeKind.ANNOTATOR,
    "detector": NodeKind.DETECTOR,
    "node": NodeKind.OTHER,
}


def refused(_event: str, message: str) -> Value:
    """How an error is told."""
    return _ack(SocketResponse(success=False, error_msg=message))


def _done(payload: Any = None) -> Value:
    return _ack(SocketResponse(success=True, payload=payload))


def _ack(response: SocketResponse) -> Value:
    answer: Value = unstructure(response)
    return answer


@frozen
class LoopSockets:
    """The handlers, and who is let in."""

    loop: LocalLoop

    def events(self) -> dict[str, Handler]:
        """The table of a node's events."""
        return {
            "update_trainer": self.update_trainer,
            "update_training": self.update_training,
            "update_detector": self.update_detector,
            "update_annotation_node": self.update_annotation_node,
            "update_segmentation_annotation": self.update_segmentation_annotation,
        }

    async def let_in(self, peer: Peer, _auth: Mapping[str, Value] | None) -> str | None:
        """Take a node in that has logged in; detectors of old have never done so, and only tell of themselves."""
        kind = _KINDS.get(peer.headers.get("nodetype", ""))
        if kind is None:
            return f"the header nodeType must be one of {', '.join(_KINDS)}"
        if kind is not NodeKind.DETECTOR and self.loop.accounts.user_of(_session(peer.headers)) is None:
            return "a login is needed: POST /api/login, and send its cookie along"
        organization, project = peer.headers.get("organization", ""), peer.headers.get("project", "")
        self.loop.links.add(Link(peer, kind, organization, project))
        return None

    async def let_go(self, peer: Peer, _reason: str) -> None:
        """Forget a node that has gone."""
        self.loop.links.remove(peer)

    async def update_trainer(self, peer: Peer, status: Value = None) -> Value:
        """A trainer says how it is doing."""
        self._require(peer, NodeKind.TRAINER)
        said = structure(TrainingStatus, status)
        self._know(peer, said.id, said.name, said.state)

        def change(db: Any) -> int | None:
            put_node(db, NodeKind.TRAINER, said.id, said.name, unstructure(said))
            return note_status(db, said)

        over = await self.loop.database.write(change)
        if over is not None:
            log.info("training %d of trainer %s is over", over, said.name or said.id)
        return _done()

    async def update_training(self, peer: Peer, organization: Value, project: Value, report: Value) -> Value:
        """A trainer has a new best model."""
        self._require(peer, NodeKind.TRAINER)
        said = structure(TrainingOut, report)
        names = structure(str, organization), structure(str, project)
        version = await self.loop.database.write(lambda db: note_report(db, *names, said))
        log.info("trainer %s reports a new best: version %s", said.trainer_name or said.trainer_id, version)
        return _done()

    async def update_detector(self, peer: Peer, organization: Value, project: Value, status: Value) -> Value:
        """A detector of old says how it is doing, and hears what to follow."""
        self._require(peer, NodeKind.DETECTOR)
        said = structure(DetectionStatus, status)
        names = structure(str, organization), structure(str, project)
        self._know(peer, said.id, said.name, said.operation_mode)

        def change(db: Any) -> dict[str, str]:
            found = find_project(db, *names)
            node = unstructure(said)
            put_node(db, NodeKind.DETECTOR, said.id, said.name, node, organization=names[0], project=names[1])
            return target_of(db, found)

        try:
            target = await self.loop.database.write(change)
        except NotFound as error:
            return refused("update_detector", str(error))
        return _done({"target_model_id": target["model_uuid"], "target_model_version": target["version"]})

    async def update_annotation_node(self, peer: Peer, status: Value = None) -> Value:
        """An annotator says how it is doing."""
        self._require(peer, NodeKind.ANNOTATOR)
        said = structure(AnnotationNodeStatus, status)
        self._know(peer, said.id, said.name, said.state)
        await self.loop.database.write(
            lambda db: put_node(db, NodeKind.ANNOTATOR, said.id, said.name, unstructure(said))
        )
        return _done()

    async def update_segmentation_annotation(
        self, peer: Peer, organization: Value, project: Value, annotation: Value
    ) -> Value:
        """An annotator has finished an outline."""
        self._require(peer, NodeKind.ANNOTATOR)
        said = structure(SegmentationAnnotation, annotation)
        names = structure(str, organization), structure(str, project)
        outline = SegmentationAnnotationIn(id=said.id, shape=said.shape, category_id=said.category_id)
        given = AnnotationSet(segmentation_annotations=[outline])
        await self.loop.database.write(lambda db: put_segmentation(db, find_project(db, *names), given, said.image_id))
        return _done()

    def _require(self, peer: Peer, kind: NodeKind) -> None:
        """Let nodes speak for their own kind alone: a detector has shown no login."""
        if self.loop.links.of(peer).kind is not kind:
            raise InputError(f"this event is for nodes that connected with the header nodeType of a {kind}")

    def _know(self, peer: Peer, node_id: str, name: str, state: str | None) -> None:
        link = self.loop.links.of(peer)
        link.node_id, link.name, link.state = node_id, name, state


def _session(headers: Mapping[str, str]) -> str | None:
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(SESSION_COOKIE)
    except CookieError:
        return None
    return cookie.value if cookie else None
