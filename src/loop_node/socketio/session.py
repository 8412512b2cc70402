"""A peer at work: the protocol with its timekeeper, its handlers and whoever waits for room or for an answer.

Server and client differ in who moves the frames; what happens to them is here.
"""

import inspect
import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import trio
from attrs import define

from loop_node.errors import LoopNodeError
from loop_node.socketio.engineio import Frame
from loop_node.socketio.limits import Limits
from loop_node.socketio.packets import Value
from loop_node.socketio.peer import Acked, Connected, ConnectRequested, EventReceived, PeerProtocol, Refused

__all__ = ["ErrorAck", "Handler", "Handlers", "Peer", "bare_exception", "error_dict"]

log = logging.getLogger(__name__)

T = TypeVar("T")

Handler = Callable[..., Awaitable[Value]]
"""`async (peer, *args) -> ack`: None acks nothing (null), a tuple several values, anything else itself."""

ErrorAck = Callable[[str, str], Value]
"""`(event, message) -> ack`: the form in which an error is told to whoever asked for an ack."""


def error_dict(_event: str, message: str) -> Value:
    """The usual error ack."""
    return {"error": message}


class Handlers:
    """The table of events: looks a handler up and checks that the arguments fit it.

    Args:
        table: Event name -> handler.
        error_ack: How errors are told.
    """

    def __init__(self, table: Mapping[str, Handler], error_ack: ErrorAck = error_dict) -> None:
        self.error_ack = error_ack
        self._table = {name: (handler, inspect.signature(handler)) for name, handler in table.items()}

    async def __call__(self, peer: "Peer", event: EventReceived) -> Value:
        """Handle one event; whatever the handler raises ends here, in the log and in the ack."""
        try:
            handler, signature = self._table[event.name]
            signature.bind(peer, *event.args)
        except KeyError:
            return self._refuse(peer, event.name, f"unknown event {event.name[:100]}")
        except TypeError as error:
            return self._refuse(peer, event.name, f"event {event.name}: {error}")
        try:
            return await handler(peer, *event.args)
        except LoopNodeError as error:
            return self._refuse(peer, event.name, str(error))
        except Exception as error:  # the door to handlers: a fault there must not take the peer along
            log.exception("Socket.IO peer %s: event %r failed", peer.sid, event.name)
            return self.error_ack(event.name, f"event {event.name} failed: {type(error).__name__}, see this node's log")
        except BaseExceptionGroup as group:  # faults of a handler's own nursery beside its cancellation
            faults, rest = group.split(Exception)
            if faults is not None:
                log.exception(
                    "Socket.IO peer %s: event %r failed while it ended", peer.sid, event.name, exc_info=faults
                )
            if rest is not None:
                raise rest from None
            return None

    def _refuse(self, peer: "Peer", event_name: str, message: str) -> Value:
        severity = (
            logging.WARNING if peer.is_first_refusal(event_name if event_name in self._table else "") else logging.DEBUG
        )
        log.log(severity, "Socket.IO peer %s: event %.100r refused: %r", peer.sid, event_name, message)
        return self.error_ack(event_name, message)


@define(eq=False)
class _Call:
    answered: trio.Event
    args: list[Value] | None = None


