"""Bodies that come no faster than they are used."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from quart import Response, request

from loop_node.serving.app import create_app, text_answer
from loop_node.serving.bodies import AHEAD_BYTES, BoundedBody
from loop_node.serving.openapi import Endpoint
from loop_node.serving.uploads import read_body
from loop_node.supervision import Health

MIB = 1 << 20
HELD_AT_MOST = AHEAD_BYTES + MIB  # and one piece off the socket


def app_of(handle: Callable[[], Awaitable[Response]], *, max_body_bytes: int | None = 1 << 40) -> Any:
    """An app whose POST /stream is `handle`, with whole bodies of at most 1000 bytes."""

    async def whole() -> Response:
        return text_answer(str(len(await read_body(request))))

    endpoints = [
        Endpoint(method="POST", path="/whole", handle=whole, summary="Count."),
        Endpoint(method="POST", path="/stream", handle=handle, summary="Stream.", max_body_bytes=max_body_bytes),
    ]
    return create_app("test", endpoints, health=Health(), not_ready=list, max_body_bytes=1000)


async def count() -> Response:
    """The number of bytes that came."""
    total = 0
    async for data in request.body:
        assert len(data) <= HELD_AT_MOST
        total += len(data)
    return text_answer(str(total))


async def chunks(number: int) -> Any:
    for _ in range(number):
        yield bytes(100)


def head(length: int, path: str = "/stream") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


async def receive_until(stream: trio.SocketStream, last: bytes) -> None:
    """Receive an answer up to its last word."""
    received = b""
    while not received.endswith(last):
        data = await stream.receive_some()
        assert data, received
        received += data


class Sender:
    """Sends a large body as fast as it is taken, and knows how much was."""

    def __init__(self, stream: trio.SocketStream, length: int) -> None:
        self.stream = stream
        self.length = length
        self.sent = 0
        self._progress = trio.Event()

    async def run(self) -> None:
        await self.stream.send_all(head(self.length))
        while self.sent < self.length:
            await self.stream.send_all(bytes(MIB))
            self.sent += MIB
            self._progress.set()

    async def wait_blocked(self) -> None:
        """Return once nothing has been taken for half a second."""
        moves = True
        while moves:
            self._progress = trio.Event()
            with trio.move_on_after(0.5) as waited:
                await self._progress.wait()
            moves = not waited.cancelled_caught


async def test_whole_and_streamed_bodies_in_one_app(serve: Any) -> None:
    """Each endpoint has its own bound, and the one is not the other's."""
    async with serve(app_of(count)) as served, httpx.AsyncClient(base_url=served.url) as client:
        assert (await client.post("/whole", content=bytes(1000))).text == "1000"
        assert (await client.post("/whole", content=bytes(1001))).status_code == 413
        assert (await client.post("/whole", content=chunks(11))).status_code == 413
        assert (await client.post("/stream", content=bytes(5 * MIB))).text == str(5 * MIB)
        assert (await client.post("/stream", content=chunks(11))).text == "1100"
        assert (await client.post("/stream")).text == "0"


@pytest.mark.parametrize("content", [bytes(2001), chunks(21)])
async def test_a_stream_has_a_bound_announced_or_found_out(serve: Any, content: Any) -> None:
    """413 at once by its length, or as soon as it is over."""
    async with serve(app_of(count, max_body_bytes=2000)) as served, httpx.AsyncClient(base_url=served.url) as client:
        answer = await client.post("/stream", content=content)
        assert (answer.status_code, answer.json()) == (413, {"detail": "the body is larger than 2000 bytes"})
        assert (await client.post("/stream", content=bytes(2000))).text == "2000"


