"""The management API: what people and scripts do with the embedded Learning Loop. JSON, behind the same login.

`/api/local/...`; the CLI verbs `loop-node loop project|import|images|model|train|nodes` talk to it.
"""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from sqlite3 import Connection
from typing import Any, Final

import msgspec
import trio
from attrs import frozen
from quart import Response, request

from loop_node.errors import Conflict, InputError, NotFound, SchemaError
from loop_node.schemas.annotation import UserInput
from loop_node.schemas.local_loop import (
    AnnotationSet,
    DataSet,
    ImageState,
    NewProject,
    NewTraining,
    StateChange,
    TargetChange,
    UserLogout,
)
from loop_node.schemas.wire import structure, unstructure
from loop_node.serving.app import json_answer
from loop_node.serving.forms import ReceivedForm, receive_form
from loop_node.serving.openapi import Endpoint

from .coco import CocoFile, read_coco
from .images import NewImage, change_annotations, change_state, count_by_state, stage_image
from .links import Link
from .loop import LocalLoop
from .models import find_by_version, set_target
from .nodes import NodeKind, list_nodes
from .projects import Project, create_project, find_project
from .requests import read_json, read_order, server_address
from .trainings import accept, begin, describe, end, find_training, list_trainings

__all__ = ["management_endpoints"]

log = logging.getLogger(__name__)

_LOCAL: Final = "/api/local/<organization>/<project>"
_OBJECT: Final = {"type": "object"}
_FILES: Final = {"type": "array", "items": {"type": "string", "format": "binary"}}
_IMPORT: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "files": _FILES,
        "annotations": {"type": "string", "format": "binary", "description": "COCO JSON"},
        "state": {"type": "string", "enum": list(ImageState), "default": "inbox"},
        "set": {"type": "string", "enum": list(DataSet), "default": "train"},
        "tags": {"type": "string", "description": "separated by commas"},
    },
    "required": ["files"],
}
_MAX_COCO_BYTES: Final = 32 << 20


def management_endpoints(loop: LocalLoop) -> list[Endpoint]:
    """The table of the management endpoints, not yet guarded."""
    rest = _Rest(loop)
    return [
        _endpoint("POST", "/api/local/projects", rest.create, "Make a project.", (409, 422), json_body=NewProject),
        _endpoint("GET", _LOCAL, rest.show, "A project and the number of its images by state.", (404,)),
        _endpoint("DELETE", _LOCAL, rest.delete, "Delete a project and all that belongs to it.", (404,)),
        _endpoint(
            "POST",
            f"{_LOCAL}/import",
            rest.import_images,
            "Take in JPEG files, perhaps with a COCO file of annotations, all or none.",
            (400, 404, 413, 422, 507),
            form_body=_IMPORT,
            max_body_bytes=loop.max_batch_bytes,
        ),
        _endpoint(
            "PUT",
            f"{_LOCAL}/images/<image_id>/annotations",
            rest.annotate,
            "Put these in the place of all annotations of an image.",
            (404, 422),
            json_body=AnnotationSet,
        ),
        _endpoint(
            "PUT",
            f"{_LOCAL}/images/state",
            rest.move,
            "Move images to a state, all or none.",
            (404, 422),
            json_body=StateChange,
        ),
        _endpoint(
            "PUT",
            f"{_LOCAL}/deployment/target",
            rest.choose_target,
            "Choose the version that detectors are to follow.",
            (404, 422),
            json_body=TargetChange,
        ),
        _endpoint("GET", f"{_LOCAL}/trainings", rest.trainings, "All trainings, the newest first.", (404,)),
        _endpoint(
            "POST",
            f"{_LOCAL}/trainings",
            rest.begin_training,
            "Let a connected trainer begin a training.",
            (404, 409, 422),
            json_body=NewTraining,
        ),
        _endpoint(
            "GET",
            f"{_LOCAL}/trainings/<int(max=2147483647):number>",
            rest.training,
            "A training, its metrics and its models.",
            (404,),
        ),
        _endpoint(
            "POST",
            f"{_LOCAL}/trainings/<int(max=2147483647):number>/stop",
            rest.stop_training,
            "End a training and keep its best model.",
            (404, 409),
        ),
        _endpoint(
            "POST",
            f"{_LOCAL}/trainings/<int(max=2147483647):number>/abort",
            rest.abort_training,
            "End a training, keep nothing.",
            (404, 409),
        ),
        _endpoint("GET", "/api/local/nodes", rest.nodes, "The nodes that have told of themselves.", ()),
        _endpoint(
            "POST",
            "/api/local/nodes/<node_id>/user_input",
            rest.user_input,
            "Hand an input of the annotation view to an annotator; answers what it answers.",
            (404, 409, 422),
            json_body=UserInput,
        ),
        _endpoint(
            "POST",
            "/api/local/nodes/<node_id>/user_logout",
            rest.user_logout,
            "Tell an annotator that a person has left.",
            (404, 409, 422),
            json_body=UserLogout,
        ),
    ]


