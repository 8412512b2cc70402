"""hypercorn's HTTP/1.1, without what a node does not need and with answers where it is silent.

hypercorn also speaks HTTP/2 on a plain connection, by upgrade or by prior knowledge; there its errors escape and idle
peers are not timed out. Nobody talks HTTP/2 to a node, so it is not offered. The classes and methods overridden here are
private names, pinned by the release line in pyproject.toml and by `tests/serving/test_http11.py`.
"""

from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from typing import Any
from urllib.parse import urlsplit

import h11
import msgspec
import trio
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

__all__ = ["Http11Connection", "path_of"]

_BROKEN: dict[int, str] = {
    400: "this is no well-formed HTTP/1.1 request",
    431: "the request's head is too large",
}


def path_of(target: str) -> str | None:
    """The path of a request target in any of HTTP's forms (RFC 9112, section 3.2); None if it has none we serve."""
    if target.startswith("/"):
        return target
    try:
        url = urlsplit(target)
    except ValueError:
        return None
    return (url.path or "/") if url.scheme in ("http", "https") else None


class Http11Connection(TCPServer):
    """One connection: hypercorn's, but for the protocol, and for a peer that has gone.

    hypercorn keeps such a connection until its idle timeout, or for ever if several requests came on it and the first
    is not answered yet; here it ends at once and gives its place back.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._reading = trio.CancelScope()

    async def protocol_send(self, event: Event) -> None:
        """Pass an event of the protocol on to the peer, and stop reading once that has gone or is being closed."""
        if isinstance(event, Updated) and self.stream.closing.is_set():
            return  # who has gone gets no time to be idle
        try:
            await super().protocol_send(event)
        finally:
            if self.stream.closing.is_set():
                self._reading.cancel()

    async def run(self) -> None:
        """Serve requests until either side closes."""
        socket = self.stream.socket
        try:
            client, server = (
                parse_socket_addr(socket.family, address) for address in (socket.getpeername(), socket.getsockname())
            )
            async with TaskGroup() as self._task_group:
                self.protocol = _Http11(  # type: ignore[assignment] # the wrapper around it only chooses HTTP/2
                    self.app,
                    self.config,
                    self.context,
                    self._task_group,
                    ConnectionState(self.state),
                    False,
                    client,
                    server,
                    self.protocol_send,
                )
                await self.idle_task.restart(self._task_group, self._idle_timeout)
                # a protocol error here: the peer broke HTTP while it was answered, too late for a 400
                with self._reading, suppress(h11.ProtocolError):
                    await self._read_data()
                await self.idle_task.stop()
            await self._close()
        except OSError:
            return  # the peer reset the connection; whoever accepted it closes our end

    async def _read_data(self) -> None:
        """Read until the end; how long a peer may be silent is the idle task's business."""
        while True:
            try:
                data = bytes(await self.stream.receive_some())
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                break
            await self.protocol.handle(RawData(data))
            if not data:
                break
        await self.protocol.handle(Closed())


class _Http11(H11Protocol):
    async def _check_protocol(self, event: h11.Request) -> None:
        """Offer no HTTP/2."""

    async def _create_stream(self, request: h11.Request) -> None:
        await super()._create_stream(_plain(request) if _is_broken_upgrade(request.headers) else request)

    async def _send_error_response(self, status_code: int) -> None:
        """Say what hypercorn only numbers; what a client sent is never answered with a 5xx."""
        status_code = 400 if status_code == 501 else status_code  # h11's word for an unknown transfer encoding
        body = msgspec.json.encode({"detail": _BROKEN.get(status_code, _BROKEN[400])})
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        common = self.config.response_headers("h11")
        await self._send_h11_event(h11.Response(status_code=status_code, headers=list(chain(headers, common))))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


def _is_broken_upgrade(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a websocket is asked for without the key or the version of RFC 6455, section 4.1.

    hypercorn answers it with 400 and then keeps the connection for ever; as a plain request it gets a plain answer.
    """
    given = dict(headers)
    return b"upgrade" in given and (
        given.get(b"sec-websocket-version") != b"13" or len(given.get(b"sec-websocket-key", b"")) != 24
    )


def _plain(request: h11.Request) -> h11.Request:
    headers = [(name, value) for name, value in request.headers if name != b"upgrade"]
    return h11.Request(method=request.method, target=request.target, headers=headers, http_version=request.http_version)
