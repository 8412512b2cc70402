import ssl
import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme

from loop_node.socketio.client import open_socketio
from loop_node.socketio.session import bare_exception

UPSTREAM = [sys.executable, str(Path(__file__).parent / "programs" / "upstream_server.py")]


async def read_line(process):
    line = b""
    with trio.fail_after(20):
        while not line.endswith(b"\n"):
            line += await process.stdout.receive_some(100)
    return line


@pytest.fixture
def upstream():
    """python-socketio's AsyncServer under uvicorn in a process of its own: `async with upstream() as (process, port)`."""

    @asynccontextmanager
    async def start(port=0):
        with bare_exception():
            async with trio.open_nursery() as nursery:
                run = partial(trio.run_process, [*UPSTREAM, str(port)], stdout=subprocess.PIPE, check=False)
                process = await nursery.start(run)
                yield process, int(await read_line(process))
                process.kill()

    return start


@pytest.mark.process
async def test_events_and_acks_both_ways_with_binary(upstream, until):
    """Headers, cookies, calls, the server's calls and its events, all with bytes."""
    news = []

    async def hear(_peer, number, data):
        news.append((number, data))

    async def answer(_peer, data):
        return {"got": data, "more": b"!"}

    handlers = {"news": hear, "question": answer}
    async with (
        upstream() as (_, port),
        open_socketio(
            f"http://127.0.0.1:{port}", handlers=handlers, headers={"organization": "o"}, cookies={"a": "1", "b": "2"}
        ) as loop,
    ):
        assert loop.sid
        assert await loop.call("who_am_i") == {"organization": "o", "cookie": "a=1; b=2"}
        assert await loop.call("echo", {"image": b"\x00" * 6_000_000}) == {"image": b"\x00" * 6_000_000}
        assert await loop.call("echo", 1, "é", None) == (1, "é", None)
        assert await loop.call("echo") is None
        assert await loop.call("ask_me", b"?") == {"got": b"?", "more": b"!"}
        await loop.emit("tell_me", b"x")
        await until(lambda: len(news) == 3)
        assert news == [(0, b"x"), (1, b"x"), (2, b"x")]


@pytest.mark.process
async def test_the_heartbeat_keeps_the_link(upstream):
    """With pings every second the link stands for as long as both sides live."""
    async with upstream() as (_, port), open_socketio(f"ws://127.0.0.1:{port}") as loop:
        await trio.sleep(2.5)
        assert await loop.call("echo", 1) == 1


@pytest.mark.process
async def test_a_server_gone_mid_call_and_back(upstream):
    """The call raises, the context ends, and a new one finds the restarted server at the same place."""
    async with upstream() as (process, port), trio.open_nursery() as nursery:
        url = f"http://127.0.0.1:{port}"

        async def kill():
            assert await read_line(process) == b"never\n"
            process.kill()

        nursery.start_soon(kill)
        with pytest.raises(ConnectionError, match="before 'never' was answered"):
            async with open_socketio(url) as loop:
                await loop.call("never")
        await process.wait()
        with pytest.raises(ConnectionError, match="was not reached"):
            async with open_socketio(url):
                pass
    async with upstream(port), open_socketio(url) as loop:
        assert await loop.call("echo", 1) == 1


@pytest.mark.process
async def test_a_lost_link_ends_the_body(upstream):
    """Whatever the body is doing, the loss cancels it and the context manager says why."""
    async with upstream() as (process, port):
        with trio.fail_after(10), pytest.raises(ConnectionError, match="is lost: the websocket is closed"):
            async with open_socketio(f"http://127.0.0.1:{port}"):
                process.kill()
                await trio.sleep_forever()


@pytest.mark.process
async def test_the_server_says_goodbye(upstream):
    """A disconnect by the server is a loss too."""
    async with upstream() as (_, port):
        with pytest.raises(ConnectionError, match="the server has disconnected us"):
            async with open_socketio(f"http://127.0.0.1:{port}") as loop:
                await loop.emit("drop_me")
                await trio.sleep_forever()


@pytest.mark.process
async def test_refusals(upstream):
    """No by Socket.IO and no by HTTP status are both a ConnectionRefusedError with the reason."""
    async with upstream() as (_, port):
        with pytest.raises(ConnectionRefusedError, match="not you"):
            async with open_socketio(f"http://127.0.0.1:{port}", auth={"refuse": True}):
                pass
        with pytest.raises(ConnectionRefusedError, match="answered HTTP"):
            async with open_socketio(f"http://127.0.0.1:{port}", path="/elsewhere"):
                pass


async def test_the_callers_timeout_ends_a_call(serve):
    """The timeout is a cancel scope; the link stands, and the late answer disturbs nobody."""
    free = trio.Event()

    async def slow(_peer):
        await free.wait()
        return "late"

    async def quick(_peer):
        return "quick"

    async with serve({"slow": slow, "quick": quick}) as served, open_socketio(served.url) as client:
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.1):
            await client.call("slow")
        free.set()
        assert await client.call("quick") == "quick"


async def test_the_body_keeps_its_exception(serve):
    """What the body raises comes out as it is, and no task is left."""
    async with serve({}) as served:
        with pytest.raises(ZeroDivisionError):
            async with open_socketio(served.url):
                raise ZeroDivisionError


async def test_handlers_end_with_the_context(serve, until):
    """A handler under way is cancelled with the context."""
    ended = []

    async def endless(_peer):
        try:
            await trio.sleep_forever()
        finally:
            ended.append(True)

    async with serve({}) as served:
        async with open_socketio(served.url, handlers={"endless": endless}):
            await served.server.peers[0].emit("endless")
            await trio.testing.wait_all_tasks_blocked(0.05)
        assert ended
        await until(lambda: not served.server.peers)


async def test_passwords_in_urls_stay_out_of_errors():
    """A user and a password in the URL are in no message."""
    for url in ("http://me:secret@127.0.0.1:1", "ftp://me:secret@host"):
        with pytest.raises((ConnectionError, ValueError)) as error:
            async with open_socketio(url):
                pass
        assert "secret" not in str(error.value)


@asynccontextmanager
async def talking_server(*replies):
    """A server that answers whatever comes with these bytes, then hangs up."""

    async def talk(stream):
        for reply in replies:
            await stream.receive_some(10_000)
            await stream.send_all(reply)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, talk, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ],
)
async def test_servers_that_are_none(reply):
    """Whatever answers, or hangs up, is a ConnectionError and never a wait for ever."""
    async with talking_server(reply) as url:
        with trio.fail_after(5), pytest.raises(ConnectionError):
            async with open_socketio(url):
                pass


@pytest.mark.parametrize("url", ["ftp://host", "host:80", "http://", ""])
async def test_urls_that_are_none(url):
    """A URL that cannot be used is told at once."""
    with pytest.raises(ValueError, match="should be like https://host"):
        async with open_socketio(url):
            pass


async def test_an_untrusted_certificate_is_an_error():
    """A TLS handshake that fails says so instead of waiting."""
    ca = trustme.CA()
    certificate = ca.issue_cert("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)

    async def shake(stream):
        with pytest.raises((trio.BrokenResourceError, ssl.SSLError)):
            await trio.SSLStream(stream, context, server_side=True).do_handshake()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, shake, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        with (
            trio.fail_after(5),
            pytest.raises(ConnectionError, match=r"no TLS connection .* certificate verify failed"),
        ):
            async with open_socketio(f"https://127.0.0.1:{port}"):
                pass
        nursery.cancel_scope.cancel()