def _endpoint(method: str, path: str, handle: Any, summary: str, faults: Sequence[int], **more: Any) -> Endpoint:
    return Endpoint(
        method=method, path=path, handle=handle, summary=summary, answer=_OBJECT, faults=faults, has_login=True, **more
    )


@frozen
class _Rest:
    """The handlers of the endpoints."""

    loop: LocalLoop

    # projects

    async def create(self) -> Response:
        order = await read_order(NewProject)
        made = await self.loop.database.write(
            lambda db: create_project(db, order.organization, order.project, order.categories)
        )
        log.info("project %s/%s was made", made.organization, made.project)
        return json_answer(_described(made))

    async def show(self, organization: str, project: str) -> Response:
        found = await self.loop.project(organization, project)
        counts = await self.loop.database.read(lambda db: count_by_state(db, found))
        return json_answer({**_described(found), "images": counts})

    async def delete(self, organization: str, project: str) -> Response:
        await self.loop.delete_project(organization, project)
        return json_answer({})

    # images

    async def import_images(self, organization: str, project: str) -> Response:
        found = await self.loop.project(organization, project)
        await self.loop.check_room(request.content_length)
        async with receive_form(
            request, folder=self.loop.folders.incoming, max_bytes=self.loop.max_batch_bytes
        ) as form:
            work = partial(self._stage, found, form)
            staged, unmatched = await trio.to_thread.run_sync(work, limiter=self.loop.workers)
            ids = await self.loop.add_images(found, staged)
        log.info("%d images were imported into %s/%s", len(ids), organization, project)
        return json_answer({"image_ids": ids, "imported": len(ids), "annotations_without_image": unmatched})

    def _stage(self, project: Project, form: ReceivedForm) -> tuple[list[NewImage], list[str]]:
        unknown = {file.field for file in form.files} | form.fields.keys()
        if unknown := unknown - _IMPORT["properties"].keys():
            raise InputError(
                f"{min(unknown)[:40]!r}: there is no such field; there are {', '.join(_IMPORT['properties'])}"
            )
        images = [file for file in form.files if file.field == "files"]
        if not images:
            raise InputError("files: no image came; send JPEG files in the field `files`")
        coco = _coco_of(form, project)
        stage = partial(
            stage_image,
            self.loop.folders,
            project,
            max_pixels=self.loop.max_image_pixels,
            state=_word(form, "state", ImageState, ImageState.INBOX),
            data_set=_word(form, "set", DataSet, DataSet.TRAIN),
            tags=[tag for text in form.fields.get("tags", []) for tag in text.split(",") if tag],
        )
        staged = []
        for file in images:
            name = file.filename
            staged.append(stage(file.path.parent, file.path, name, annotations=partial(_annotations, coco, name)))
        return staged, coco.unmatched([file.filename for file in images]) if coco else []

    async def annotate(self, organization: str, project: str, image_id: str) -> Response:
        given = await read_order(AnnotationSet)
        found = await self.loop.project(organization, project)
        await self.loop.database.write(lambda db: change_annotations(db, found, image_id, given))
        return json_answer({})

    async def move(self, organization: str, project: str) -> Response:
        order = await read_order(StateChange)
        found = await self.loop.project(organization, project)
        moved = await self.loop.database.write(lambda db: change_state(db, found, order.ids, order.state))
        return json_answer({"moved": moved})

    # models and trainings

    async def choose_target(self, organization: str, project: str) -> Response:
        order = await read_order(TargetChange)
        found = await self.loop.project(organization, project)
        model_id = await self.loop.database.write(lambda db: set_target(db, found, order.version))
        return json_answer({"model_uuid": model_id, "version": order.version})

    async def trainings(self, organization: str, project: str) -> Response:
        found = await self.loop.project(organization, project)
        return json_answer({"trainings": await self.loop.database.read(lambda db: list_trainings(db, found))})

    async def training(self, organization: str, project: str, number: int) -> Response:
        host = server_address()
        found = await self.loop.project(organization, project)
        return json_answer(await self.loop.database.read(lambda db: describe(db, found, number, host=host)))

    async def begin_training(self, organization: str, project: str) -> Response:
        order = await read_order(NewTraining, empty=b"{}")
        found = await self.loop.project(organization, project)
        link = self.loop.links.find(NodeKind.TRAINER, order.trainer)
        if link is None:
            named = f"{order.trainer!r}" if order.trainer else "at all"
            raise Conflict(f"no trainer {named} is connected; GET /api/local/nodes lists those that are")
        details = await self.loop.database.write(partial(_begin, found, order, link))
        number: int = details["training_number"]
        refusal = await link.refusal_of("begin_training", found.organization, found.project, details)
        if refusal:
            await self.loop.database.write(
                lambda db: end(db, find_training(db, found, number), state="failed", error=refusal)
            )
            raise Conflict(refusal)
        await self.loop.database.write(lambda db: accept(db, found, number))
        log.info("trainer %s has begun training %d of %s", link.name, number, found.resource)
        return json_answer({"training_number": number, "id": details["id"]})

    async def stop_training(self, organization: str, project: str, number: int) -> Response:
        return await self._tell_trainer(organization, project, number, "stop_training")

    async def abort_training(self, organization: str, project: str, number: int) -> Response:
        return await self._tell_trainer(organization, project, number, "abort_training")

    async def _tell_trainer(self, organization: str, project: str, number: int, event: str) -> Response:
        row = await self.loop.database.read(
            lambda db: find_training(db, find_project(db, organization, project), number)
        )
        if row["ended"]:
            raise Conflict(f"training {number} is over")
        link = self.loop.links.find(NodeKind.TRAINER, row["trainer_id"])
        if link is None and event == "abort_training":
            gone = "aborted while its trainer was not connected"
            await self.loop.database.write(lambda db: end(db, row, state="aborted", error=gone))
            log.info("training %d of %s/%s was %s", number, organization, project, gone)
            return json_answer({})
        if link is None:
            raise Conflict(f"the trainer of training {number}, {row['trainer_name']}, is not connected")
        if refusal := await link.refusal_of(event):
            raise Conflict(refusal)
        return json_answer({})

    # nodes

    async def nodes(self) -> Response:
        connected = self.loop.connected_ids()
        return json_answer({"nodes": await self.loop.database.read(lambda db: list_nodes(db, connected))})

    async def user_input(self, node_id: str) -> Response:
        given = await read_json(UserInput)
        answer = await self._annotator(node_id).ask("handle_user_input", unstructure(given))
        return json_answer(unstructure(answer))

    async def user_logout(self, node_id: str) -> Response:
        given = await read_order(UserLogout)
        answer = await self._annotator(node_id).ask("user_logout", given.frontend_id)
        return json_answer(unstructure(answer))

    def _annotator(self, node_id: str) -> Link:
        link = self.loop.links.find(NodeKind.ANNOTATOR, node_id)
        if link is None:
            raise NotFound(f"no annotator {node_id[:60]!r} is connected; GET /api/local/nodes lists those that are")
        return link


