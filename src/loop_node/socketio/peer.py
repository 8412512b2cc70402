"""One end of a Socket.IO conversation as a state machine: no I/O, no clock; the time is a number passed in, in seconds.

A shell feeds it frames (`receive`), carries away what `take_frames` or `take_payload` gives, and calls `tick` at the `deadline`.
Whatever goes wrong on the other side is a ProtocolError; the shell then calls `close`.

Invariants:
    - Frames leave in the order they were queued, and a packet is queued together with its attachments.
    - Once `closed`, nothing is given out any more, nothing is read, and the reason does not change.
    - An event is only given out between CONNECT and DISCONNECT. Other namespaces than "/" are refused.
"""

import math
from collections import deque
from collections.abc import Sequence
from enum import Enum, auto

from attrs import frozen

from loop_node.errors import ProtocolError, TooLarge
from loop_node.socketio.engineio import Frame, Handshake, encode_payload, frame_bytes, read_handshake, split_frame
from loop_node.socketio.engineio import PacketType as Engine
from loop_node.socketio.heartbeat import Beat, Heartbeat
from loop_node.socketio.limits import Limits
from loop_node.socketio.packets import Packet, PacketReader, PacketType, Value, encode

__all__ = ["Acked", "ConnectRequested", "Connected", "Event", "EventReceived", "PeerProtocol", "Refused", "Transport"]

_MAX_FRAMES_PER_PAYLOAD = 16
"""python-engineio's client refuses a polling response with more packets."""


class Transport(Enum):
    """What carries the frames; PROBING is the time between the probe and the upgrade packet."""

    POLLING = auto()
    PROBING = auto()
    WEBSOCKET = auto()


class _Phase(Enum):
    OPENING = auto()  # a client that waits for the open packet
    OPEN = auto()  # the transport stands, no CONNECT yet
    CONNECTED = auto()
    LEAVING = auto()  # one side has said goodbye
    CLOSED = auto()


@frozen
class ConnectRequested:
    """A client wants to connect: answer by `accept` or `refuse`."""

    auth: dict[str, Value] | None


@frozen
class Connected:
    """The server has accepted."""

    sid: str


@frozen
class Refused:
    """The server has refused."""

    message: str


@frozen
class EventReceived:
    """The other side has sent an event; with an `ack_id` it wants an answer."""

    name: str
    args: list[Value]
    ack_id: int | None
    size_bytes: int


@frozen
class Acked:
    """The other side has answered the event sent with this `ack_id`."""

    ack_id: int
    args: list[Value]


Event = ConnectRequested | Connected | Refused | EventReceived | Acked


