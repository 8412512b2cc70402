"""Socket.IO 5 packets: text and attachments on the wire, Python values inside, without I/O.

Bytes anywhere in the data travel as attachments of their own; the text then has a placeholder in their place. Source:
https://github.com/socketio/socket.io-protocol
"""

import json
import re
from enum import IntEnum
from typing import Any, TypeAlias

from attrs import field, frozen

from loop_node.errors import ProtocolError
from loop_node.socketio.limits import Limits

__all__ = ["Packet", "PacketReader", "PacketType", "Value", "encode"]

Value: TypeAlias = Any
"""None, bool, int, float, str, bytes, and lists and dicts of them; when encoding also tuples, bytearrays and memoryviews."""

# type, number of attachments, namespace, id; what follows is JSON
_HEADER = re.compile(r"([0-6])(?:(?<=[56])([0-9]{1,9})-)?(?:(/[^,]*)(?:,|\Z))?([0-9]{1,15})?")


class PacketType(IntEnum):
    """What a packet is for. The two binary types exist on the wire only."""

    CONNECT = 0
    DISCONNECT = 1
    EVENT = 2
    ACK = 3
    CONNECT_ERROR = 4
    BINARY_EVENT = 5
    BINARY_ACK = 6


_BINARY_FORM = {PacketType.EVENT: PacketType.BINARY_EVENT, PacketType.ACK: PacketType.BINARY_ACK}
_PLAIN_FORM = {binary: plain for plain, binary in _BINARY_FORM.items()}


@frozen
class Packet:
    """One packet.

    Attributes:
        type: Never one of the binary types: whether there are attachments shows in `data`.
        data: EVENT: a list, the event's name first. ACK: a list. CONNECT: a dict or None. CONNECT_ERROR: a dict or a text.
        namespace: Begins with a slash.
        id: Asks for an ack (EVENT) or names the event that is acked (ACK).
        size_bytes: Of the text and the attachments, when read from the wire.
    """

    type: PacketType
    data: Value = None
    namespace: str = field(default="/", kw_only=True)
    id: int | None = field(default=None, kw_only=True)
    size_bytes: int = field(default=0, kw_only=True, eq=False)


def encode(packet: Packet) -> tuple[str, list[bytes]]:
    """Put a packet into its wire form: the text and the attachments that follow it.

    The text is ASCII, so that its length is its size.

    Raises:
        TypeError: A value that JSON does not know.
        ValueError: NaN, an infinity or a circular structure.
    """
    attachments: list[bytes] = []

    def set_aside(value: object) -> dict[str, object]:
        if not isinstance(value, bytes | bytearray | memoryview):
            raise TypeError(f"a {type(value).__name__} cannot be sent over Socket.IO")
        attachments.append(bytes(value))
        return {"_placeholder": True, "num": len(attachments) - 1}

    body = ""
    if packet.data is not None:
        body = json.dumps(packet.data, default=set_aside, separators=(",", ":"), allow_nan=False)
    kind = f"{_BINARY_FORM[packet.type]:d}{len(attachments)}-" if attachments else f"{packet.type:d}"
    namespace = "" if packet.namespace == "/" else f"{packet.namespace},"
    ack_id = "" if packet.id is None else str(packet.id)
    return f"{kind}{namespace}{ack_id}{body}", attachments


class PacketReader:
    """Puts packets together from messages: feed it texts and bytes in their order."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._header: Packet | None = None
        self._body = ""
        self._expected = 0
        self._attachments: list[bytes] = []
        self._size_bytes = 0

    def feed_text(self, text: str) -> Packet | None:
        """Take a text message.

        Returns:
            The packet, or None if attachments are to follow.

        Raises:
            ProtocolError: No packet, an attachment was due, or over a limit.
        """
        if self._header is not None:
            raise ProtocolError(f"a text came where {self._expected - len(self._attachments)} attachments were due")
        header, self._expected, body = self._read_header(text)
        self._add_bytes(len(text))
        if not self._expected:
            self._size_bytes = 0
            return _read_body(header, body, [], len(text))
        self._header, self._body = header, body
        return None

    def feed_bytes(self, data: bytes) -> Packet | None:
        """Take a binary message, which is an attachment of the packet begun.

        Returns:
            The packet, or None if more attachments are to follow.

        Raises:
            ProtocolError: No attachment was due, the packet they belong to is none, or over a limit.
        """
        if self._header is None:
            raise ProtocolError("an attachment came without the packet it belongs to")
        self._add_bytes(len(data))
        self._attachments.append(data)
        if len(self._attachments) < self._expected:
            return None
        complete = (self._header, self._body, self._attachments, self._size_bytes)
        self._header, self._body, self._attachments, self._size_bytes = None, "", [], 0
        return _read_body(*complete)

    def _add_bytes(self, size_bytes: int) -> None:
        self._size_bytes += size_bytes
        if self._size_bytes > self._limits.max_packet_bytes:
            raise ProtocolError(f"a packet with its attachments is larger than {self._limits.max_packet_bytes} bytes")

    def _read_header(self, text: str) -> tuple[Packet, int, str]:
        match = _HEADER.match(text)
        if match is None:
            raise ProtocolError(f"a Socket.IO packet of unknown type {text[:1]!r}")
        packet_type = PacketType(int(match[1]))
        if packet_type in _PLAIN_FORM and match[2] is None:
            raise ProtocolError("a binary packet does not say how many attachments follow")
        attachments = int(match[2] or 0)
        if attachments > self._limits.max_attachments:
            raise ProtocolError(f"{attachments} attachments in one packet are more than {self._limits.max_attachments}")
        body = text[match.end() :]
        if sum(map(body.count, "[{,")) > self._limits.max_json_values:
            raise ProtocolError(f"more than {self._limits.max_json_values} values in one packet")
        ack_id = None if match[4] is None else int(match[4])
        namespace = match[3] or "/"
        return Packet(_PLAIN_FORM.get(packet_type, packet_type), namespace=namespace, id=ack_id), attachments, body


def _read_body(header: Packet, body: str, attachments: list[bytes], size_bytes: int) -> Packet:
    def put_back(value: dict[str, Value]) -> Value:
        if value.get("_placeholder") is not True:
            return value
        number = value.get("num")
        if type(number) is not int or not 0 <= number < len(attachments):
            raise ProtocolError("a placeholder names an attachment that is not there")
        return attachments[number]

    try:
        data = json.loads(body, object_hook=put_back if attachments else None) if body else None
    except RecursionError:
        raise ProtocolError("the data of a packet is nested too deeply") from None
    except ValueError as error:
        # not chained: the error holds the whole text
        raise ProtocolError(f"the data of a packet is no JSON: {str(error)[:100]}") from None
    _check_form(header, data)
    return Packet(header.type, data, namespace=header.namespace, id=header.id, size_bytes=size_bytes)


def _check_form(header: Packet, data: Value) -> None:
    match header.type, data:
        case (PacketType.EVENT, [str(), *_]) | (PacketType.DISCONNECT, None):
            return
        case (PacketType.CONNECT, dict() | None) | (PacketType.CONNECT_ERROR, dict() | str() | None):
            return
        case PacketType.ACK, list() if header.id is not None:
            return
    raise ProtocolError(f"the data of a {header.type.name} packet has the wrong form")
