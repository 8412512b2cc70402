"""The server's manners: when connections close, what a stop does, and what one bad peer may not do."""

import logging
import socket
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
import trio
import trio.testing

from loop_node.errors import SettingsError
from loop_node.serving.http_server import open_listeners

REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """Read the body, then answer `hello`; on /broken, break."""
    while (await receive()).get("more_body"):
        pass
    if scope["path"] == "/broken":
        raise ZeroDivisionError
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


class Gate:
    """An app that answers when it is let."""

    def __init__(self) -> None:
        self.inside = trio.Event()
        self.open = trio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.inside.set()
        await self.open.wait()
        await hello(scope, receive, send)


async def read_to_end(stream: trio.SocketStream) -> bytes:
    parts = [part async for part in stream]
    return b"".join(parts)


async def read_answer(stream: trio.SocketStream) -> bytes:
    answer = b""
    while not answer.endswith(b"hello"):
        answer += await stream.receive_some() or pytest.fail(f"closed after {answer!r}")
    return answer


async def test_a_connection_is_kept_for_the_next_request(serve: Any) -> None:
    """HTTP/1.1 keeps alive by itself."""
    async with serve(hello) as served, await served.connect() as stream:
        for _ in range(3):
            await stream.send_all(REQUEST)
            assert b"connection: close" not in (await read_answer(stream)).lower()