class Peer:
    """The other side of a Socket.IO connection, as handlers see it.

    Attributes:
        sid: Its Socket.IO id; empty before it is connected.
        headers: Those of its first request, names in lower case; empty on a client.
        address: Where it comes from, for the log.
    """

    def __init__(
        self, protocol: PeerProtocol, handlers: Handlers, limits: Limits, *, headers: Mapping[str, str], address: str
    ) -> None:
        self.protocol = protocol
        self.headers = headers
        self.address = address
        self.sid = ""
        self._handlers = handlers
        self._limits = limits
        self._changed = trio.lowlevel.ParkingLot()
        self._alarm = trio.lowlevel.ParkingLot()
        self._alarm_at = math.inf
        self._calls: dict[int, _Call] = {}
        self._refusal: str | None = None
        self._running = 0
        self._running_bytes = 0
        self._finishing = False
        self._refused: set[str] = set()
        self._nursery: trio.Nursery

    @property
    def connected(self) -> bool:
        """Whether events can be sent."""
        return self.protocol.connected

    async def emit(self, event: str, *args: Value) -> None:
        """Send an event, waiting for room if the peer reads slowly. Cancelled, it has sent all of it or nothing.

        Raises:
            ConnectionError: The connection is lost, or was lost while waiting.
            TooLarge: The other side would not take it.
            TypeError, ValueError: A value that cannot be sent.
        """
        await self._send(self.protocol.encode_event(event, args))

    async def call(self, event: str, *args: Value) -> Value:
        """Send an event and wait for its ack, for as long as the caller's cancel scope lets it.

        Returns:
            None for an empty ack, the value of one with one value, a tuple of several.

        Raises:
            ConnectionError: The connection is lost, or was lost while waiting; whether the event was handled is unknown.
            TooLarge: The other side would not take it.
            TypeError, ValueError: A value that cannot be sent.
        """
        ack_id = self.protocol.begin_ack()
        call = self._calls[ack_id] = _Call(trio.Event())
        try:
            await self._send(self.protocol.encode_event(event, args, ack_id))
            await call.answered.wait()
        finally:
            del self._calls[ack_id]
            self.protocol.forget_ack(ack_id)
        if call.args is None:
            raise ConnectionError(f"the connection was lost before {event!r} was answered: {self.protocol.reason}")
        return tuple(call.args) if len(call.args) > 1 else next(iter(call.args), None)

    async def disconnect(self, reason: str = "disconnected by us") -> None:
        """Say goodbye and wait until it is on its way; what was sent before goes out first."""
        self.protocol.disconnect(reason, trio.current_time())
        self._stir()
        await self.wait_closed()

    async def finish(self, reason: str) -> None:
        """Take no more events, let those in hand be answered, then end the connection.

        Without a goodbye: clients take one for "do not come back", and a server that stops is started again.
        """
        self._finishing = True
        self._stir()
        await self._until(lambda: (not self._running and not self.protocol.has_outgoing) or self.protocol.closed)
        self.close(reason)

    # for the shells

    def is_first_refusal(self, event_name: str) -> bool:
        """Whether no event of this name was refused before: a robot may send the same thing for ever."""
        is_first = event_name not in self._refused
        self._refused.add(event_name)
        return is_first

    async def run(  # noqa: ASYNC114 # too common a name for the list
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep time and run handlers until the protocol is closed and the handlers are done, or out of their grace."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await self._keep_time()
                nursery.cancel_scope.deadline = trio.current_time() + self._limits.handler_grace_s
        finally:
            self.close("stopped")

    async def receive(self, frame: Frame) -> ConnectRequested | None:
        """Take a frame from the other side; waits while too much is in handlers or on its way out.

        Cancelled, the frame is either not read at all or its handler is on its way.

        Returns:
            What the server has to decide.

        Raises:
            ProtocolError: The other side is out of line; the caller closes.
        """
        await self._wait_for_room()
        if self._finishing:
            await self.wait_closed()
            return None
        event = self.protocol.receive(frame, trio.current_time())
        self._stir()
        match event:
            case ConnectRequested():
                return event
            case EventReceived():
                await self._start_handler(event)
                await self._wait_for_handlers()
            case Acked():
                call = self._calls[event.ack_id]
                call.args = event.args
                call.answered.set()
            case Connected():
                self.sid = event.sid
            case Refused():
                self._refusal = event.message
        return None

    async def next_frames(self) -> list[Frame]:
        """Wait for frames to carry to a websocket; none when there is nothing more to come."""
        if self.protocol.leaving and not self.protocol.has_outgoing:
            self.close("disconnected")
        await self._until(lambda: self.protocol.has_outgoing or self.protocol.closed)
        return self._taken(self.protocol.take_frames())

    async def next_payload(self) -> bytes:
        """Wait for the answer to a long-polling request."""
        await self._until(lambda: self.protocol.poll_ready)
        payload = self._taken(self.protocol.take_payload())
        if self.protocol.leaving and not self.protocol.has_outgoing:
            self.close("disconnected")
        return payload

    async def wait_connected(self) -> None:
        """Wait for the server's word on our CONNECT.

        Raises:
            ConnectionRefusedError: The server does not want us.
            ConnectionError: The connection was lost before.
        """
        await self._until(lambda: self.connected or self.protocol.closed or self._refusal is not None)
        if self._refusal is not None:
            raise ConnectionRefusedError(f"the server refuses the connection: {self._refusal}")
        if not self.connected:
            raise ConnectionError(f"the connection was lost before it was accepted: {self.protocol.reason}")

    async def wait_closed(self) -> None:
        """Wait for the end of the connection."""
        await self._until(lambda: self.protocol.closed)

    def accept(self, sid: str) -> None:
        """Let the client in, under this id."""
        self.sid = sid
        self.protocol.accept(sid)
        self._stir()

    def refuse(self, message: str) -> None:
        """Tell the client that it is not let in."""
        self.protocol.refuse(message)
        self._stir()

    def receive_upgrade(self, frame: Frame) -> Frame | None:
        """Take a frame of the websocket that is to replace long-polling; see PeerProtocol."""
        answer = self.protocol.receive_upgrade(frame)
        self._stir()
        return answer

    def close(self, reason: str) -> None:
        """End the connection now; whoever waits for an answer gets a ConnectionError."""
        if not self.protocol.closed:
            self.protocol.close(reason)
        for call in self._calls.values():
            call.answered.set()
        self._stir()

    def _taken(self, frames: T) -> T:
        self._stir()
        return frames

    def _stir(self) -> None:
        self._changed.unpark_all()
        if self.protocol.closed or self.protocol.deadline < self._alarm_at:
            self._alarm.unpark_all()

    async def _until(self, condition: Callable[[], bool]) -> None:
        await trio.lowlevel.checkpoint()
        while not condition():
            await self._changed.park()

    async def _keep_time(self) -> None:
        """Call `tick` when it is due; a deadline that moves on with every frame is looked at when the old one is over."""
        while not self.protocol.closed:
            self._alarm_at = self.protocol.deadline
            with trio.move_on_at(self._alarm_at):
                await self._alarm.park()
            if self.protocol.tick(trio.current_time()):
                self._stir()
        self.close(self.protocol.reason)

    async def _send(self, frames: list[Frame]) -> None:
        await trio.lowlevel.checkpoint()
        await self._wait_for_room()
        self.protocol.send(frames)
        self._stir()

    async def _wait_for_room(self) -> None:
        if self.protocol.has_room:
            return
        with trio.move_on_after(self._limits.stall_s):
            await self._until(lambda: self.protocol.has_room)
            return
        self.close(f"the peer has not read for {self._limits.stall_s:g} s")

    # handlers

    async def _start_handler(self, event: EventReceived) -> None:
        """Start the event's handler and see it begin: handlers begin in the order of their events."""
        self._running += 1
        self._running_bytes += event.size_bytes
        begun = trio.Event()
        self._nursery.start_soon(self._handle, event, begun, name=f"socketio event {event.name[:40]!r}")
        await begun.wait()

    async def _handle(self, event: EventReceived, begun: trio.Event) -> None:
        begun.set()
        try:
            value = await self._handlers(self, event)
            if event.ack_id is not None:
                await self._acknowledge(event.name, event.ack_id, value)
        finally:
            self._running -= 1
            self._running_bytes -= event.size_bytes
            self._stir()

    async def _acknowledge(self, event_name: str, ack_id: int, value: Value) -> None:
        try:
            frames = self.protocol.encode_ack(ack_id, _ack_args(value))
        except (TypeError, ValueError, LoopNodeError) as error:
            log.exception("Socket.IO peer %s: the answer to %r cannot be sent", self.sid, event_name)
            message = f"the answer cannot be sent: {error}"
            frames = self.protocol.encode_ack(ack_id, [self._handlers.error_ack(event_name, message)])
        try:
            await self._send(frames)
        except ConnectionError as error:
            log.info("Socket.IO peer %s: the answer to %r is lost: %s", self.sid, event_name, error)

    async def _wait_for_handlers(self) -> None:
        if self._handlers_free():
            return
        self.protocol.hold()
        try:
            await self._until(lambda: self._handlers_free() or self.protocol.closed)
        finally:
            self.protocol.resume(trio.current_time())
            self._stir()

    def _handlers_free(self) -> bool:
        return self._running < self._limits.max_handlers and self._running_bytes < self._limits.max_handler_bytes


def _ack_args(value: Value) -> list[Value]:
    if value is None:
        return []
    return list(value) if isinstance(value, tuple) else [value]


@contextmanager
def bare_exception() -> Iterator[None]:
    """Take the group off a lone exception: a context manager with a nursery raises what its body raised."""
    try:
        yield
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        raise group.exceptions[0] from None  # noqa: ASYNC123 # that the group goes is the purpose
