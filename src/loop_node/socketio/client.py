"""The Socket.IO client: one websocket, no reconnection, no task left behind."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from ssl import SSLContext, create_default_context
from typing import cast
from urllib.parse import SplitResult, urlsplit

import trio
from h11 import LocalProtocolError
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, wrap_client_stream

from loop_node.errors import ProtocolError
from loop_node.socketio.limits import Limits
from loop_node.socketio.packets import Value
from loop_node.socketio.peer import PeerProtocol
from loop_node.socketio.session import ErrorAck, Handler, Handlers, Peer, bare_exception, error_dict

__all__ = ["open_socketio"]

_RECEIVE_BYTES = 1024 * 1024
_GOODBYE_S = 2
_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
_DEFAULT_PORTS = {"ws": 80, "wss": 443}


@asynccontextmanager
async def open_socketio(
    url: str,
    *,
    path: str = "/ws/socket.io",
    handlers: Mapping[str, Handler] | None = None,
    headers: Mapping[str, str] | None = None,
    cookies: Mapping[str, str] | None = None,
    auth: dict[str, Value] | None = None,
    ssl_context: SSLContext | None = None,
    limits: Limits | None = None,
    error_ack: ErrorAck = error_dict,
) -> AsyncIterator[Peer]:
    """Connect to a Socket.IO server; the peer given is the server.

    How long connecting may take is the caller's cancel scope to say. When the connection is lost, a `call` or `emit` under way raises,
    the body is cancelled, and the context manager raises ConnectionError.

    Args:
        url: http, https, ws or wss, with the host and perhaps a path before `path`.
        path: Where Socket.IO is served.
        handlers: Event name -> `async (peer, *args) -> ack`, for events of the server.
        headers: Sent with the first request.
        cookies: Likewise.
        auth: Sent with CONNECT.
        ssl_context: For https and wss; None takes the system's.
        limits: Bounds; the heartbeat's periods are the server's.
        error_ack: How an error in a handler is told to the server.

    Raises:
        ConnectionRefusedError: The server refuses us, by HTTP status or by Socket.IO.
        ConnectionError: The server was not reached, the connection was lost, or the server breaks the protocol.
        ValueError: The url cannot be used.
    """
    limits = limits or Limits()
    target = _websocket_target(url, path)
    protocol = PeerProtocol(limits, trio.current_time(), auth=auth)
    peer = Peer(protocol, Handlers(handlers or {}, error_ack), limits, headers={}, address=target.netloc)
    stream = await _open_stream(target, ssl_context)
    done = False
    body = trio.CancelScope()
    try:
        with _handshake_errors(target), bare_exception():
            async with trio.open_nursery() as nursery:
                sent_headers = _encode_headers(headers or {}, cookies or {})
                websocket = await _shake_hands(nursery, stream, target, sent_headers, limits)
                await nursery.start(peer.run)
                nursery.start_soon(_read_frames, peer, websocket)
                nursery.start_soon(_write_frames, peer, websocket)
                nursery.start_soon(_cancel_when_closed, peer, body)
                with body:
                    await peer.wait_connected()
                    yield peer
                    done = True
                with trio.move_on_after(_GOODBYE_S):
                    await peer.disconnect()
                    await websocket.aclose()
                nursery.cancel_scope.cancel()
    finally:
        await trio.aclose_forcefully(stream)
    if not done:
        raise ConnectionError(f"the connection to {peer.address} is lost: {protocol.reason}")


class _WatchedStream:
    """Cancels the handshake when the stream ends before it is over: trio-websocket would wait for ever."""

    def __init__(self, stream: trio.abc.Stream, handshake: trio.CancelScope) -> None:
        self._stream = stream
        self._handshake = handshake
        self.send_all = stream.send_all
        self.aclose = stream.aclose

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        received: bytes | bytearray = b""
        try:
            received = await self._stream.receive_some(max_bytes)
        finally:
            if not received:
                self._handshake.cancel()
        return received


async def _open_stream(target: SplitResult, ssl_context: SSLContext | None) -> trio.abc.Stream:
    host = target.hostname or ""
    try:
        stream = await trio.open_tcp_stream(host, target.port or _DEFAULT_PORTS[target.scheme])
    except OSError as error:
        raise ConnectionError(f"{target.netloc} was not reached: {error}") from error
    if target.scheme == "ws":
        return stream
    tls = trio.SSLStream(stream, ssl_context or create_default_context(), server_hostname=host, https_compatible=True)
    done = False
    try:
        await tls.do_handshake()
        done = True
    except trio.BrokenResourceError as error:
        raise ConnectionError(f"no TLS connection to {target.netloc}: {error.__cause__ or error}") from error
    finally:
        if not done:
            await trio.aclose_forcefully(stream)
    return tls


async def _shake_hands(
    nursery: trio.Nursery,
    stream: trio.abc.Stream,
    target: SplitResult,
    headers: list[tuple[bytes, bytes]],
    limits: Limits,
) -> WebSocketConnection:
    with trio.CancelScope() as handshake:
        return await wrap_client_stream(
            nursery,
            cast(trio.SocketStream, _WatchedStream(stream, handshake)),
            target.netloc,
            f"{target.path}?{target.query}",
            extra_headers=headers,
            max_message_size=limits.max_payload_bytes,
            receive_buffer_size=_RECEIVE_BYTES,
        )
    raise ConnectionError(f"{target.netloc} closed the connection in the websocket's handshake: is it a web server?")


async def _read_frames(peer: Peer, websocket: WebSocketConnection) -> None:
    try:
        while True:
            await peer.receive(await websocket.get_message())
    except ConnectionClosed as closed:
        peer.close(f"the websocket is closed ({closed.reason})")
    except ProtocolError as error:
        peer.close(f"the server breaks the protocol: {error}")


async def _write_frames(peer: Peer, websocket: WebSocketConnection) -> None:
    # what the reader learns of a closed websocket is more than the writer does
    with suppress(ConnectionClosed):
        while frames := await peer.next_frames():
            for frame in frames:
                await websocket.send_message(frame)


async def _cancel_when_closed(peer: Peer, scope: trio.CancelScope) -> None:
    await peer.wait_closed()
    scope.cancel()


@contextmanager
def _handshake_errors(target: SplitResult) -> Iterator[None]:
    try:
        yield
    except LocalProtocolError as error:  # trio-websocket answers a wrong handshake like a server, and h11 stops it
        raise ConnectionError(f"{target.netloc} does not speak websocket: {error.__context__ or error}") from error
    except ConnectionRejected as rejection:
        raise ConnectionRefusedError(f"{target.netloc}{target.path} answered HTTP {rejection.status_code}") from None


def _websocket_target(url: str, path: str) -> SplitResult:
    parts = urlsplit(url)
    scheme = _SCHEMES.get(parts.scheme)
    if scheme is None or not parts.hostname:
        raise ValueError(f"{_without_user(url)!r} is no URL of a Socket.IO server: it should be like https://host")
    full_path = f"{parts.path.rstrip('/')}/{path.strip('/')}/"
    return SplitResult(scheme, _without_user(parts.netloc), full_path, "EIO=4&transport=websocket", "")


def _without_user(place: str) -> str:
    """Take off a user and a password, which are no business of a log."""
    return place.rpartition("@")[2]


def _encode_headers(headers: Mapping[str, str], cookies: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    encoded = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
    if cookies:
        encoded.append((b"Cookie", "; ".join(f"{name}={value}" for name, value in cookies.items()).encode("latin-1")))
    return encoded
