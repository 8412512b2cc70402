"""The contract's REST side for models: lists, zips in and out, trainings, and the one that detectors are to follow."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from sqlite3 import Connection
from typing import Any, Final

import trio
from attrs import frozen
from quart import Response, request

from loop_node.errors import NotFound
from loop_node.serving.app import json_answer
from loop_node.serving.file_answers import file_answer
from loop_node.serving.forms import receive_form
from loop_node.serving.openapi import Endpoint, Parameter

from .contract_paths import FILES_FORM, OBJECT, PROJECT, get
from .loop import LocalLoop
from .model_zips import doubt
from .models import (
    PlannedModel,
    check_format,
    find_model,
    formats_of,
    list_models,
    plan_format,
    plan_of_training,
    plan_upload,
    refuse_second,
    target_of,
    version_of,
)
from .projects import Project, find_project, now
from .requests import server_address
from .trainings import charts

__all__ = ["model_endpoints"]

_FORM_ROOM_BYTES: Final = 64 << 20
"""What a form of model files may have beside the files."""


def model_endpoints(loop: LocalLoop) -> list[Endpoint]:
    """The table of the endpoints, not yet guarded."""
    rest = _Rest(loop)
    model: dict[str, Any] = {"form_body": FILES_FORM, "max_body_bytes": loop.max_model_bytes + _FORM_ROOM_BYTES}
    said = partial(Parameter, where="query")
    return [
        get(
            f"{PROJECT}/models",
            rest.models,
            "The project's models, the newest first.",
            said(name="format", description="Only those that are there in this format."),
        ),
        Endpoint(
            method="GET",
            path=f"{PROJECT}/models/<model_id>/<model_format>/file",
            handle=rest.model_file,
            summary="A model as a zip.",
            answer=OBJECT,
            faults=(404,),
        ),
        Endpoint(
            method="PUT",
            path=f"{PROJECT}/models/<model_id>/<model_format>/file",
            handle=rest.put_model_file,
            summary="Keep a model in another format: a zip, or its files.",
            answer=OBJECT,
            faults=(400, 404, 409, 413, 422, 507),
            has_login=True,
            **model,
        ),
        Endpoint(
            method="PUT",
            path=f"{PROJECT}/trainings/<int(max=2147483647):number>/models/latest/<model_format>/file",
            handle=rest.put_latest_file,
            summary="Keep the best model of a training in a format.",
            answer=OBJECT,
            faults=(400, 404, 409, 413, 422, 507),
            has_login=True,
            **model,
        ),
        Endpoint(
            method="POST",
            path=f"{PROJECT}/<model_format>",
            handle=rest.upload_model,
            summary="Take in a new model: a zip, or its files.",
            answer=OBJECT,
            faults=(400, 404, 413, 422, 507),
            has_login=True,
            **model,
        ),
        get(f"{PROJECT}/trainings", rest.trainings, "The trainings with their models, the newest first."),
        Endpoint(
            method="GET",
            path=f"{PROJECT}/deployment/target",
            handle=rest.target,
            summary="The model that detectors are to follow.",
            answer=OBJECT,
            faults=(404,),
        ),
    ]


@frozen
class _Rest:
    """The handlers of the endpoints."""

    loop: LocalLoop

    async def models(self, organization: str, project: str) -> Response:
        host, model_format = server_address(), request.args.get("format")
        found = await self.loop.project(organization, project)
        models = await self.loop.database.read(lambda db: list_models(db, found, host=host, model_format=model_format))
        return json_answer({"models": models})

    async def model_file(self, organization: str, project: str, model_id: str, model_format: str) -> Response:
        def look(db: Connection) -> tuple[Path, str]:
            found = find_project(db, organization, project)
            row = find_model(db, found, model_id)
            if model_format not in formats_of(db, model_id):
                raise NotFound(f"model {version_of(row)} is not there in the format {model_format[:40]!r}")
            return self.loop.folders.model(found.number, model_id, model_format), version_of(row)

        file, version = await self.loop.database.read(look)
        name = f"{model_id}_{version}_{model_format}.zip"  # nodes make a folder of it, shared by those of a machine
        return await file_answer(file, content_type="application/zip", filename=name)

    async def upload_model(self, organization: str, project: str, model_format: str) -> Response:
        comment = f"uploaded at {now().replace('T', ' ')}"
        return await self._keep(organization, project, model_format, partial(_plan_upload, comment))

    async def put_model_file(self, organization: str, project: str, model_id: str, model_format: str) -> Response:
        return await self._keep(organization, project, model_format, partial(_plan_format, model_id))

    async def put_latest_file(self, organization: str, project: str, number: int, model_format: str) -> Response:
        return await self._keep(organization, project, model_format, partial(_plan_of_training, number))

    async def _keep(
        self,
        organization: str,
        project: str,
        model_format: str,
        plan: Callable[[Project, Connection], PlannedModel],
    ) -> Response:
        check_format(model_format)
        found = await self.loop.project(organization, project)
        planned = await self.loop.database.read(partial(plan, found))  # says no before gigabytes are sent
        await self.loop.database.read(lambda db: refuse_second(db, planned.id, model_format))
        limit_bytes = self.loop.max_model_bytes + _FORM_ROOM_BYTES
        await self.loop.check_room(request.content_length)
        async with receive_form(request, folder=self.loop.folders.incoming, max_bytes=limit_bytes) as form:
            files = [(file.filename, file.path) for file in form.files if file.field in ("files", "file", "")]
            host = server_address()
            kept = await self.loop.keep_model(found, partial(plan, found), model_format, files, host)
        file = self.loop.folders.model(found.number, kept.id, model_format)
        warning = await trio.to_thread.run_sync(doubt, file, model_format, limiter=self.loop.workers)
        return json_answer({"id": kept.id, "version": kept.version} | ({"warning": warning} if warning else {}))

    async def trainings(self, organization: str, project: str) -> Response:
        found = await self.loop.project(organization, project)
        return json_answer({"charts": await self.loop.database.read(lambda db: charts(db, found))})

    async def target(self, organization: str, project: str) -> Response:
        target = await self.loop.database.read(lambda db: target_of(db, find_project(db, organization, project)))
        return json_answer(target)


def _plan_upload(comment: str, project: Project, db: Connection) -> PlannedModel:
    return plan_upload(db, project, comment)


def _plan_format(model_id: str, project: Project, db: Connection) -> PlannedModel:
    return plan_format(db, project, model_id)


def _plan_of_training(number: int, project: Project, db: Connection) -> PlannedModel:
    return plan_of_training(db, project, number)
