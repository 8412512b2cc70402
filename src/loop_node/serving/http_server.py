"""The HTTP server: hypercorn's protocol classes behind our own front door.

hypercorn's own `serve` has no bound on connections, dies as a whole when one connection's task raises, and cuts idle
and busy connections alike when it stops. This module opens the doors itself and hands each connection to hypercorn's
`TCPServer`, one of the few private names we touch (pinned by the release line in pyproject.toml).

How it stops, in this order: no new connections but those that wait at the door already; every answer from now on
carries `Connection: close`, so that a client in full flow learns of the end with an answer in hand; connections that
stay idle are closed; what still runs at the end of the grace period is cut.
"""

import errno
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

import h11
import trio
from attrs import frozen
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import wrap_app

from loop_node.errors import SettingsError
from loop_node.socketio.hosting import HOSTED_APP_QUEUE_SIZE
from loop_node.socketio.server import SocketIoServer

from .connection import Connection
from .http11 import Http11Connection, path_of

__all__ = ["HttpLimits", "listening_url", "open_listeners", "serve_http", "serve_node"]

logger = logging.getLogger(__name__)

AsgiApp = Callable[[Any, Callable[..., Awaitable[Any]], Callable[..., Awaitable[None]]], Awaitable[None]]

_REFUSED_BODY_S: Final = 10
_LAST_WRITE_S: Final = 1
_OUT_OF_RESOURCES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}


@frozen(kw_only=True)
class HttpLimits:
    """Bounds of the server; times in seconds.

    Attributes:
        connections: Further clients wait in the kernel's queue.
        body_bytes: The largest websocket message; request bodies are bounded by the app.
        keep_alive_s: An idle connection is closed after this; an unfinished request head counts as idle.
        idle_grace_s: When stopping, how long an idle connection may still send a request.
        drain_s: When stopping, how long a request in flight may take altogether.
    """

    connections: int = 256
    body_bytes: int = 64 << 20
    keep_alive_s: float = 30
    idle_grace_s: float = 0.5
    drain_s: float = 3.5


@asynccontextmanager
async def open_listeners(host: str, port: int) -> AsyncIterator[list[trio.SocketListener]]:
    """Listen on `host`:`port` (0: any free port) until the block ends.

    Raises:
        SettingsError: The address cannot be had; names NODE_HOST and NODE_PORT.
    """
    try:
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=1024)
    except (OSError, socket.gaierror) as error:
        raise SettingsError([f"NODE_HOST={host} NODE_PORT={port}: {_why_not(error)}"]) from error
    try:
        yield listeners
    finally:
        for listener in listeners:
            listener.socket.close()


