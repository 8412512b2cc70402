"""The Socket.IO server: moves frames between quart's requests and websockets and the peers.

Every peer has a nursery of its own in the server's: its timekeeper and its handlers. Reader and writer are the view of the websocket,
or the views of long-polling's requests. Closing the server closes every peer.
"""

import json
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from typing import Any

import trio
from attrs import frozen
from quart import Quart, Response, request, websocket

from loop_node.errors import LoopNodeError, ProtocolError
from loop_node.socketio.engineio import Frame, Handshake, iter_payload
from loop_node.socketio.limits import Limits
from loop_node.socketio.origins import is_accepted_origin
from loop_node.socketio.packets import Value
from loop_node.socketio.peer import ConnectRequested, PeerProtocol, Transport
from loop_node.socketio.session import ErrorAck, Handler, Handlers, Peer, bare_exception, error_dict

__all__ = ["ConnectHandler", "DisconnectHandler", "SocketIoServer", "open_socketio_server"]

log = logging.getLogger(__name__)

ConnectHandler = Callable[[Peer, Mapping[str, Value] | None], Awaitable[str | None]]
"""`async (peer, auth) -> None` lets a client in; a text refuses it and is sent along."""

DisconnectHandler = Callable[[Peer, str], Awaitable[None]]
"""`async (peer, reason)`: told once for every peer that was let in, when its handlers are done; has `linger_s` seconds."""


async def _let_in(_peer: Peer, _auth: Mapping[str, Value] | None) -> None:
    """Refuse nobody."""


async def _let_go(_peer: Peer, _reason: str) -> None:
    """Do nothing."""


@frozen
class _HttpRefusal(Exception):
    status: HTTPStatus
    code: int
    message: str


_UNKNOWN_TRANSPORT = 0
_UNKNOWN_SID = 1
_BAD_REQUEST = 3
_FORBIDDEN = 4
_WRONG_VERSION = 5


