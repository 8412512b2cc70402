"""The pages for people: what is in the store, to be read with any browser, without a network to elsewhere.

Without a session every page answers with the way to the login. Nothing can be changed here but the session, whose cookie
browsers do not send along with requests that other sites make (`SameSite=Lax`).
"""

import re
from collections.abc import Awaitable, Callable
from sqlite3 import Connection
from typing import Final, Protocol

from attrs import frozen
from quart import Response, request

from loop_node.errors import InputError, LoginNeeded, NotFound, RateLimited
from loop_node.schemas.local_loop import ImageState
from loop_node.serving.openapi import SESSION_COOKIE, Endpoint, Handle

from .accounts import SESSION_S, Accounts
from .database import Database
from .images import count_by_state, newest_of_state, read_records
from .models import find_model, latest_version, list_models, version_of
from .nodes import list_nodes
from .projects import Project, find_project, list_projects, now
from .rendering import (
    ImagesView,
    OverviewView,
    ProjectLine,
    ProjectView,
    render_fault,
    render_images,
    render_login,
    render_overview,
    render_project,
)
from .requests import client_address, read_form
from .trainings import list_trainings

__all__ = ["IMAGES_PER_PAGE", "PageLoop", "page_endpoints"]

IMAGES_PER_PAGE: Final = 60
_PAGE: Final = re.compile(r"[0-9]{1,9}")
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; form-action 'self'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}

Page = Callable[..., Awaitable[str]]
"""Called with the user's name and the parts of the path; returns HTML."""


class PageLoop(Protocol):
    """What the pages need of a Learning Loop."""

    @property
    def database(self) -> Database:
        """The store."""

    @property
    def accounts(self) -> Accounts:
        """Who may look."""

    def connected_ids(self) -> set[str]:
        """The ids of the nodes that are connected now."""


def page_endpoints(loop: PageLoop) -> list[Endpoint]:
    """The pages of `loop`, its login among them."""
    pages = _Pages(loop)
    project = "/projects/<organization>/<project>"
    return [
        pages.behind_login("/", pages.overview, "All projects, running trainings and nodes."),
        pages.behind_login(project, pages.project, "One project."),
        pages.behind_login(f"{project}/images/<state>", pages.images, "Thumbnails of the images in one state."),
        _endpoint("GET", "/login", pages.login_form, "The login."),
        _endpoint("POST", "/login", pages.log_in, "Log in with the form."),
        _endpoint("POST", "/logout", pages.log_out, "Log out."),
    ]


def _endpoint(method: str, path: str, handle: Handle, summary: str) -> Endpoint:
    return Endpoint(method=method, path=path, handle=handle, summary=summary, is_page=True)


@frozen
class _Pages:
    loop: PageLoop

    def behind_login(self, path: str, page: Page, summary: str) -> Endpoint:
        async def handle(**parts: str) -> Response:
            user = self.loop.accounts.user_of(request.cookies.get(SESSION_COOKIE))
            if user is None:
                return _see_other("/login")
            try:
                return _html(await page(user, **parts))
            except InputError as error:
                status = 404 if isinstance(error, NotFound) else 422
                return _html(render_fault(status, str(error), user), status)

        return _endpoint("GET", path, handle, summary)

    async def overview(self, user: str) -> str:
        connected = self.loop.connected_ids()

        def read(db: Connection) -> str:
            lines = [_line(db, project) for project in list_projects(db)]
            nodes = list_nodes(db, connected)
            return render_overview(OverviewView(user=user, now=now(), projects=lines, nodes=nodes))

        return await self.loop.database.read(read)

    async def project(self, user: str, organization: str, project: str) -> str:
        def read(db: Connection) -> str:
            found = find_project(db, organization, project)
            return render_project(
                ProjectView(
                    user=user,
                    now=now(),
                    project=found,
                    counts=count_by_state(db, found),
                    models=list_models(db, found, host=""),
                    trainings=list_trainings(db, found),
                )
            )

        return await self.loop.database.read(read)

    async def images(self, user: str, organization: str, project: str, state: str) -> str:
        wanted_state, wanted_page = _state(state), _page_number()

        def read(db: Connection) -> str:
            found = find_project(db, organization, project)
            return render_images(_images_view(db, user, found, wanted_state, wanted_page))

        return await self.loop.database.read(read)

    async def login_form(self) -> Response:
        return _html(render_login())

    async def log_in(self) -> Response:
        try:
            form = await read_form()
            name, password = form.get("username", ""), form.get("password", "")
            token = await self.loop.accounts.log_in(name, password, client_address())
        except LoginNeeded as error:
            return _html(render_login(f"{error}."), 401)
        except RateLimited as error:
            answer = _html(render_login(f"{error}, try again in {error.retry_after_s} s."), 429)
            answer.headers["Retry-After"] = str(error.retry_after_s)
            return answer
        return _with_cookie(_see_other("/"), token, SESSION_S)

    async def log_out(self) -> Response:
        await self.loop.accounts.log_out(request.cookies.get(SESSION_COOKIE))
        return _with_cookie(_see_other("/login"), "", 0)


def _line(db: Connection, project: Project) -> ProjectLine:
    target = project.target_model
    return ProjectLine(
        project=project,
        counts=count_by_state(db, project),
        latest_version=latest_version(db, project),
        target_version=None if target is None else version_of(find_model(db, project, target)),
        trainings=[one for one in list_trainings(db, project) if one["ended"] is None],
    )


def _images_view(db: Connection, user: str, project: Project, state: ImageState, page: int) -> ImagesView:
    """A page behind the last one, as images move on, is the last one."""
    counts = count_by_state(db, project)
    page_count = max(1, -(-counts[state.value] // IMAGES_PER_PAGE))
    page = min(page, page_count)
    ids = newest_of_state(db, project, state, limit=IMAGES_PER_PAGE, offset=(page - 1) * IMAGES_PER_PAGE)
    return ImagesView(
        user=user,
        project=project,
        counts=counts,
        state=state,
        records=read_records(db, project, ids),
        page=page,
        page_count=page_count,
    )


def _state(said: str) -> ImageState:
    if said not in list(ImageState):
        raise NotFound(f"images are in one of the states {', '.join(ImageState)}, none is in {said[:40]!r}")
    return ImageState(said)


def _page_number() -> int:
    said = request.args.get("page", "1")
    if not _PAGE.fullmatch(said) or not int(said):
        raise InputError(f"page: a number from 1 on is needed, not {said[:40]!r}")
    return int(said)


def _html(text: str, status: int = 200) -> Response:
    return Response(text, status, headers=_HEADERS, content_type="text/html; charset=utf-8")


def _see_other(path: str) -> Response:
    return Response(b"", 303, headers=_HEADERS | {"Location": path})


def _with_cookie(answer: Response, token: str, max_age_s: int) -> Response:
    answer.set_cookie(SESSION_COOKIE, token, max_age=max_age_s, path="/", httponly=True, samesite="Lax")
    return answer