def _why_not(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another program listens there; choose another port or stop that program"
    if error.errno == errno.EACCES:
        return "permission denied; choose a port from 1024 on, or run with the right to lower ones"
    return f"{error.strerror or error}; NODE_HOST must be an address of this machine"


async def serve_http(
    app: AsgiApp,
    listeners: list[trio.SocketListener],
    *,
    stop: trio.Event,
    limits: HttpLimits,
    ready: Callable[[], None],
) -> None:
    """Serve `app` until `stop` is set and the requests in flight are answered.

    Cancelled, it drops all connections at once; the listeners stay open for a restart.
    """
    server = _Server(app, limits)
    async with trio.open_nursery() as connections:
        try:
            connections.start_soon(server.accept_from, listeners, connections)
            ready()
            await stop.wait()
            await server.drain(listeners, connections)
        finally:
            server.abort_all()  # hypercorn's writes are shielded: only a closed socket ends them
            connections.cancel_scope.cancel()


async def serve_node(
    app: AsgiApp,
    socketio: SocketIoServer,
    listeners: list[trio.SocketListener],
    *,
    stop: trio.Event,
    limits: HttpLimits,
    ready: Callable[[], None],
) -> None:
    """As `serve_http`; the Socket.IO peers are parted from once what they asked is answered."""

    async def part_from_peers() -> None:
        await stop.wait()
        await socketio.finish()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(part_from_peers)
        await serve_http(app, listeners, stop=stop, limits=limits, ready=ready)
        nursery.cancel_scope.cancel()


def listening_url(listeners: list[trio.SocketListener]) -> str:
    """Where the first of them listens."""
    host, port = listeners[0].socket.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server:
    def __init__(self, app: AsgiApp, limits: HttpLimits) -> None:
        self.draining = False
        self._limits = limits
        self.context = WorkerContext(None)
        self._app: AppWrapper = wrap_app(self._with_manners(app), 0, "asgi")
        self._config = _hypercorn_config(limits)
        self._places = trio.Semaphore(limits.connections)
        self._open: set[Connection] = set()

    async def accept_from(self, listeners: list[trio.SocketListener], connections: trio.Nursery) -> None:
        async with trio.open_nursery() as doors:
            for listener in listeners:
                doors.start_soon(self._accept, listener, connections)

    async def _accept(self, listener: trio.SocketListener, connections: trio.Nursery) -> None:
        while True:
            await self._places.acquire()
            try:
                connection = Connection(await listener.accept())
            except trio.ClosedResourceError:
                return
            except OSError as error:
                self._places.release()
                if error.errno not in _OUT_OF_RESOURCES:
                    raise
                logger.error("No new connections for now: %s", error.strerror)  # noqa: TRY400 # no traceback needed
                await trio.sleep(0.1)
                continue
            self._let_in(connection, connections)

    async def drain(self, listeners: list[trio.SocketListener], connections: trio.Nursery) -> None:
        """Answer what is in flight or on its way; returns when all is answered, or after the grace period."""
        self.draining = True
        last_moment = trio.current_time() + self._limits.drain_s
        self._close_doors(listeners, connections)
        with trio.move_on_after(self._limits.idle_grace_s):
            await self._all_closed()
        await self.context.terminated.set()
        with trio.move_on_at(last_moment):
            await self._all_closed()

    def _close_doors(self, listeners: list[trio.SocketListener], connections: trio.Nursery) -> None:
        """Listen no more. Whoever the kernel has connected by now is let in: closing alone would reset them."""
        for listener in listeners:
            trio.lowlevel.notify_closing(listener.socket)
            with socket.socket(fileno=listener.socket.detach()) as door, suppress(trio.WouldBlock, OSError):
                door.setblocking(False)
                while True:
                    self._places.acquire_nowait()
                    peer, _ = door.accept()
                    stream = trio.SocketStream(trio.socket.from_stdlib_socket(peer))
                    self._let_in(Connection(stream), connections)

    def _let_in(self, connection: Connection, connections: trio.Nursery) -> None:
        self._open.add(connection)
        connections.start_soon(self._serve, connection)

    async def _serve(self, connection: Connection) -> None:
        try:
            await Http11Connection(self._app, self._config, self.context, ConnectionState({}), connection)
        except* h11.ProtocolError as errors:  # the peer broke HTTP so that hypercorn found no way to say it
            logger.debug("A peer broke HTTP: %s", errors.exceptions)
        except* Exception:  # a door to foreign code: one connection's failure is nobody else's
            logger.exception("A connection failed")
        finally:
            connection.abort()
            self._open.remove(connection)
            self._places.release()

    async def _all_closed(self) -> None:
        for connection in tuple(self._open):
            await connection.closing.wait()

    def abort_all(self) -> None:
        for connection in tuple(self._open):
            connection.abort()

    def _with_manners(self, app: AsgiApp) -> AsgiApp:
        async def asgi(scope: Any, receive: Any, send: Any) -> None:
            path = path_of(scope["path"])
            if path is None:
                await _refuse_target(scope, receive, send)
                return
            scope["path"] = path
            await app(scope, receive, partial(self._send, send))

        return asgi

    async def _send(self, send: Callable[..., Awaitable[None]], message: MutableMapping[str, Any]) -> None:
        if self.draining and message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
        # quart-trio cancels the request as soon as hypercorn reports the client gone, and for `Connection: close` and
        # HTTP/1.0 that happens inside the last send: unshielded, the connection would never be closed.
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        # a peer that broke HTTP beyond its request has had hypercorn's 400, and gets no second answer
        with suppress(h11.LocalProtocolError):
            if is_last:
                with trio.move_on_after(_LAST_WRITE_S, shield=True):
                    await send(message)
            else:
                await send(message)


async def _refuse_target(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        with trio.move_on_after(_REFUSED_BODY_S):
            while (await receive()).get("more_body"):  # hypercorn waits until somebody takes the body
                pass
        body = b'{"detail":"the request target must be a path"}'
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 400, "headers": headers})
        await send({"type": "http.response.body", "body": body})
    else:
        await send({"type": "websocket.close"})


def _hypercorn_config(limits: HttpLimits) -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    config.include_server_header = False
    config.keep_alive_timeout = limits.keep_alive_s
    config.keep_alive_max_requests = 2**62
    config.websocket_max_message_size = limits.body_bytes
    config.max_app_queue_size = HOSTED_APP_QUEUE_SIZE
    config.h11_max_incomplete_size = 64 << 10
    return config
