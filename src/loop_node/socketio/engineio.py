"""Engine.IO 4: packets, polling payloads and the handshake, without I/O.

A `Frame` is a packet in the form a websocket carries it: text whose first character is the packet type, or bytes, which are always a
binary message. Long-polling joins frames by the record separator, the bytes ones as base64 behind a `b`. Source:
https://github.com/socketio/engine.io-protocol
"""

import json
import math
from binascii import b2a_base64
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Any

import msgspec
from attrs import frozen

from loop_node.errors import ProtocolError

__all__ = [
    "Frame",
    "Handshake",
    "PacketType",
    "encode_payload",
    "frame_bytes",
    "iter_payload",
    "read_handshake",
    "split_frame",
]

Frame = str | bytes

_SEPARATOR = b"\x1e"

_read_base64 = msgspec.json.Decoder(bytes).decode  # reads bytes from base64 in a JSON string, in 0.4 of binascii's time


class PacketType(StrEnum):
    """The first character of a text frame."""

    OPEN = "0"
    CLOSE = "1"
    PING = "2"
    PONG = "3"
    MESSAGE = "4"
    UPGRADE = "5"
    NOOP = "6"


_TYPES = {str(packet_type): packet_type for packet_type in PacketType}


def split_frame(frame: str) -> tuple[PacketType, str]:
    """Split a text frame into its type and what follows.

    Raises:
        ProtocolError: The frame is empty or its type is unknown.
    """
    packet_type = _TYPES.get(frame[:1])
    if packet_type is None:
        raise ProtocolError(f"an Engine.IO packet of unknown type {frame[:1]!r}")
    return packet_type, frame[1:]


def frame_bytes(frame: Frame) -> int:
    """The size of a frame on a websocket, in bytes."""
    if isinstance(frame, bytes) or frame.isascii():
        return len(frame)
    return len(frame.encode(errors="surrogatepass"))


def encode_payload(frames: Iterable[Frame]) -> bytes:
    """Join frames to the body of a long-polling request or response."""
    return _SEPARATOR.join(
        b"b" + b2a_base64(frame, newline=False) if isinstance(frame, bytes) else frame.encode() for frame in frames
    )


def iter_payload(body: bytes | bytearray) -> Iterator[Frame]:
    """Split the body of a long-polling request or response, one frame at a time, so that a body costs one frame more.

    Raises:
        ProtocolError: A part is neither UTF-8 nor, behind a `b`, base64. Frames before it have been given out.
    """
    view = memoryview(body)
    start = 0
    while start <= len(body):
        end = body.find(_SEPARATOR, start)
        end = len(body) if end < 0 else end
        yield _decode_part(view[start:end])
        start = end + 1


def _decode_part(part: memoryview) -> Frame:
    try:
        if not part or part[0] != ord("b"):
            return str(part, "utf-8")
        quoted = b'"%b"' % bytes(part[1:])
        if b"\\" in quoted:
            raise ProtocolError("a binary packet in a polling body is not base64")
        return _read_base64(quoted)
    except UnicodeDecodeError as error:
        raise ProtocolError(f"a packet in a polling body is not UTF-8: {error.reason}") from None
    except msgspec.MsgspecError:
        raise ProtocolError("a binary packet in a polling body is not base64") from None


@frozen(kw_only=True)
class Handshake:
    """The open packet: what a server tells a client first."""

    sid: str
    upgrades: tuple[str, ...] = ()
    ping_interval_s: float
    ping_timeout_s: float
    max_payload_bytes: int

    def frame(self) -> str:
        """The packet in its wire form; periods are milliseconds there."""
        announced = {
            "sid": self.sid,
            "upgrades": self.upgrades,
            "pingInterval": round(self.ping_interval_s * 1000),
            "pingTimeout": round(self.ping_timeout_s * 1000),
            "maxPayload": self.max_payload_bytes,
        }
        return PacketType.OPEN + json.dumps(announced, separators=(",", ":"))


def read_handshake(text: str) -> Handshake:
    """Read what follows the type of an open packet; a missing maxPayload, as in old servers, means 1 000 000 bytes.

    Raises:
        ProtocolError: No JSON object, or a member is missing or out of range.
    """
    try:
        announced = json.loads(text)
    except (ValueError, RecursionError):
        raise ProtocolError("the open packet is no JSON") from None
    if not isinstance(announced, dict) or not isinstance(announced.get("sid"), str):
        raise ProtocolError("the open packet has no sid")
    upgrades = announced.get("upgrades")
    return Handshake(
        sid=announced["sid"],
        upgrades=tuple(u for u in upgrades if isinstance(u, str)) if isinstance(upgrades, list) else (),
        ping_interval_s=_read_number(announced, "pingInterval") / 1000,
        ping_timeout_s=_read_number(announced, "pingTimeout") / 1000,
        max_payload_bytes=int(_read_number({"maxPayload": 1_000_000} | announced, "maxPayload")),
    )


def _read_number(announced: dict[str, Any], name: str) -> float:
    value = announced.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ProtocolError(f"{name} of the open packet is not a positive number")
    return min(value, 1e12)
