"""A TCP connection with manners: bounded reads and writes, and a close that does not eat the last answer."""

import math

import trio

from loop_node.socketio.hosting import MeteredStream

__all__ = ["Connection"]


class Connection:
    """What hypercorn's TCP server needs of a stream, around a `trio.SocketStream`.

    Args:
        stream: The accepted connection; owned from now on.
        stall_s: A peer that takes nothing for this long is dropped, see `MeteredStream`.
        linger_s: After our end is closed (`closing` is set then), the peer's remaining bytes are read and thrown away
            until none has come for this long. Closing with unread bytes makes the kernel send a reset, which can take
            an early answer (413, 422) with it.
        longest_linger_s: How long that may take altogether.
    """

    def __init__(
        self, stream: trio.SocketStream, *, stall_s: float = 30, linger_s: float = 2, longest_linger_s: float = 30
    ) -> None:
        self._socket_stream = stream
        self._stream = MeteredStream(stream, stall_s=stall_s)
        self._linger_s = linger_s
        self._longest_linger_s = longest_linger_s
        self._linger = trio.CancelScope()
        self._linger_until_s = math.inf
        self._reading = False
        self._sending = trio.Lock()
        self._their_end = trio.Event()
        self.closing = trio.Event()

    @property
    def socket(self) -> trio.socket.SocketType:
        """The socket below, for its addresses."""
        return self._socket_stream.socket

    async def receive_some(self, _max_bytes: int | None = None) -> bytes:
        """What comes next, in large pieces; nothing but the end once we are closing."""
        self._reading = True
        try:
            data = await self._stream.receive_some()
            while data and self.closing.is_set():
                self._linger.deadline = min(trio.current_time() + self._linger_s, self._linger_until_s)
                data = await self._stream.receive_some()
        finally:
            self._reading = False
            if self.closing.is_set():
                self._their_end.set()
        return bytes(data)

    async def send_all(self, data: bytes) -> None:
        """Send everything.

        Raises:
            trio.BrokenResourceError: The peer is gone, or has taken nothing for too long.
            trio.ClosedResourceError: We are closing: an answer may be ready just when the peer is seen to have gone.
        """
        async with self._sending:
            if self.closing.is_set():
                raise trio.ClosedResourceError("the connection is closing")
            try:
                await self._stream.send_all(data)
            except trio.BrokenResourceError:
                self.abort()
                raise

    async def send_eof(self) -> None:
        """Nothing: who says that nothing more comes closes next, and `aclose` says it when the last write is done."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Close: at once for the peer, after the linger for us. Cancelled, the socket is closed all the same."""
        if self.closing.is_set():
            return
        self.closing.set()
        try:
            now_s = trio.current_time()
            self._linger_until_s = now_s + self._longest_linger_s
            self._linger.deadline = now_s + self._linger_s
            with self._linger:
                await self._drain()
        finally:
            self.abort()

    def abort(self) -> None:
        """Close the socket now; whoever waits on it gets `trio.ClosedResourceError`."""
        self.closing.set()
        self._socket_stream.socket.close()

    async def _drain(self) -> None:
        try:
            async with self._sending:
                await self._socket_stream.send_eof()
            if self._reading:
                await self._their_end.wait()
            else:
                await self.receive_some()
        except (trio.BrokenResourceError, trio.BusyResourceError, trio.ClosedResourceError):
            return
