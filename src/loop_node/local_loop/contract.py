"""The REST side that nodes know: the wire contract's paths, bodies and statuses. Users, projects and detectors are here."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import trio
from attrs import frozen
from quart import Response, request

from loop_node.schemas.local_loop import GeneratorOrder
from loop_node.schemas.status import DetectorStatus
from loop_node.schemas.wire import unstructure
from loop_node.serving.app import json_answer
from loop_node.serving.openapi import SESSION_COOKIE, Endpoint, Parameter

from .accounts import SESSION_S
from .contract_images import image_endpoints
from .contract_models import model_endpoints
from .contract_paths import OBJECT, PROJECT, get
from .generator import generate_project
from .loop import LocalLoop
from .nodes import NodeKind, put_node
from .projects import Project, list_projects
from .requests import client_address, read_form, read_json, required, server_address

__all__ = ["contract_endpoints"]

_LOGIN: Final = {
    "type": "object",
    "properties": {"username": {"type": "string"}, "password": {"type": "string", "format": "password"}},
    "required": ["username", "password"],
}


_MAX_STATUS_BYTES: Final = 256 << 10
"""Of a detector's status, which comes without a login and is kept."""


def contract_endpoints(loop: LocalLoop) -> list[Endpoint]:
    """The table of the contract's endpoints, not yet guarded."""
    rest = _Rest(loop)
    said = partial(Parameter, where="query")
    return [
        Endpoint(method="GET", path="/api/status", handle=rest.status, summary="The Loop is there.", answer=OBJECT),
        Endpoint(
            method="POST",
            path="/api/login",
            handle=rest.log_in,
            summary="Log in with the form fields `username` and `password`; the answer sets a cookie.",
            form_body=_LOGIN,
            answer=OBJECT,
            faults=(401, 422, 429),
        ),
        Endpoint(method="POST", path="/api/logout", handle=rest.log_out, summary="Log out.", answer=OBJECT),
        get("/api/projects", rest.projects, "All projects."),
        get(PROJECT, rest.project, "One project with its categories."),
        Endpoint(
            method="DELETE",
            path=PROJECT,
            handle=rest.delete,
            summary="Delete a project and all that belongs to it.",
            parameters=[said(name="keep_images", description="`true` keeps the image files on disk, in kept_images.")],
            answer=OBJECT,
            faults=(404,),
            has_login=True,
        ),
        Endpoint(
            method="POST",
            path="/api/<organization>/projects/generator",
            handle=rest.generate,
            summary="Make a synthetic project, the same each time for a name.",
            json_body=GeneratorOrder,
            answer=OBJECT,
            faults=(409, 422, 507),
            has_login=True,
        ),
        Endpoint(
            method="POST",
            path=f"{PROJECT}/detectors",
            handle=rest.detector_status,
            summary="A detector says how it is doing.",
            json_body=DetectorStatus,
            answer=OBJECT,
            faults=(404, 413, 422),
        ),
        *image_endpoints(loop),
        *model_endpoints(loop),
    ]


@frozen
class _Rest:
    """The handlers of the endpoints."""

    loop: LocalLoop

    async def status(self) -> Response:
        await trio.lowlevel.checkpoint()
        return json_answer({"status": "ok"})

    # users

    async def log_in(self) -> Response:
        name, password = required(await read_form(), "username", "password")
        token = await self.loop.accounts.log_in(name, password, client_address())
        answer = json_answer({"username": name})
        answer.set_cookie(SESSION_COOKIE, token, max_age=SESSION_S, httponly=True, samesite="Lax")
        return answer

    async def log_out(self) -> Response:
        await self.loop.accounts.log_out(request.cookies.get(SESSION_COOKIE))
        answer = json_answer({})
        answer.delete_cookie(SESSION_COOKIE)
        return answer

    # projects

    async def projects(self) -> Response:
        found = await self.loop.database.read(list_projects)
        return json_answer({"projects": [_project(one) for one in found]})

    async def project(self, organization: str, project: str) -> Response:
        return json_answer(_project(await self.loop.project(organization, project)))

    async def delete(self, organization: str, project: str) -> Response:
        keep_images = request.args.get("keep_images", "").lower() in ("true", "1")
        await self.loop.delete_project(organization, project, keep_images=keep_images)
        return json_answer({})

    async def generate(self, organization: str) -> Response:
        order = await read_json(GeneratorOrder)
        await self.loop.check_room(None)
        return json_answer(_project(await generate_project(self.loop, organization, order, host=server_address())))

    # detectors

    async def detector_status(self, organization: str, project: str) -> Response:
        status = await read_json(DetectorStatus, max_bytes=_MAX_STATUS_BYTES)
        found = await self.loop.project(organization, project)
        await self.loop.database.write(
            lambda db: put_node(
                db,
                NodeKind.DETECTOR,
                status.uuid,
                status.name,
                unstructure(status),
                organization=found.organization,
                project=found.project,
            )
        )
        return json_answer({})


def _project(project: Project) -> Mapping[str, Any]:
    return {
        "organization_id": project.organization,
        "project_id": project.project,
        "name": project.name,
        "resource": project.resource,
        "created": project.created,
        "categories": unstructure(list(project.categories.all)),
    }