class PeerProtocol:
    """The protocol of one peer.

    Args:
        limits: Its bounds and periods.
        now: The time.
        handshake: What a server announces; None makes this the client's end.
        transport: A client's is always the websocket.
        auth: What a client sends along with CONNECT.
    """

    def __init__(
        self,
        limits: Limits,
        now: float,
        *,
        handshake: Handshake | None = None,
        transport: Transport = Transport.WEBSOCKET,
        auth: dict[str, Value] | None = None,
    ) -> None:
        self._limits = limits
        self._serving = handshake is not None
        self._auth = auth
        self._reader = PacketReader(limits)
        self._outgoing: deque[Frame] = deque()
        self._outgoing_bytes = 0
        self._next_ack_id = 0
        self._awaited_acks: set[int] = set()
        self._max_sent_bytes = limits.max_payload_bytes
        self._phase = _Phase.OPENING
        self._phase_ends_at = math.inf
        self._heartbeat: Heartbeat | None = None
        self.transport = transport
        self.reason = ""
        """Why the peer is leaving or closed; empty before."""
        if handshake is not None:
            self._enter(_Phase.OPEN, now + limits.connect_timeout_s)
            self._start_heartbeat(handshake, now)
            self._queue([handshake.frame()])

    @property
    def connected(self) -> bool:
        """Whether events can be sent."""
        return self._phase is _Phase.CONNECTED

    @property
    def leaving(self) -> bool:
        """Whether one side has said goodbye and the transport still stands."""
        return self._phase is _Phase.LEAVING

    @property
    def closed(self) -> bool:
        """Whether it is all over."""
        return self._phase is _Phase.CLOSED

    @property
    def has_outgoing(self) -> bool:
        """Whether `take_frames` would give something."""
        return bool(self._outgoing)

    @property
    def has_room(self) -> bool:
        """Whether less is waiting to be taken than the limits allow."""
        return (
            self._outgoing_bytes < self._limits.max_outgoing_bytes
            and len(self._outgoing) < self._limits.max_outgoing_frames
        )

    @property
    def poll_ready(self) -> bool:
        """Whether a long-polling request should be answered now."""
        return bool(self._outgoing) or self.transport is not Transport.POLLING or self.closed

    # time

    @property
    def deadline(self) -> float:
        """When `tick` is to be called; it may move either way with every other call."""
        return min(self._phase_ends_at, self._heartbeat.deadline if self._heartbeat else math.inf)

    def tick(self, now: float) -> bool:
        """Do what is due: ping, or close.

        Returns:
            Whether anything was.
        """
        if self.closed:
            return False
        beat = self._heartbeat.beat(now) if self._heartbeat else Beat.NOTHING
        if now >= self._phase_ends_at:
            self.close("no CONNECT in time")
        elif beat is Beat.DEAD:
            self.close("ping timeout")
        elif beat is Beat.PING:
            self._queue([str(Engine.PING)])
        else:
            return False
        return True

    def hold(self) -> None:
        """Frames are not read for a while: the silence is ours."""
        if self._heartbeat:
            self._heartbeat.hold()

    def resume(self, now: float) -> None:
        """Frames are read again."""
        if self._heartbeat:
            self._heartbeat.resume(now)

    # in

    def receive(self, frame: Frame, now: float) -> Event | None:
        """Take a frame. Any valid one is a sign of life.

        Raises:
            ProtocolError: It is none, or not now.
        """
        if self.closed:
            return None
        if frame_bytes(frame) > self._limits.max_payload_bytes:
            raise ProtocolError(f"a message is larger than {self._limits.max_payload_bytes} bytes")
        if self._heartbeat:
            self._heartbeat.heard(now)
        if isinstance(frame, bytes):
            packet = self._reader.feed_bytes(frame)
            return None if packet is None else self._receive_packet(packet, now)
        packet_type, text = split_frame(frame)
        match packet_type:
            case Engine.MESSAGE if self._phase is not _Phase.OPENING:
                packet = self._reader.feed_text(text)
                return None if packet is None else self._receive_packet(packet, now)
            case Engine.OPEN if self._phase is _Phase.OPENING:
                self._open(read_handshake(text), now)
            case Engine.PING if not self._serving:
                self._queue([Engine.PONG + text])
            case Engine.CLOSE:
                self.close(self.reason or "the other side has closed")
            case Engine.PONG | Engine.NOOP:
                pass
            case _:
                raise ProtocolError(f"an Engine.IO {packet_type.name} packet that has no place here")
        return None

    def _open(self, handshake: Handshake, now: float) -> None:
        self._enter(_Phase.OPEN, math.inf)
        self._max_sent_bytes = min(self._max_sent_bytes, handshake.max_payload_bytes)
        self._start_heartbeat(handshake, now)
        self._queue_packet(Packet(PacketType.CONNECT, self._auth))

    def _start_heartbeat(self, announced: Handshake, now: float) -> None:
        self._heartbeat = Heartbeat(
            interval_s=announced.ping_interval_s, timeout_s=announced.ping_timeout_s, now=now, pings=self._serving
        )

    def _receive_packet(self, packet: Packet, now: float) -> Event | None:
        if packet.namespace != "/":
            self._refuse_namespace(packet)
            return None
        match packet.type:
            case PacketType.EVENT if self.connected:
                name, *args = packet.data
                return EventReceived(name, args, packet.id, packet.size_bytes)
            case PacketType.ACK if packet.id in self._awaited_acks:
                self._awaited_acks.discard(packet.id)
                return Acked(packet.id, packet.data)
            case PacketType.DISCONNECT if self.connected:
                self.reason = "the client has said goodbye" if self._serving else "the server has disconnected us"
                self._enter(_Phase.LEAVING, now + self._limits.linger_s)
            case PacketType.CONNECT if self._serving:
                return self._receive_connect(packet)
            case PacketType.CONNECT if self._phase is _Phase.OPEN:
                return self._receive_accepted(packet)
            case PacketType.CONNECT_ERROR if not self._serving and self._phase is _Phase.OPEN:
                return self._receive_refusal(packet)
            case PacketType.EVENT | PacketType.ACK | PacketType.DISCONNECT:
                pass  # crossed a goodbye, or an answer nobody waits for any more
            case _:
                raise ProtocolError(f"a {packet.type.name} packet that has no place here")
        return None

    def _refuse_namespace(self, packet: Packet) -> None:
        if self._serving and packet.type is PacketType.CONNECT:
            message = {"message": f"there is no namespace {packet.namespace[:100]}, connect to /"}
            self._queue_packet(Packet(PacketType.CONNECT_ERROR, message, namespace=packet.namespace))

    def _receive_connect(self, packet: Packet) -> ConnectRequested | None:
        if self._phase is _Phase.OPEN:
            return ConnectRequested(packet.data)
        if self._phase is _Phase.CONNECTED:
            raise ProtocolError("a second CONNECT")
        return None

    def _receive_accepted(self, packet: Packet) -> Connected:
        sid = (packet.data or {}).get("sid")
        if not isinstance(sid, str):
            raise ProtocolError("the server's CONNECT has no sid: is it Socket.IO 5?")
        self._enter(_Phase.CONNECTED, math.inf)
        return Connected(sid)

    def _receive_refusal(self, packet: Packet) -> Refused:
        message = packet.data.get("message") if isinstance(packet.data, dict) else packet.data
        return Refused(str(message or "no reason given")[:500])

    # out

    def accept(self, sid: str) -> None:
        """Answer ConnectRequested: events may flow."""
        if self._phase is _Phase.OPEN:
            self._enter(_Phase.CONNECTED, math.inf)
            self._queue_packet(Packet(PacketType.CONNECT, {"sid": sid}))

    def refuse(self, message: str) -> None:
        """Answer ConnectRequested: no. The client may try again until its time to connect is over."""
        if self._phase is _Phase.OPEN:
            self._queue_packet(Packet(PacketType.CONNECT_ERROR, {"message": message}))

    def begin_ack(self) -> int:
        """Give out the id for an event whose answer is wanted."""
        ack_id = self._next_ack_id
        self._next_ack_id += 1
        self._awaited_acks.add(ack_id)
        return ack_id

    def forget_ack(self, ack_id: int) -> None:
        """Nobody waits for this answer any more."""
        self._awaited_acks.discard(ack_id)

    def encode_event(self, name: str, args: Sequence[Value], ack_id: int | None = None) -> list[Frame]:
        """Give the frames of an event, for `send`.

        Raises:
            TypeError: A value that cannot be sent.
            ValueError: NaN, an infinity or a circular structure.
            TooLarge: The other side would not take it.
        """
        return self._encode(Packet(PacketType.EVENT, [name, *args], id=ack_id))

    def encode_ack(self, ack_id: int, args: Sequence[Value]) -> list[Frame]:
        """Give the frames of an answer, for `send`; raises what `encode_event` raises."""
        return self._encode(Packet(PacketType.ACK, list(args), id=ack_id))

    def send(self, frames: list[Frame]) -> None:
        """Queue the frames of one packet.

        Raises:
            ConnectionError: Not connected, or not any more.
        """
        if not self.connected:
            raise ConnectionError(f"no Socket.IO connection: {self.reason or 'not connected yet'}")
        self._queue(frames)

    def disconnect(self, reason: str, now: float) -> None:
        """Say goodbye: what is queued is still given out, and then the transport should be closed."""
        if self._phase in (_Phase.OPENING, _Phase.OPEN):
            self.close(reason)
        elif self.connected:
            self.reason = reason
            self._queue_packet(Packet(PacketType.DISCONNECT))
            self._queue([str(Engine.CLOSE)])
            self._enter(_Phase.LEAVING, now + self._limits.linger_s)

    def close(self, reason: str) -> None:
        """End it: the transport is gone, or is to go now."""
        if not self.closed:
            self.reason = self.reason or reason
            self._enter(_Phase.CLOSED, math.inf)
            self._heartbeat = None
            self._outgoing.clear()
            self._outgoing_bytes = 0
            self._awaited_acks.clear()

    def take_frames(self, max_frames: int = _MAX_FRAMES_PER_PAYLOAD) -> list[Frame]:
        """Take the oldest frames that wait, together not more than the largest message unless it is one."""
        taken: list[Frame] = []
        taken_bytes = 0
        while self._outgoing and len(taken) < max_frames:
            size_bytes = frame_bytes(self._outgoing[0])
            if taken and taken_bytes + size_bytes > self._limits.max_payload_bytes:
                break
            taken.append(self._outgoing.popleft())
            taken_bytes += size_bytes
        self._outgoing_bytes -= taken_bytes
        return taken

    def take_payload(self) -> bytes:
        """Take the body that answers a long-polling request; a NOOP packet when it is to be freed for the upgrade."""
        if self.closed:
            return Engine.NOOP.encode()  # CLOSE would be a goodbye, after which clients do not come back
        frames = self.take_frames() if self.transport is not Transport.WEBSOCKET else []
        return encode_payload(frames or [str(Engine.NOOP)])

    # upgrade

    def receive_upgrade(self, frame: Frame) -> Frame | None:
        """Take a frame of the websocket that is to replace long-polling.

        Returns:
            What to answer there; None once the websocket is the transport.

        Raises:
            ProtocolError: The frame is not what is due.
        """
        if self.transport is Transport.POLLING and frame == "2probe":
            self.transport = Transport.PROBING
            return "3probe"
        if self.transport is Transport.PROBING and frame == Engine.UPGRADE:
            self.transport = Transport.WEBSOCKET
            return None
        raise ProtocolError(f"a packet that is no part of the upgrade, while {self.transport.name}")

    def abandon_upgrade(self) -> None:
        """The websocket has gone before it was the transport: go on polling."""
        if self.transport is Transport.PROBING:
            self.transport = Transport.POLLING

    def _enter(self, phase: _Phase, ends_at: float) -> None:
        self._phase = phase
        self._phase_ends_at = ends_at

    def _encode(self, packet: Packet) -> list[Frame]:
        text, attachments = encode(packet)
        frames: list[Frame] = [Engine.MESSAGE + text, *attachments]
        largest_bytes = max(map(len, frames))
        if largest_bytes > self._max_sent_bytes:
            raise TooLarge(f"a message of {largest_bytes} bytes; the other side takes {self._max_sent_bytes}")
        return frames

    def _queue_packet(self, packet: Packet) -> None:
        self._queue(self._encode(packet))

    def _queue(self, frames: list[Frame]) -> None:
        if not self.closed:
            self._outgoing.extend(frames)
            self._outgoing_bytes += sum(map(frame_bytes, frames))
