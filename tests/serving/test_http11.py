"""The protocol below the apps: what is offered, and what broken requests are answered."""

import json
from typing import Any

import pytest
import trio
from quart_trio import QuartTrio

from loop_node.serving.app import create_app
from loop_node.serving.http11 import path_of
from loop_node.supervision import Health

KEY = b"sec-websocket-version: 13\r\nsec-websocket-key: MDEyMzQ1Njc4OTAxMjM0NQ==\r\n"
UPGRADE = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"


@pytest.fixture
def app() -> QuartTrio:
    return create_app("t", [], health=Health(), not_ready=list, max_body_bytes=1000)


async def ask(served: Any, request: bytes) -> bytes:
    """All that comes back until the server closes."""
    async with await served.connect() as stream:
        await stream.send_all(request)
        with trio.fail_after(5):
            return b"".join([part async for part in stream])


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET /" + b"a" * 2_000_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n", 400),
        (b"GET ? HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 400),
        (b"GET /nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", 404),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ],
)
async def test_every_refusal_has_words(serve: Any, app: QuartTrio, request_bytes: bytes, status: int) -> None:
    """Broken requests are answered in the shape of all errors, and the connection ends."""
    async with serve(app, keep_alive_s=1000) as served:
        head, _, body = (await ask(served, request_bytes)).partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    detail, _ = json.JSONDecoder().raw_decode(body.decode())
    assert detail["detail"]


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/a", "/a"),
        ("//a//b", "//a//b"),
        ("http://host:8004/a", "/a"),
        ("https://host", "/"),
        ("*", None),
        ("", None),
        ("a", None),
        ("host:443", None),
        ("http://[", None),
        ("ftp://host/a", None),
    ],
)
def test_targets_in_all_forms(target: str, path: str | None) -> None:
    """Origin and absolute form are served, the others are not ours."""
    assert path_of(target) == path


async def test_an_absolute_target_is_served(serve: Any, app: QuartTrio) -> None:
    """As proxies send it."""
    async with serve(app) as served:
        answer = await ask(served, b"GET http://x/healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("fields", [b"", KEY.replace(b"13", b"8"), KEY.replace(b"MDEy", b"")])
async def test_a_broken_handshake_is_a_plain_request(serve: Any, app: QuartTrio, fields: bytes) -> None:
    """It gets its answer, and its connection is timed out like any other."""
    async with serve(app, keep_alive_s=0.1) as served:
        assert (await ask(served, UPGRADE + fields + b"\r\n")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(("path", "status"), [(b"/healthz", 400), (b"/nothing", 404)])
async def test_a_websocket_where_there_is_none_is_refused(
    serve: Any, app: QuartTrio, path: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Not an error of the server."""
    async with serve(app, keep_alive_s=0.1) as served:
        answer = await ask(served, UPGRADE.replace(b"/healthz", path) + KEY + b"\r\n")
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert "Traceback" not in caplog.text


async def test_http_2_is_not_offered(serve: Any, app: QuartTrio) -> None:
    """An upgrade to it is ignored, as RFC 9110 lets a server do."""
    asked = b"connection: Upgrade, HTTP2-Settings, close\r\nupgrade: h2c\r\nhttp2-settings: !!!!x\r\n\r\n"
    async with serve(app) as served:
        answer = await ask(served, b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + asked)
    assert answer.startswith(b"HTTP/1.1 200 ")
