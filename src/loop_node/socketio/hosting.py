"""What the web server around Socket.IO has to do so that the limits hold, and to be fast.

Use all of it: `HOSTED_APP_QUEUE_SIZE` for hypercorn's config, `MeteredStream` around every accepted stream, `RendezvousWebsocket` as the
app's `asgi_websocket_class`, and once per process `tuning.install`. Besides, hypercorn's `websocket_max_message_size` is
`Limits.max_payload_bytes`, and quart's `MAX_CONTENT_LENGTH` at least `server.max_body_bytes`.
"""

import logging
from typing import TYPE_CHECKING, Any

import trio
from quart_trio.asgi import TrioASGIWebsocketConnection

if TYPE_CHECKING:
    from hypercorn.typing import WebsocketScope
    from quart_trio import QuartTrio

__all__ = ["HOSTED_APP_QUEUE_SIZE", "MeteredStream", "RendezvousWebsocket"]

log = logging.getLogger(__name__)

HOSTED_APP_QUEUE_SIZE = 1
"""For hypercorn's `max_app_queue_size`: its ten messages of 64 MiB would be the larger part of a peer's memory."""

_RECEIVE_BYTES = 1024 * 1024
_SEND_BYTES = 256 * 1024
_TOO_BIG_CLOSE = b"\x88\x02\x03\xf1"  # hypercorn's close frame with status 1009
_DRAIN_S = 10
_DRAIN_IDLE_S = 0.5


class RendezvousWebsocket(TrioASGIWebsocketConnection):
    """Hands a message over when the view asks for it; quart-trio's own keeps ten, and drops them when the client leaves."""

    def __init__(self, app: "QuartTrio", scope: "WebsocketScope") -> None:
        super().__init__(app, scope)
        self.send_channel, self.receive_channel = trio.open_memory_channel[bytes | str](0)


class MeteredStream:
    """Wraps an accepted stream, TLS or not, for hypercorn's `TCPServer`, and mends what hypercorn leaves open.

    - It reads a megabyte at a time, not 64 KiB.
    - It breaks the connection when the other side takes nothing for `stall_s`: hypercorn shields its sending, so that no cancellation
      would ever end it.
    - After a message over the limit hypercorn sends the close frame and then goes on filling its buffer with the same message. Here
      the rest is thrown away, for some seconds so that the client reads the close frame, and the connection ends.
    """

    def __init__(self, stream: trio.abc.Stream, *, stall_s: float) -> None:
        self._stream = stream
        self._stall_s = stall_s
        self._is_websocket = False
        self._is_refused = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)  # hypercorn closes it, asks for its socket, and tells TLS by its methods

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:  # noqa: ARG002 # hypercorn's own size
        """Receive what is there; nothing at the end, or once a message was too large."""
        if not self._is_refused:
            return await self._stream.receive_some(_RECEIVE_BYTES)
        await self._drain()
        return b""

    async def _drain(self) -> None:
        with trio.move_on_after(_DRAIN_S):
            more = True
            while more:
                more = False
                with trio.move_on_after(_DRAIN_IDLE_S):
                    more = bool(await self._stream.receive_some(_RECEIVE_BYTES))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it.

        Raises:
            trio.BrokenResourceError: The other side is gone, or has taken nothing for too long.
        """
        view = memoryview(data)
        for start in range(0, len(view), _SEND_BYTES):
            with trio.move_on_after(self._stall_s) as scope:
                await self._stream.send_all(view[start : start + _SEND_BYTES])
            if scope.cancelled_caught:
                log.warning("a client has read nothing for %g s: dropped", self._stall_s)
                await trio.aclose_forcefully(self._stream)
                raise trio.BrokenResourceError("the other side does not read")
        self._look_at(data)

    def _look_at(self, sent: bytes | bytearray | memoryview) -> None:
        if bytes(sent[:12]) == b"HTTP/1.1 101":
            self._is_websocket = True
        elif self._is_websocket and sent == _TOO_BIG_CLOSE:
            self._is_refused = True
            log.warning("a websocket message was larger than allowed: its connection is closed")