@pytest.mark.parametrize(
    "request_bytes",
    [b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"],
)
async def test_who_wants_one_answer_sees_the_end_right_after_it(serve: Any, request_bytes: bytes) -> None:
    """HTTP/1.0 and `Connection: close` end with the answer, long before any timeout."""
    async with serve(hello, keep_alive_s=1000) as served, await served.connect() as stream:
        await stream.send_all(request_bytes)
        with trio.fail_after(1):
            assert (await read_to_end(stream)).endswith(b"hello")


async def test_through_the_quart_app_too(serve: Any) -> None:
    """The same through quart-trio, which cancels the request inside the last send."""
    from quart_trio import QuartTrio  # only here

    app = QuartTrio(__name__)

    @app.get("/")
    async def root() -> str:
        return "hello"

    async with serve(app, keep_alive_s=1000) as served, await served.connect() as stream:
        await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
        with trio.fail_after(1):
            assert (await read_to_end(stream)).endswith(b"hello")


async def test_an_idle_connection_is_closed(serve: Any) -> None:
    """A peer that says nothing does not keep its place, nor does one that never ends its request's head."""
    async with serve(hello, keep_alive_s=0.05) as served:
        for said in (b"", b"GET / HTTP/1.1\r\nhost:"):
            async with await served.connect() as stream:
                await stream.send_all(said)
                with trio.fail_after(2):
                    assert await read_to_end(stream) == b""


async def test_stop_answers_what_is_in_flight_and_says_that_it_is_the_last(serve: Any) -> None:
    """The client learns of the end together with its answer."""
    gate = Gate()
    async with serve(gate) as served, await served.connect() as stream:
        await stream.send_all(REQUEST)
        await gate.inside.wait()
        served.stop.set()
        await trio.testing.wait_all_tasks_blocked()
        gate.open.set()
        answer = await read_to_end(stream)
        assert answer.endswith(b"hello")
        assert b"connection: close" in answer.lower()
        await served.ended.wait()


async def test_stop_opens_no_new_connections(serve: Any) -> None:
    """From the stop on, new clients are refused, not left waiting."""
    gate = Gate()
    async with serve(gate) as served, await served.connect() as stream:
        await stream.send_all(REQUEST)
        await gate.inside.wait()
        served.stop.set()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(OSError, match="all attempts"):
            await served.connect()


async def test_stop_answers_who_waits_at_the_door(serve: Any) -> None:
    """A client that the kernel has connected and we have not is answered like those inside."""
    async with serve(hello) as served, AsyncExitStack() as connections:
        streams = []
        for _ in range(20):  # without a checkpoint: the server sees none of them before the stop
            peer = socket.create_connection(("127.0.0.1", served.port))
            streams.append(connections.push_async_exit(trio.SocketStream(trio.socket.from_stdlib_socket(peer))))
            peer.sendall(REQUEST)
        served.stop.set()
        with trio.fail_after(5):
            for stream in streams:
                answer = await read_to_end(stream)
                assert answer.endswith(b"hello")
                assert b"connection: close" in answer.lower()
        await served.ended.wait()


async def test_stop_still_answers_a_request_on_an_idle_connection(serve: Any) -> None:
    """A request that crosses the stop on its way is answered."""
    async with serve(hello, idle_grace_s=5) as served, await served.connect() as stream:
        await stream.send_all(REQUEST)
        await read_answer(stream)
        served.stop.set()
        await trio.testing.wait_all_tasks_blocked()
        await stream.send_all(REQUEST)
        assert b"connection: close" in (await read_to_end(stream)).lower()
        await served.ended.wait()


@pytest.mark.parametrize(
    "asked",
    [
        b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: h2c\r\nconnection: upgrade, http2-settings, close\r\n"
        b"http2-settings: AAMAAABkAAQAAP__\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=["upgrade", "preface"],
)
async def test_http_2_is_not_spoken(serve: Any, caplog: pytest.LogCaptureFixture, asked: bytes) -> None:
    """Who asks for it gets HTTP/1.1, and no error into our log."""
    async with serve(hello) as served, await served.connect() as stream:
        await stream.send_all(asked)
        with trio.fail_after(2):
            assert (await read_to_end(stream)).startswith((b"HTTP/1.1 200", b"HTTP/1.1 4"))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_who_asks_much_and_leaves_does_not_keep_its_place(serve: Any) -> None:
    """A client with many requests on their way goes before the answers; the next client gets its turn."""
    async with serve(hello, connections=1) as served:
        async with await served.connect() as stream:
            await stream.send_all(REQUEST * 300)
        async with await served.connect() as stream:
            await stream.send_all(REQUEST)
            with trio.fail_after(5):
                await read_answer(stream)


async def test_a_peer_that_breaks_http_gets_one_answer(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Its bad chunk comes while it is answered: nothing of that is our error."""
    gate = Gate()
    async with serve(gate) as served, await served.connect() as stream:
        await stream.send_all(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        await gate.inside.wait()
        await stream.send_all(b"zz\r\n")
        await trio.testing.wait_all_tasks_blocked(0.01)
        gate.open.set()
        with trio.fail_after(2):
            answer = await read_to_end(stream)
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"content-length") == 1
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_stop_cuts_what_takes_too_long(serve: Any) -> None:
    """A request that never ends does not hold up the node."""
    gate = Gate()
    async with serve(gate, drain_s=0.2, idle_grace_s=0.1) as served, await served.connect() as stream:
        await stream.send_all(REQUEST)
        await gate.inside.wait()
        served.stop.set()
        with trio.fail_after(2):
            await served.ended.wait()


async def test_stop_waits_for_nobody_who_is_idle(serve: Any) -> None:
    """Open but silent connections end with the grace, not with the drain."""
    async with serve(hello, idle_grace_s=0.05, drain_s=60) as served, await served.connect():
        served.stop.set()
        with trio.fail_after(2):
            await served.ended.wait()


async def test_a_peer_that_stops_reading_cannot_hold_up_the_stop(serve: Any) -> None:
    """hypercorn shields its writes; the server closes the socket under them."""

    async def flood(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})

    async with serve(flood, drain_s=0.2, idle_grace_s=0.1) as served, await served.connect() as stream:
        await stream.send_all(REQUEST)
        await stream.receive_some()
        served.stop.set()
        with trio.fail_after(2):
            await served.ended.wait()


async def test_a_broken_app_breaks_nobody_else(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    """One request's exception is its own 500."""
    async with serve(hello) as served, httpx.AsyncClient(base_url=served.url) as client:
        assert (await client.get("/broken")).status_code == 500
        assert (await client.get("/")).text == "hello"
    assert "ZeroDivisionError" in caplog.text


async def test_a_failing_connection_is_logged_and_breaks_nobody_else(
    serve: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error inside hypercorn stays with its connection."""

    async def explode(*_: object) -> None:
        raise ZeroDivisionError

    async with serve(hello) as served, httpx.AsyncClient(base_url=served.url) as client:
        with monkeypatch.context() as patched:
            patched.setattr("hypercorn.protocol.h11.H11Protocol.handle", explode)
            async with await served.connect() as stream:
                await stream.send_all(REQUEST)
                assert await read_to_end(stream) == b""
        assert (await client.get("/")).text == "hello"
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == ["A connection failed"]


async def test_no_more_connections_than_allowed(serve: Any) -> None:
    """The next client waits in the kernel's queue until a place is free."""
    async with serve(hello, connections=1) as served, await served.connect() as first, await served.connect() as second:
        await second.send_all(REQUEST)
        await first.send_all(REQUEST)
        await read_answer(first)
        with trio.move_on_after(0.05) as waited:
            await second.receive_some()
        assert waited.cancelled_caught
        await first.aclose()
        await read_answer(second)


async def test_an_early_answer_survives_a_body_that_is_still_coming(serve: Any) -> None:
    """A client that sends much and reads late still gets its 413, instead of a reset."""

    async def take_all(receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def refuse(_scope: Any, receive: Any, send: Any) -> None:
        async with trio.open_nursery() as nursery:  # quart takes the body in while it answers, too
            nursery.start_soon(take_all, receive)
            await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"3")]})
            await send({"type": "http.response.body", "body": b"no!"})
            nursery.cancel_scope.cancel()

    async with serve(refuse) as served, await served.connect() as stream:
        await stream.send_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 30000000\r\n\r\n")
        with trio.move_on_after(5):
            for _ in range(30):
                await stream.send_all(bytes(1_000_000))
        assert (await read_to_end(stream)).endswith(b"no!")


@pytest.mark.parametrize("garbage", [b"\x00" * 100, b"NONSENSE\r\n\r\n", b"A" * 200_000])
async def test_what_is_no_http_is_closed(serve: Any, garbage: bytes) -> None:
    """Garbage costs its sender the connection, and nobody else anything."""
    async with serve(hello) as served, httpx.AsyncClient(base_url=served.url) as client:
        async with await served.connect() as stream:
            await stream.send_all(garbage)
            with trio.fail_after(2):
                answer = await read_to_end(stream)
            assert not answer or answer.startswith(b"HTTP/1.1 4")
        assert (await client.get("/")).text == "hello"


async def test_a_taken_port_names_the_setting() -> None:
    """The operator reads which setting to change."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"NODE_PORT={port}: another program listens there"):
            async with open_listeners("127.0.0.1", port):
                pytest.fail("it opened")


async def test_a_host_that_is_not_ours_names_the_setting() -> None:
    """So is an address of another machine."""
    with pytest.raises(SettingsError, match=r"NODE_HOST=192\.0\.2\.1"):
        async with open_listeners("192.0.2.1", 8004):
            pytest.fail("it opened")
