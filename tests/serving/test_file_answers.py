"""Files as answers."""

import os
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from quart import Response

from loop_node.serving.app import create_app
from loop_node.serving.file_answers import FileBody, file_answer
from loop_node.serving.openapi import Endpoint
from loop_node.supervision import Health

MIB = 1 << 20


def app_of(path: Path, filename: str | None = None, bodies: list[FileBody] | None = None) -> Any:
    """An app whose GET /file is this file; `bodies` sees what is opened."""

    async def send() -> Response:
        answer = await file_answer(path, content_type="application/zip", filename=filename)
        if bodies is not None:
            assert isinstance(answer.response, FileBody)
            bodies.append(answer.response)
        return answer

    endpoint = Endpoint(method="GET", path="/file", handle=send, summary="A file.")
    return create_app("test", [endpoint], health=Health(), not_ready=list, max_body_bytes=1000)


@pytest.mark.parametrize("size", [0, 1, 512 << 10, 5 * MIB + 3])
async def test_a_file_comes_whole_and_is_closed(serve: Any, tmp_path: Path, size: int) -> None:
    """With its length and type, on a connection that serves on."""
    content = os.urandom(size)
    (tmp_path / "x").write_bytes(content)
    bodies: list[FileBody] = []
    async with serve(app_of(tmp_path / "x", None, bodies)) as served, httpx.AsyncClient(base_url=served.url) as client:
        for _ in range(2):
            answer = await client.get("/file")
            assert answer.content == content
            assert answer.headers["Content-Length"] == str(size)
            assert answer.headers["Content-Type"] == "application/zip"
            assert "Content-Disposition" not in answer.headers
        assert (await client.head("/file")).headers["Content-Length"] == str(size)
    assert [body.is_closed for body in bodies] == [True] * 3


@pytest.mark.parametrize(
    ("filename", "sent"),
    [("x.zip", "x.zip"), ('a"b\r\n.zip', "a_b__.zip"), ("Kühe.zip", "K_he.zip"), ("a b;.zip", "a b;.zip")],
)
async def test_a_name_is_sent_as_old_clients_read_it(serve: Any, tmp_path: Path, filename: str, sent: str) -> None:
    """They take the text behind `filename=`; nothing in a name ends the header."""
    (tmp_path / "x").write_bytes(b"x")
    async with serve(app_of(tmp_path / "x", filename)) as served, httpx.AsyncClient(base_url=served.url) as client:
        answer = await client.get("/file")
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{sent}"'


@pytest.mark.parametrize("name", ["missing", ".", "x/y"])
async def test_a_missing_file_is_not_found(serve: Any, tmp_path: Path, name: str) -> None:
    """A folder is none either."""
    (tmp_path / "x").write_bytes(b"x")
    async with serve(app_of(tmp_path / name)) as served, httpx.AsyncClient(base_url=served.url) as client:
        answer = await client.get("/file")
    assert answer.status_code == 404
    assert "there is no file" in answer.json()["detail"]


async def test_a_file_may_be_deleted_while_it_is_sent(serve: Any, tmp_path: Path) -> None:
    """Who began to read it gets it whole."""
    (tmp_path / "x").write_bytes(bytes(64 * MIB))
    bodies: list[FileBody] = []
    async with (
        serve(app_of(tmp_path / "x", None, bodies)) as served,
        httpx.AsyncClient(base_url=served.url) as client,
        client.stream("GET", "/file") as answer,
    ):
        (tmp_path / "x").unlink()
        assert sum([len(piece) async for piece in answer.aiter_raw()]) == 64 * MIB
    assert bodies[0].is_closed


async def test_a_client_that_leaves_lets_the_file_go(serve: Any, tmp_path: Path) -> None:
    """And takes no other's place."""
    (tmp_path / "x").write_bytes(bytes(64 * MIB))
    bodies: list[FileBody] = []
    async with serve(app_of(tmp_path / "x", None, bodies), connections=1) as served:
        async with await served.connect() as stream:
            await stream.send_all(b"GET /file HTTP/1.1\r\nHost: x\r\n\r\n")
            await stream.receive_some(1000)
        with trio.fail_after(10):
            async with httpx.AsyncClient(base_url=served.url) as client:
                assert len((await client.get("/file")).content) == 64 * MIB
    assert [body.is_closed for body in bodies] == [True, True]


async def test_a_slow_client_is_waited_for(serve: Any, tmp_path: Path) -> None:
    """The app's bound on the time of an answer is not for files."""
    (tmp_path / "x").write_bytes(bytes(64 * MIB))
    app = app_of(tmp_path / "x")
    app.config["RESPONSE_TIMEOUT"] = 0.1
    async with (
        serve(app) as served,
        httpx.AsyncClient(base_url=served.url) as client,
        client.stream("GET", "/file") as answer,
    ):
        with trio.move_on_after(0.5):
            await trio.sleep_forever()
        assert sum([len(piece) async for piece in answer.aiter_raw()]) == 64 * MIB


async def test_a_file_that_shrinks_ends_the_connection(serve: Any, tmp_path: Path) -> None:
    """A client is never told that half a file is all of it."""
    (tmp_path / "x").write_bytes(bytes(64 * MIB))
    async with serve(app_of(tmp_path / "x")) as served, httpx.AsyncClient(base_url=served.url) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            async with client.stream("GET", "/file") as answer:
                os.truncate(tmp_path / "x", 0)
                async for _ in answer.aiter_raw():
                    pass
