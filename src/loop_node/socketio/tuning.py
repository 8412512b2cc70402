"""Private names of hypercorn and wsproto that are replaced: together a third of a large message's time, and one bound that did not hold.

Both are pinned to the release line these names belong to, and a test looks for them. What each is for stands at its replacement.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import wsproto.frame_protocol
from h11 import NEED_DATA
from hypercorn.protocol import h11, ws_stream
from hypercorn.protocol.events import Data
from wsproto.events import Message
from wsproto.extensions import Extension

from loop_node.socketio.masking import NumpyMasker

__all__ = ["install"]


def install() -> None:
    """Replace them in the whole process; to be called once, before anything is served or connected.

    Raises:
        AttributeError: One of the names is not there: another release.
    """
    _replace(wsproto.frame_protocol, "XorMaskerSimple", NumpyMasker)
    _replace(wsproto.frame_protocol, "Buffer", ReadBuffer)
    _replace(ws_stream, "server_extensions_handshake", _accept_no_extension)
    _replace(ws_stream, "WebsocketBuffer", MessageParts)
    _replace(h11.H11WSConnection, "receive_data", _keep_data)
    _replace(h11.H11WSConnection, "next_event", _pass_data)


def _replace(owner: Any, name: str, replacement: object) -> None:
    if not hasattr(owner, name):
        raise AttributeError(f"{owner.__name__} has no {name}: it is not the release this was written for")
    setattr(owner, name, replacement)


def _accept_no_extension(_offered: Iterable[str], _supported: Sequence[Extension]) -> bytes | None:
    """Decline permessage-deflate: deflating an image costs seven times its way."""
    return None


class ReadBuffer:
    """Keeps what was received as it came; wsproto's own copies it in, and out again."""

    def __init__(self) -> None:
        self._data = b""
        self._begin = 0
        self._end = 0

    def feed(self, new_bytes: bytes) -> None:
        """Add what was received; wsproto leaves at most the begin of a header or of a control frame before it."""
        left = self._data[self._begin :]
        self._data = left + new_bytes if left else new_bytes
        self._begin, self._end = 0, self._end - self._begin

    def consume_at_most(self, nbytes: int) -> bytes:
        """Take up to that many bytes."""
        data = self._data[self._end : self._end + nbytes]
        self._end += len(data)
        return data

    def consume_exactly(self, nbytes: int) -> bytes | None:
        """Take that many bytes, or nothing while there are fewer."""
        return self.consume_at_most(nbytes) if len(self._data) - self._end >= nbytes else None

    def commit(self) -> None:
        """Let go what was taken: its memory only with the last of it, or many small frames would copy each other."""
        self._begin = self._end
        if self._end == len(self._data):
            self._data, self._begin, self._end = b"", 0, 0

    def rollback(self) -> None:
        """Take back what was taken since the last `commit`."""
        self._end = self._begin

    def __len__(self) -> int:
        return len(self._data) - self._begin


class MessageParts:
    """Collects the parts of a websocket message in a list; hypercorn's own grows a buffer, also beyond its limit."""

    def __init__(self, max_length: int) -> None:
        self.length = 0
        self.max_length = max_length
        self._parts: list[Any] = []

    def extend(self, event: Message[Any]) -> None:
        """Add a part.

        Raises:
            FrameTooLargeError: The message is too large; its parts are let go.
        """
        self.length += len(event.data)
        if self.length > self.max_length:
            self._parts.clear()
            raise ws_stream.FrameTooLargeError
        self._parts.append(event.data)

    def clear(self) -> None:
        """Begin the next message."""
        self.length = 0
        self._parts = []

    def to_message(self) -> dict[str, Any]:
        """Give the message as ASGI wants it, and let its parts go."""
        parts, self._parts = self._parts, []
        if isinstance(parts[0], str):
            return {"type": "websocket.receive", "bytes": None, "text": "".join(parts)}
        return {"type": "websocket.receive", "bytes": b"".join(parts), "text": None}


def _keep_data(self: Any, data: bytes) -> None:
    """Keep what was received without a copy; there is hardly ever something left before it."""
    self.buffer = self.buffer + data if self.buffer else data


def _pass_data(self: Any) -> object:
    """Pass it on without a copy."""
    if not self.buffer:
        return NEED_DATA
    data, self.buffer = bytes(self.buffer), b""
    return Data(stream_id=h11.STREAM_ID, data=data)
