from functools import partial

import pytest
import trio
import trio.testing

from loop_node.socketio.hosting import MeteredStream

UPGRADE = b"HTTP/1.1 101 \r\nupgrade: WebSocket\r\n\r\n"
TOO_BIG = b"\x88\x02\x03\xf1"


def metered(stall_s=1):
    ours, theirs = trio.testing.memory_stream_pair()
    return MeteredStream(ours, stall_s=stall_s), theirs


async def test_bytes_pass():
    """Both directions carry what they are given."""
    stream, other = metered()
    await stream.send_all(b"x" * 600_000)
    assert len(await other.receive_some()) > 0
    await other.send_all(b"hello")
    assert await stream.receive_some(1) == b"hello"


async def test_what_is_wrapped_shows_through():
    """hypercorn finds the socket and the end of a stream, and no TLS where there is none."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listeners[0], await trio.open_tcp_stream(*listeners[0].socket.getsockname()) as stream:
        wrapped = MeteredStream(stream, stall_s=1)
        assert wrapped.socket is stream.socket
        assert not hasattr(wrapped, "do_handshake")
        await wrapped.send_eof()


async def test_a_stalled_connection_is_broken(autojump_clock):  # noqa: ARG001 # pytest-trio runs on it
    """Sending to someone who takes nothing ends after `stall_s`, shielded or not."""
    ours, _theirs = trio.testing.lockstep_stream_pair()
    stream = MeteredStream(ours, stall_s=20)
    with trio.CancelScope(shield=True), pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"x")
    assert trio.current_time() == pytest.approx(20)


async def test_a_slow_connection_is_not_a_stalled_one(autojump_clock):  # noqa: ARG001 # pytest-trio runs on it
    """As long as something is taken in time, the whole may take as long as it likes."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    stream = MeteredStream(ours, stall_s=20)

    async def read():
        received = 0
        while received < 1_000_000:
            await trio.sleep(15)
            received += len(await theirs.receive_some(256 * 1024))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await stream.send_all(bytes(1_000_000))
    assert trio.current_time() == pytest.approx(60)


async def test_after_a_message_too_large_nothing_is_read(autojump_clock, caplog):  # noqa: ARG001 # pytest-trio runs on it
    """Once hypercorn has sent 1009 it gets the end of the stream, and the rest of the message is thrown away."""
    stream, other = metered()
    await stream.send_all(UPGRADE)
    await stream.send_all(TOO_BIG)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(other.send_all, bytes(5_000_000)))
        assert await stream.receive_some() == b""
    assert "larger than allowed" in caplog.text


async def test_a_client_that_never_stops_sending_is_not_listened_to_for_ever(autojump_clock):  # noqa: ARG001 # pytest-trio runs on it
    """Throwing away has an end."""
    stream, other = metered()
    await stream.send_all(UPGRADE)
    await stream.send_all(TOO_BIG)

    async def send():
        while True:
            await other.send_all(b"x")
            await trio.sleep(0.1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        assert await stream.receive_some() == b""
        nursery.cancel_scope.cancel()
    assert trio.current_time() == pytest.approx(10, abs=0.2)


async def test_the_same_bytes_in_http_mean_nothing():
    """Only on a websocket are these four bytes a close frame."""
    stream, other = metered()
    await stream.send_all(TOO_BIG)
    await other.send_all(b"more")
    assert await stream.receive_some() == b"more"
