"""The contract's REST side for images: ids, records, bytes, uploads, and what models found in them."""

from collections.abc import Sequence
from functools import partial
from sqlite3 import Connection
from typing import Any, Final

import trio
from attrs import frozen
from quart import Response, request

from loop_node.errors import NotFound, SchemaError
from loop_node.schemas.detections import Detections
from loop_node.schemas.local_loop import ImageState
from loop_node.schemas.wire import unstructure
from loop_node.serving.app import json_answer
from loop_node.serving.file_answers import file_answer
from loop_node.serving.forms import receive_form
from loop_node.serving.openapi import Endpoint, Parameter

from .batches import Pair, pair_files
from .contract_paths import FILES_FORM, OBJECT, PROJECT, get
from .images import (
    MAX_IDS,
    NewImage,
    attach_detections,
    ids_by_state,
    keep_novelty_scores,
    read_records,
    require_image,
    stage_pair,
)
from .loop import LocalLoop
from .projects import Project, find_project
from .requests import client_address, read_json
from .thumbnails import make_thumbnail

__all__ = ["image_endpoints"]

_MAX_DETECTIONS_BYTES: Final = 16 << 20
"""Nodes send those of at most 100 images at once."""


def image_endpoints(loop: LocalLoop) -> list[Endpoint]:
    """The table of the endpoints, not yet guarded."""
    rest = _Rest(loop)
    batch: dict[str, Any] = {"form_body": FILES_FORM, "max_body_bytes": loop.max_batch_bytes}
    said = partial(Parameter, where="query")
    return [
        get(
            f"{PROJECT}/data",
            rest.data,
            "The ids of the project's images.",
            said(name="state", description="Images in these states, separated by commas; else in all but trash."),
        ),
        get(
            f"{PROJECT}/images",
            rest.records,
            "Records of images.",
            said(name="ids", description=f"Separated by commas, at most {MAX_IDS}."),
            said(name="model_version", description="Only what this model found."),
        ),
        Endpoint(
            method="POST",
            path=f"{PROJECT}/images",
            handle=rest.upload_images,
            summary="Take in images with their metadata: pairs of `NAME.jpg` and `NAME.json`, all or none.",
            answer=OBJECT,
            faults=(400, 404, 413, 422, 429, 507),
            **batch,
        ),
        get(f"{PROJECT}/images/<image_id>/main", rest.image, "An image as it came."),
        get(f"{PROJECT}/images/<image_id>/thumbnail", rest.thumbnail, "The same, small and upright."),
        Endpoint(
            method="PUT",
            path=f"{PROJECT}/images/novelty_scores",
            handle=rest.novelty_scores,
            summary="Say how new images are: an object of image id and score.",
            json_body=OBJECT,
            answer=OBJECT,
            faults=(404, 422),
            has_login=True,
        ),
        Endpoint(
            method="POST",
            path=f"{PROJECT}/detections",
            handle=rest.detections,
            summary="Attach what a model found to images.",
            json_body={"type": "array", "items": OBJECT},
            answer=OBJECT,
            faults=(404, 422),
            has_login=True,
        ),
    ]


@frozen
class _Rest:
    """The handlers of the endpoints."""

    loop: LocalLoop

    async def data(self, organization: str, project: str) -> Response:
        states = _states(request.args.getlist("state"))
        found = await self.loop.project(organization, project)
        ids = await self.loop.database.read(lambda db: ids_by_state(db, found, states))
        return json_answer({"image_ids": ids, "categories": unstructure(list(found.categories.all))})

    async def records(self, organization: str, project: str) -> Response:
        ids = [image_id for image_id in request.args.get("ids", "").split(",") if image_id]
        version = request.args.get("model_version")
        found = await self.loop.project(organization, project)
        records = await self.loop.database.read(lambda db: read_records(db, found, ids, model_version=version))
        if ids and not records:
            raise NotFound(f"{found.resource} has none of these images, for example {ids[0][:60]!r}")
        return json_answer({"images": records})

    async def upload_images(self, organization: str, project: str) -> Response:
        self.loop.uploads.take(client_address(), trio.current_time())
        found = await self.loop.project(organization, project)
        await self.loop.check_room(request.content_length)
        async with receive_form(
            request, folder=self.loop.folders.incoming, max_bytes=self.loop.max_batch_bytes
        ) as form:
            pairs = pair_files([file for file in form.files if file.field == "files"])
            stage = partial(self._stage, found, pairs)
            staged = await trio.to_thread.run_sync(stage, limiter=self.loop.workers)
            ids = await self.loop.add_images(found, staged)
        return json_answer({"image_ids": ids})

    def _stage(self, project: Project, pairs: Sequence[Pair[Any]]) -> list[NewImage]:
        return [
            stage_pair(
                self.loop.folders,
                project,
                pair.image.path.parent,
                (pair.image.path, pair.image.filename),
                (pair.metadata.path, pair.metadata.filename),
                self.loop.max_image_pixels,
            )
            for pair in pairs
        ]

    async def image(self, organization: str, project: str, image_id: str) -> Response:
        found = await self._with_image(organization, project, image_id)
        return await file_answer(self.loop.folders.image(found.number, image_id), content_type="image/jpeg")

    async def thumbnail(self, organization: str, project: str, image_id: str) -> Response:
        found = await self._with_image(organization, project, image_id)
        make = partial(make_thumbnail, self.loop.folders, found, image_id, self.loop.max_image_pixels)
        file = await trio.to_thread.run_sync(make, limiter=self.loop.workers)
        return await file_answer(file, content_type="image/jpeg")

    async def _with_image(self, organization: str, project: str, image_id: str) -> Project:
        def look(db: Connection) -> Project:
            found = find_project(db, organization, project)
            require_image(db, found, image_id)
            return found

        return await self.loop.database.read(look)

    async def novelty_scores(self, organization: str, project: str) -> Response:
        scores = await read_json(dict[str, int])
        found = await self.loop.project(organization, project)
        await self.loop.database.write(lambda db: keep_novelty_scores(db, found, scores))
        return json_answer({})

    async def detections(self, organization: str, project: str) -> Response:
        given = await read_json(list[Detections], max_bytes=_MAX_DETECTIONS_BYTES)
        found = await self.loop.project(organization, project)
        unknown = await self.loop.database.write(lambda db: attach_detections(db, found, given))
        return json_answer({"unknown_image_ids": unknown})


def _states(said: Sequence[str]) -> list[ImageState]:
    words = [word for text in said for word in text.split(",") if word]
    unknown = [word for word in words if word not in list(ImageState)]
    if unknown:
        raise SchemaError([f"state: one of {', '.join(ImageState)} is needed, not {word[:40]!r}" for word in unknown])
    return [ImageState(word) for word in words] or [state for state in ImageState if state is not ImageState.TRASH]
