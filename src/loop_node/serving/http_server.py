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
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any, Final

import h11
import trio
from attrs import frozen
from hypercorn.config import Config
from hypercorn.events import Event, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import wrap_app

from loop_node.errors import SettingsError

from .connection import Connection

__all__ = ["HttpLimits", "open_listeners", "serve_http"]

logger = logging.getLogger(__name__)

AsgiApp = Callable[[Any, Callable[..., Awaitable[Any]], Callable[..., Awaitable[None]]], Awaitable[None]]

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
    drain_s: float = 4


@asynccontextmanager
async def open_listeners(host: str, port: int) -> AsyncIterator[list[trio.SocketListener]]:
    """Listen on `host`:`port` (0: any free port) until the block ends.

    Raises:
        SettingsError: The address cannot be had; names NODE_HOST and NODE_PORT.
    """
    try:
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=1024)
    except (OSError, socket.gaierror) as error:
        said = "another program listens there" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise SettingsError(
            [f"NODE_HOST={host} NODE_PORT={port}: {said}; choose another port or stop the other program"]
        ) from error
    try:
        yield listeners
    finally:
        for listener in listeners:
            listener.socket.close()


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
        connections.start_soon(server.accept_from, listeners, connections)
        ready()
        await stop.wait()
        server.draining = True
        last_moment = trio.current_time() + limits.drain_s
        server.close_doors(listeners, connections)
        with trio.move_on_after(limits.idle_grace_s):
            await server.all_closed()
        await server.context.terminated.set()
        with trio.move_on_at(last_moment):
            await server.all_closed()
        server.abort_all()
        connections.cancel_scope.cancel()


class _TcpServer(TCPServer):
    """hypercorn's, but for some peers that hold their places for ever there.

    One that has gone without a word; one that sent several requests and goes without the first answer; one that speaks
    HTTP/2 and does the same (we stay with HTTP/1, to which every client falls back); one whose websocket handshake is
    incomplete.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._reading = trio.CancelScope()

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, Updated) and self.stream.closing.is_set():
            return  # who has gone gets no time to be idle
        try:
            await super().protocol_send(event)
        finally:
            if self.stream.closing.is_set():
                self._reading.cancel()

    async def _read_data(self) -> None:
        http_1: H11Protocol = self.protocol.protocol  # type: ignore[assignment]  # without TLS all begin so
        http_1._check_protocol = partial(_check_request, http_1)  # type: ignore[method-assign]  # its door for requests
        # a protocol error here: the peer broke HTTP while it was answered, too late for a 400 of hypercorn's
        with self._reading, suppress(h11.ProtocolError):
            await super()._read_data()
        await self.idle_task.stop()


async def _check_request(http_1: H11Protocol, request: h11.Request) -> None:
    headers = dict(request.headers)
    whole = headers.get(b"sec-websocket-key") and headers.get(b"sec-websocket-version") == b"13"
    if headers.get(b"upgrade", b"").lower() == b"websocket" and not (whole and request.http_version == b"1.1"):
        await http_1._send_error_response(400)
        raise h11.RemoteProtocolError("an incomplete websocket handshake")
    await trio.lowlevel.checkpoint()


class _Server:
    def __init__(self, app: AsgiApp, limits: HttpLimits) -> None:
        self.draining = False
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

    def close_doors(self, listeners: list[trio.SocketListener], connections: trio.Nursery) -> None:
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
            await _TcpServer(self._app, self._config, self.context, ConnectionState({}), connection)
        except* h11.ProtocolError:  # the peer broke HTTP so that hypercorn found no way to say it
            logger.debug("A peer broke HTTP", exc_info=True)
        except* Exception:  # a door to foreign code: one connection's failure is nobody else's
            logger.exception("A connection failed")
        finally:
            connection.abort()
            self._open.remove(connection)
            self._places.release()

    async def all_closed(self) -> None:
        for connection in tuple(self._open):
            await connection.closing.wait()

    def abort_all(self) -> None:
        for connection in tuple(self._open):
            connection.abort()

    def _with_manners(self, app: AsgiApp) -> AsgiApp:
        async def asgi(scope: Any, receive: Any, send: Any) -> None:
            await app(scope, receive, partial(self._send, send))

        return asgi

    async def _send(self, send: Callable[..., Awaitable[None]], message: MutableMapping[str, Any]) -> None:
        if self.draining and message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
        # quart-trio cancels the request as soon as hypercorn reports the client gone, and for `Connection: close` and
        # HTTP/1.0 that happens inside the last send: unshielded, the connection would never be closed.
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        with ExitStack() as around:
            if is_last:
                around.enter_context(trio.move_on_after(_LAST_WRITE_S, shield=True))
            # a peer that broke HTTP beyond its request has had hypercorn's 400, and gets no second answer
            around.enter_context(suppress(h11.LocalProtocolError))
            await send(message)


def _hypercorn_config(limits: HttpLimits) -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    config.include_server_header = False
    config.keep_alive_timeout = limits.keep_alive_s
    config.keep_alive_max_requests = 2**62
    config.websocket_max_message_size = limits.body_bytes
    config.h11_max_incomplete_size = 64 << 10
    return config