class SocketIoServer:
    """Serves Socket.IO on the paths it is mounted at; made by `open_socketio_server`."""

    def __init__(
        self,
        nursery: trio.Nursery,
        handlers: Handlers,
        limits: Limits,
        allowed_origins: Collection[str],
        on_connect: ConnectHandler,
        on_disconnect: DisconnectHandler,
    ) -> None:
        self._nursery = nursery
        self._handlers = handlers
        self._limits = limits
        self._allowed_origins = allowed_origins
        self._on_connect = on_connect
        self._on_disconnect = on_disconnect
        self._peers: dict[str, Peer] = {}
        self._requests: set[tuple[str, str]] = set()

    @property
    def peers(self) -> tuple[Peer, ...]:
        """Those connected now."""
        return tuple(peer for peer in self._peers.values() if peer.connected)

    def mount(self, app: Quart, path: str) -> None:
        """Serve at this path, with and without the slash at its end."""
        path = path.rstrip("/")
        for rule, name in ((path, "socketio"), (f"{path}/", "socketio_slash")):
            app.add_url_rule(rule, name, self._serve_http, methods=["GET", "POST", "OPTIONS"], strict_slashes=True)
            app.add_websocket(rule, f"{name}_websocket", self._serve_websocket, strict_slashes=True)

    @property
    def max_body_bytes(self) -> int:
        """What the app must let a long-polling request have."""
        return max_body_bytes(self._limits)

    async def finish(self) -> None:
        """Part from every peer in good order: what it has asked is answered first."""
        async with trio.open_nursery() as partings:
            for peer in tuple(self._peers.values()):
                partings.start_soon(peer.finish, "the server stops")

    # peers

    async def _open_peer(self, transport: Transport, headers: Mapping[str, str], address: str) -> Peer:
        if len(self._peers) >= self._limits.max_peers:
            log.warning("Socket.IO: %s refused, %d peers are connected", address, len(self._peers))
            raise _HttpRefusal(HTTPStatus.SERVICE_UNAVAILABLE, _BAD_REQUEST, "too many peers, try again later")
        engine_sid = secrets.token_urlsafe(15)
        handshake = Handshake(
            sid=engine_sid,
            upgrades=("websocket",) if transport is Transport.POLLING else (),
            ping_interval_s=self._limits.ping_interval_s,
            ping_timeout_s=self._limits.ping_timeout_s,
            max_payload_bytes=self._limits.max_payload_bytes,
        )
        protocol = PeerProtocol(self._limits, trio.current_time(), handshake=handshake, transport=transport)
        peer = Peer(protocol, self._handlers, self._limits, headers=headers, address=address)
        self._peers[engine_sid] = peer
        await self._nursery.start(self._run_peer, engine_sid, peer, name=f"socketio peer {address}")
        return peer

    async def _run_peer(  # noqa: ASYNC128 # it hands task_status on
        self, engine_sid: str, peer: Peer, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        try:
            await peer.run(task_status=task_status)
        except Exception:  # the door to a peer: what is wrong with one must not take the others along
            log.exception("Socket.IO peer %s from %s failed", peer.sid or "(new)", peer.address)
        finally:
            del self._peers[engine_sid]
            if peer.sid:
                log.info("Socket.IO peer %s from %s is gone: %s", peer.sid, peer.address, peer.protocol.reason)
                with trio.CancelScope(shield=True, deadline=trio.current_time() + self._limits.linger_s):
                    await self._tell_gone(peer)

    async def _tell_gone(self, peer: Peer) -> None:
        try:
            await self._on_disconnect(peer, peer.protocol.reason)
        except Exception:  # the door to a handler: its fault must not take the other peers along
            log.exception("Socket.IO peer %s: the disconnect handler failed", peer.sid)

    async def _receive(self, peer: Peer, frames: Iterable[Frame]) -> None:
        try:
            for frame in frames:
                event = await peer.receive(frame)
                if event is not None:
                    await self._admit(peer, event)
        except ProtocolError as error:
            _drop(peer, str(error))

    async def _admit(self, peer: Peer, event: ConnectRequested) -> None:
        try:
            refusal = await self._on_connect(peer, event.auth)
        except LoopNodeError as error:
            refusal = str(error)
        except Exception:  # the door to a handler: its fault is a refusal
            log.exception("Socket.IO: the connect handler failed for %s", peer.address)
            refusal = "internal error"
        if refusal is not None:
            log.warning("Socket.IO: %s refused: %s", peer.address, refusal)
            peer.refuse(refusal)
            return
        peer.accept(secrets.token_urlsafe(15))
        log.info("Socket.IO peer %s from %s has connected", peer.sid, peer.address)

    # long-polling

    async def _serve_http(self) -> Response:
        headers = _plain_headers(request.headers.items())
        origin = headers.get("origin")
        try:
            self._check_origin(headers)
            if request.method == "OPTIONS":
                response = Response(b"", HTTPStatus.NO_CONTENT)
            else:
                response = Response(await self._poll(headers), content_type="text/plain; charset=UTF-8")
        except _HttpRefusal as refusal:
            return _refusal_response(refusal)
        response.timeout = None  # a body of 64 MiB may take longer than quart's minute
        if origin:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Allow-Credentials"] = "true"
            response.headers["Access-Control-Allow-Headers"] = "Content-Type"
            response.headers["Vary"] = "Origin"
        response.headers["Cache-Control"] = "no-store"
        return response

    async def _poll(self, headers: Mapping[str, str]) -> bytes:
        _check_query(request.args, "polling")
        engine_sid = request.args.get("sid")
        if engine_sid is None and request.method == "GET":
            peer = await self._open_peer(Transport.POLLING, headers, _address(request.scope))
            return await peer.next_payload()
        peer = self._find(engine_sid)
        with self._one_at_a_time(engine_sid or "", peer):
            if request.method == "GET":
                return await peer.next_payload()
            await self._receive(peer, iter_payload(await self._read_body(peer)))
            return b"ok"

    async def _read_body(self, peer: Peer) -> bytearray:
        """Read the request's body; a peer whose body is too large, too slow or broken off is out of step and is dropped."""
        limit_bytes = max_body_bytes(self._limits)
        too_large = f"a polling body is larger than {limit_bytes} bytes"
        body = bytearray()
        problem = too_large if (request.content_length or 0) > limit_bytes else "a polling body broke off"
        try:
            with trio.move_on_after(self._limits.ping_interval_s + self._limits.ping_timeout_s):
                async for chunk in request.body:  # raises for itself what the app's own limit refuses
                    body += chunk
                    if len(body) > limit_bytes:
                        problem = too_large
                        raise _HttpRefusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _BAD_REQUEST, problem)
                problem = ""
                return body
            problem = "a polling body took too long"
            raise _HttpRefusal(HTTPStatus.REQUEST_TIMEOUT, _BAD_REQUEST, problem)
        finally:
            if problem:
                _drop(peer, problem)

    @contextmanager
    def _one_at_a_time(self, engine_sid: str, peer: Peer) -> Iterator[None]:
        key = (engine_sid, request.method)
        if key in self._requests:
            problem = f"two {request.method} requests at a time"
            _drop(peer, problem)
            raise _HttpRefusal(HTTPStatus.BAD_REQUEST, _BAD_REQUEST, problem)
        self._requests.add(key)
        try:
            yield
        finally:
            self._requests.remove(key)

    def _find(self, engine_sid: str | None) -> Peer:
        peer = self._peers.get(engine_sid or "")
        if peer is None or peer.protocol.closed:
            raise _HttpRefusal(HTTPStatus.BAD_REQUEST, _UNKNOWN_SID, "Session ID unknown")
        return peer

    # websocket

    async def _serve_websocket(self) -> Response | None:
        try:
            headers = _plain_headers(websocket.headers.items())
            self._check_origin(headers)
            _check_query(websocket.args, "websocket")
            engine_sid = websocket.args.get("sid")
            if engine_sid is None:
                peer = await self._open_peer(Transport.WEBSOCKET, headers, _address(websocket.scope))
            else:
                peer = self._find(engine_sid)
        except _HttpRefusal as refusal:
            return _refusal_response(refusal)
        if engine_sid is None or await self._upgrade(peer):
            await self._move_frames(peer)
        return None

    async def _upgrade(self, peer: Peer) -> bool:
        """Let the client probe this websocket and move over to it; False if it did not."""
        try:
            with trio.move_on_after(self._limits.ping_timeout_s):
                while (answer := peer.receive_upgrade(await _receive_frame())) is not None:
                    await websocket.send(answer)
                return True
        except ProtocolError as error:
            log.warning("Socket.IO: the upgrade of %s has failed: %s", peer.address, error)
        finally:
            peer.protocol.abandon_upgrade()
        return False

    async def _move_frames(self, peer: Peer) -> None:
        try:
            await websocket.accept()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write_frames, peer, nursery.cancel_scope)
                while not peer.protocol.closed:
                    await self._receive(peer, [await _receive_frame()])
        finally:
            peer.close("the websocket is closed")

    async def _write_frames(self, peer: Peer, connection: trio.CancelScope) -> None:
        while frames := await peer.next_frames():
            for frame in frames:
                await websocket.send(frame)
        connection.cancel()

    def _check_origin(self, headers: Mapping[str, str]) -> None:
        origin = headers.get("origin")
        hosts = [*headers.get("x-forwarded-host", "").split(","), headers.get("host", "")]
        if not is_accepted_origin(origin, [host for host in hosts if host], self._allowed_origins):
            log.warning("Socket.IO: origin %.200r refused; CORS_ALLOWED_ORIGINS lists those that are accepted", origin)
            raise _HttpRefusal(HTTPStatus.BAD_REQUEST, _FORBIDDEN, f"{origin} is not an accepted origin.")


