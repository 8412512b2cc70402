"""The quart app every node starts from: endpoints in a table, one shape for errors, health, the API page."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

import msgspec
import trio
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from loop_node import logs
from loop_node.errors import (
    Conflict,
    InputError,
    LoginNeeded,
    LoopNodeError,
    Malformed,
    NotFound,
    RateLimited,
    StorageFull,
    TooLarge,
    Unavailable,
)
from loop_node.socketio.hosting import RendezvousWebsocket
from loop_node.socketio.origins import is_accepted_origin
from loop_node.socketio.server import SocketIoServer
from loop_node.supervision import Health

from . import openapi
from .bodies import BoundedHttpConnection, BoundedRequest, set_body_limit
from .metrics import Figures, metrics_endpoint
from .openapi import Endpoint, Handle
from .uploads import BodyBudget, read_body

__all__ = ["create_app", "json_answer", "text_answer"]

logger = logging.getLogger(__name__)

SOCKETIO_PATH: Final = "/ws/socket.io"
_BODY_TIMEOUT_S: Final = 60
_BODIES_AT_ONCE: Final = 8
"""How many bodies of the largest size fit into memory; thousands of ordinary images do."""
_REQUEST_ID_CHARACTERS: Final = 128
_STATUS: Final[Mapping[type[LoopNodeError], int]] = {
    RateLimited: 429,
    StorageFull: 507,
    Unavailable: 503,
    LoginNeeded: 401,
    NotFound: 404,
    Conflict: 409,
    TooLarge: 413,
    Malformed: 400,
    InputError: 422,
}
"""The first that fits counts."""


def json_answer(value: object, status: int = 200) -> Response:
    """An answer of JSON; a text becomes a JSON string, with its quotes."""
    return Response(msgspec.json.encode(value), status, content_type="application/json")


def text_answer(text: str) -> Response:
    """An answer of plain text."""
    return Response(text, content_type="text/plain; charset=utf-8")


def create_app(
    title: str,
    endpoints: Iterable[Endpoint],
    *,
    health: Health,
    not_ready: Callable[[], Sequence[str]],
    max_body_bytes: int,
    socketio: SocketIoServer | None = None,
    allowed_origins: Collection[str] = (),
    figures: Iterable[Figures] = (),
) -> QuartTrio:
    """An app with the node's own endpoints and those that every node has.

    Args:
        title: The node's name on its API page.
        endpoints: The node's own endpoints.
        health: What the supervisor knows of the node's tasks.
        not_ready: One line per reason why this node cannot do its work yet; none means ready.
        max_body_bytes: Larger request bodies are answered with 413, unless their endpoint has a bound of its own.
        allowed_origins: Web pages of other origins that may call the endpoints from a browser; `*` for all.
        socketio: To be mounted where clients of Learning Loop nodes look for it.
        figures: What the node's rooms tell at `/metrics`.
    """
    app = QuartTrio("loop_node", static_folder=None, template_folder=None)
    app.asgi_http_class = BoundedHttpConnection
    app.request_class = BoundedRequest
    app.config.update(
        MAX_CONTENT_LENGTH=max_body_bytes,
        MAX_BODY_BYTES=max_body_bytes,
        BODY_TIMEOUT=_BODY_TIMEOUT_S,
        PROVIDE_AUTOMATIC_OPTIONS=False,
    )
    table = [*endpoints, *_health_endpoints(health, not_ready), metrics_endpoint(figures, health), *_log_endpoints()]
    budget = BodyBudget(_BODIES_AT_ONCE * max_body_bytes, max_body_bytes)
    for endpoint in [*table, *openapi.pages(title, table)]:
        if endpoint.max_body_bytes is None:
            handle = _within(budget, endpoint.handle)
        else:
            handle = _streamed(endpoint.max_body_bytes, endpoint.handle)
        app.add_url_rule(endpoint.path, f"{endpoint.method} {endpoint.path}", handle, methods=[endpoint.method])
    if socketio is not None:
        app.config["MAX_CONTENT_LENGTH"] = socketio.max_body_bytes  # as base64 a message is larger
        app.asgi_websocket_class = RendezvousWebsocket
        socketio.mount(app, SOCKETIO_PATH)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(LoopNodeError, _our_error)
    app.after_request(_echo_request_id)
    if allowed_origins:
        _let_pages_in(app, allowed_origins)
    return app


def _within(budget: BodyBudget, handle: Handle) -> Handle:
    async def bounded(**parts: str) -> Response:
        length = request.content_length
        if length is not None and length > budget.largest_bytes:
            raise TooLarge(f"the body is larger than {budget.largest_bytes} bytes")
        with budget.take(None if "Transfer-Encoding" in request.headers else length or 0):
            return await handle(**parts)

    return bounded


def _streamed(max_bytes: int, handle: Handle) -> Handle:
    """Outside of the budget: a body that is iterated takes about a megabyte, however large it is."""
    too_large = f"the body is larger than {max_bytes} bytes"

    async def bounded(**parts: str) -> Response:
        if (request.content_length or 0) > max_bytes:
            raise TooLarge(too_large)
        set_body_limit(request, max_bytes)
        try:
            return await handle(**parts)
        except RequestEntityTooLarge:
            raise TooLarge(too_large) from None

    return bounded


async def _http_error(error: HTTPException) -> Response:
    """Unknown path, wrong method, a body that comes too slowly, and 500, which quart has logged with its traceback.

    Websockets end here too, where there is no request.
    """
    answer = json_answer({"detail": error.name}, error.code or 500)
    for name, value in error.get_headers():
        if name.lower() == "allow":
            answer.headers[name] = value
    return answer


async def _our_error(error: LoopNodeError) -> Response:
    status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)
    if isinstance(error, Unavailable):
        answer = json_answer({"detail": str(error)}, status)
        answer.headers["Retry-After"] = str(error.retry_after_s)
        return answer
    if isinstance(error, InputError):
        return json_answer({"detail": error.detail if isinstance(error, Conflict) else str(error)}, status)
    logger.error("%s %s: %s", request.method, request.path, error)
    return json_answer({"detail": str(error)}, 500)


async def _echo_request_id(answer: Response) -> Response:
    request_id = request.headers.get("X-Request-ID", "")
    if request_id and request_id.isascii() and request_id.isprintable():
        answer.headers["X-Request-ID"] = request_id[:_REQUEST_ID_CHARACTERS]
    return answer


def _let_pages_in(app: QuartTrio, allowed_origins: Collection[str]) -> None:
    """Tell browsers that pages of these origins may call us (the CORS protocol of the Fetch standard, section 3.3)."""

    def is_let_in() -> bool:
        origin = request.headers.get("Origin")
        own_path = not request.path.startswith(SOCKETIO_PATH)  # Socket.IO answers for itself
        return own_path and origin is not None and is_accepted_origin(origin, [], allowed_origins)

    async def preflight() -> Response | None:
        asked = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        return Response(b"", 204) if asked and is_let_in() else None

    async def let_in(answer: Response) -> Response:
        answer.headers.add("Vary", "Origin")
        if is_let_in():
            answer.headers["Access-Control-Allow-Origin"] = request.headers["Origin"]
            answer.headers["Access-Control-Allow-Methods"] = "GET, POST, PUT"
            answer.headers["Access-Control-Allow-Headers"] = request.headers.get("Access-Control-Request-Headers", "*")
            answer.headers["Access-Control-Expose-Headers"] = "Server-Timing, X-Request-ID, Retry-After"
        return answer

    app.before_request(preflight)
    app.after_request(let_in)


def _health_endpoints(health: Health, not_ready: Callable[[], Sequence[str]]) -> list[Endpoint]:
    async def alive() -> Response:
        await trio.lowlevel.checkpoint()
        return json_answer({"status": "alive", "tasks": health.snapshot()})

    async def ready() -> Response:
        await trio.lowlevel.checkpoint()
        failing = [*(f"{name}: {why}" for name, why in health.failing().items()), *not_ready()]
        return json_answer({"status": "not ready" if failing else "ready", "failing": failing}, 503 if failing else 200)

    said = "Is the process alive? Needs no login and no Learning Loop."
    can = "Can the node do its work? 503 with the failing checks if not."
    return [
        Endpoint(method="GET", path=path, handle=handle, summary=summary, answer={"type": "object"})
        for path, handle, summary in (
            ("/healthz", alive, said),
            ("/v2/health/live", alive, said),
            ("/readyz", ready, can),
            ("/v2/health/ready", ready, can),
        )
    ]


def _log_endpoints() -> list[Endpoint]:
    async def put_debug_logging() -> Response:
        wanted = (await read_body(request)).decode("utf-8", "replace").strip()
        if wanted not in ("on", "off"):
            return json_answer({"detail": "Invalid state"}, 400)
        logs.set_debug(wanted == "on")
        return json_answer(wanted)

    return [
        Endpoint(
            method="PUT",
            path="/debug_logging",
            handle=put_debug_logging,
            summary="Log more (`on`) or as LOG_LEVEL says (`off`).",
            text_body=("on", "off"),
            answer={"type": "string", "enum": ["on", "off"]},
            faults=(400,),
        )
    ]