def _begin(project: Project, order: NewTraining, link: Link, db: Connection) -> dict[str, Any]:
    """The record of a training to be, and what its trainer is told."""
    version = order.base_model_version
    base_model = None if version is None else find_by_version(db, project, version)["id"]
    row = begin(
        db,
        project,
        trainer_id=link.node_id,
        trainer_name=link.name,
        model_variant=order.model_variant,
        base_model=base_model,
        hyperparameters=order.hyperparameters,
    )
    return {
        "id": row["id"],
        "training_number": row["number"],
        "categories": unstructure(list(project.categories.all)),
        "hyperparameters": order.hyperparameters,
        "model_variant": order.model_variant,
        "base_model_uuid": base_model,
    }


def _described(project: Project) -> dict[str, Any]:
    return {
        "organization": project.organization,
        "project": project.project,
        "resource": project.resource,
        "created": project.created,
        "target_model": project.target_model,
        "categories": unstructure(list(project.categories.all)),
    }


def _coco_of(form: ReceivedForm, project: Project) -> CocoFile | None:
    files = [file for file in form.files if file.field == "annotations"]
    texts = form.fields.get("annotations", [])
    if not files and not texts:
        return None
    if len(files) + len(texts) > 1:
        raise InputError("annotations: one COCO file at a time")
    return read_coco(_parsed(files[0].path if files else texts[0]), project.categories)


def _parsed(where: Path | str) -> Any:
    if isinstance(where, Path) and where.stat().st_size > _MAX_COCO_BYTES:
        raise InputError(f"annotations: a COCO file may have {_MAX_COCO_BYTES} bytes")
    try:
        return msgspec.json.decode(where.read_bytes() if isinstance(where, Path) else where)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"annotations: no JSON: {error}") from None


def _annotations(coco: CocoFile | None, filename: str, inspected: Any) -> AnnotationSet:
    if coco is None:
        return AnnotationSet()
    return coco.annotations_for(filename, inspected.width_px, inspected.height_px)


def _word(form: ReceivedForm, name: str, kind: Any, default: Any) -> Any:
    texts = form.fields.get(name, [])
    try:
        return structure(kind, texts[-1]) if texts else default
    except SchemaError as error:
        raise InputError(f"{name}: {error}") from None