@asynccontextmanager
async def open_socketio_server(
    handlers: Mapping[str, Handler],
    *,
    limits: Limits | None = None,
    allowed_origins: Collection[str] = (),
    on_connect: ConnectHandler = _let_in,
    on_disconnect: DisconnectHandler = _let_go,
    error_ack: ErrorAck = error_dict,
) -> AsyncIterator[SocketIoServer]:
    """Open a Socket.IO server, to be mounted on an app; leaving closes every peer.

    Args:
        handlers: Event name -> `async (peer, *args) -> ack`.
        limits: Its bounds and periods.
        allowed_origins: Web pages of other hosts that may connect.
        on_connect: Lets a client in or refuses it.
        on_disconnect: Is told when one is gone.
        error_ack: How an error is told to a client that wants an ack.
    """
    limits = limits or Limits()
    with bare_exception():
        async with trio.open_nursery() as nursery:
            yield SocketIoServer(
                nursery, Handlers(handlers, error_ack), limits, allowed_origins, on_connect, on_disconnect
            )
            nursery.cancel_scope.cancel()


def max_body_bytes(limits: Limits) -> int:
    """The largest body of a long-polling request: a message of the largest size as base64, and some small packets."""
    return limits.max_payload_bytes * 4 // 3 + 64 * 1024


def _drop(peer: Peer, reason: str) -> None:
    log.warning("Socket.IO peer %s from %s is dropped: %s", peer.sid or "(new)", peer.address, reason)
    peer.close(reason)


async def _receive_frame() -> Frame:
    frame: Frame | None = await websocket.receive()
    return b"" if frame is None else frame  # quart-trio gives None for an empty binary message


def _check_query(query: Mapping[str, str], transport: str) -> None:
    if query.get("transport") != transport:
        raise _HttpRefusal(HTTPStatus.BAD_REQUEST, _UNKNOWN_TRANSPORT, "Transport unknown")
    if query.get("EIO") != "4":
        raise _HttpRefusal(HTTPStatus.BAD_REQUEST, _WRONG_VERSION, "Unsupported protocol version: EIO=4 is needed")


def _refusal_response(refusal: _HttpRefusal) -> Response:
    body = json.dumps({"code": refusal.code, "message": refusal.message})
    return Response(body, refusal.status, content_type="application/json")


def _plain_headers(items: Iterable[tuple[str, str]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in items:
        headers.setdefault(name.lower(), value)
    return headers


def _address(scope: Mapping[str, Any]) -> str:
    host, port = scope.get("client") or ("?", 0)
    return f"{host}:{port}"