async def test_streams_are_not_counted_as_memory(serve: Any) -> None:
    """Many large ones at once are served beside each other, where whole ones would get 503."""
    arrived, go = [], trio.Event()

    async def wait_and_count() -> Response:
        arrived.append(1)
        if len(arrived) == 20:
            go.set()
        await go.wait()
        return await count()

    answers: list[str] = []
    async with serve(app_of(wait_and_count)) as served, httpx.AsyncClient(base_url=served.url) as client:

        async def post() -> None:
            answers.append((await client.post("/stream", content=bytes(2000))).text)

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(post)
    assert answers == ["2000"] * 20


async def test_a_sender_waits_for_the_reader(serve: Any) -> None:
    """64 MiB are not taken in while nobody reads them; once somebody does, all of them come."""
    bodies: list[BoundedBody] = []
    go = trio.Event()

    async def wait_and_count() -> Response:
        assert isinstance(request.body, BoundedBody)
        bodies.append(request.body)
        await go.wait()
        return await count()

    async with serve(app_of(wait_and_count)) as served, await served.connect() as stream:
        sender = Sender(stream, 64 * MIB)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.run)
            await sender.wait_blocked()
            assert sender.sent < sender.length  # the kernel holds some of it for both ends
            assert AHEAD_BYTES <= bodies[0].buffered_bytes <= HELD_AT_MOST
            go.set()
        await receive_until(stream, str(64 * MIB).encode())


async def test_an_answer_need_not_wait_for_the_body(serve: Any) -> None:
    """It comes while the client still sends, and the only place is free for the next client."""

    async def refuse() -> Response:
        return text_answer("not now")

    async with serve(app_of(refuse), connections=1) as served:
        async with await served.connect() as stream:
            await stream.send_all(head(64 * MIB) + bytes(MIB))
            await receive_until(stream, b"not now")
        with trio.fail_after(10):
            async with httpx.AsyncClient(base_url=served.url) as client:
                assert (await client.post("/stream", content=b"x")).text == "not now"


@pytest.mark.parametrize("sent", [0, 100, 8 * MIB])
async def test_a_client_that_leaves_cancels_the_reader(serve: Any, sent: int) -> None:
    """In the middle of a body, whether its reader waits for more or has not begun."""
    left, ended, completed = trio.Event(), trio.Event(), False

    async def read() -> Response:
        nonlocal completed
        try:
            await left.wait()
            await count()
            completed = True
            return text_answer("")
        finally:
            ended.set()

    async with serve(app_of(read)) as served:
        async with await served.connect() as stream:
            with trio.move_on_after(0.5):
                await stream.send_all(head(1 << 30) + bytes(sent))
        left.set()
        with trio.fail_after(10):
            await ended.wait()
    assert not completed


async def test_a_client_that_leaves_gives_its_place_back(serve: Any) -> None:
    """Also if its handler reads nothing of what it had sent, and answers nobody."""
    left = trio.Event()

    async def answer_late() -> Response:
        await left.wait()
        return text_answer("late")

    async with serve(app_of(answer_late), connections=1) as served:
        async with await served.connect() as stream:
            with trio.move_on_after(0.5):
                await stream.send_all(head(1 << 30) + bytes(8 * MIB))
        left.set()
        with trio.fail_after(10):
            async with httpx.AsyncClient(base_url=served.url) as client:
                assert (await client.post("/stream", content=b"x")).text == "late"


async def test_a_connection_serves_on_after_an_unread_body(serve: Any) -> None:
    """A body that nobody wanted is not taken for the next request."""

    async def ignore() -> Response:
        return text_answer("ok")

    async with serve(app_of(ignore)) as served, httpx.AsyncClient(base_url=served.url) as client:
        for size in (0, 10, AHEAD_BYTES, 4 * MIB):
            assert (await client.post("/stream", content=bytes(size))).text == "ok"


async def test_a_whole_body_over_its_limit_is_let_go() -> None:
    """It does not stay in memory until the client has sent the rest."""
    body = BoundedBody(None, 100)
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(Exception, match="413"):
                await body

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        body.append(bytes(101))
    body.append(bytes(1000))
    assert body.buffered_bytes == 0
