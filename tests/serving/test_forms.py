"""Forms whose files go to disk as they come."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from quart import Response, request

from loop_node.serving.app import create_app, json_answer
from loop_node.serving.forms import RECEIVED_PREFIX, ReceivedForm, receive_form
from loop_node.serving.openapi import Endpoint
from loop_node.supervision import Health

MIB = 1 << 20
Files = list[tuple[str, tuple[str, bytes, str]]]


def app_of(folder: Path, *, seen: Any = None, max_bytes: int = 64 * MIB, **bounds: Any) -> Any:
    """An app whose POST /files says what came; `seen` is called with the form while it is there."""

    async def files() -> Response:
        async with receive_form(request, folder=folder, max_bytes=max_bytes, **bounds) as form:
            if seen is not None:
                seen(form)
            kept = [(one.field, one.filename, one.path.name, one.size_bytes) for one in form.files]
            return json_answer({"files": kept, "fields": form.fields})

    endpoint = Endpoint(method="POST", path="/files", handle=files, summary="Files.", max_body_bytes=1 << 40)
    return create_app("test", [endpoint], health=Health(), not_ready=list, max_body_bytes=1000)


def names_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


@asynccontextmanager
async def client_of(serve: Any, app: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with serve(app) as served, httpx.AsyncClient(base_url=served.url, timeout=20) as client:
        yield client


def batch(*sizes: int) -> Files:
    """Files of these sizes, each with its own content."""
    return [
        ("files", (f"{number}.bin", bytes([number]) * size, "application/octet-stream"))
        for number, size in enumerate(sizes)
    ]


async def test_files_are_on_disk_and_fields_in_memory(serve: Any, tmp_path: Path) -> None:
    """Small and large ones, empty ones, in their order; the folder is gone afterwards."""
    contents: list[bytes] = []

    def look(form: ReceivedForm) -> None:
        contents.extend(one.path.read_bytes() for one in form.files)
        assert {one.path.parent.parent for one in form.files} == {tmp_path / "new"}

    sizes = (3, 0, 3 * MIB + 5, MIB, 2)
    async with client_of(serve, app_of(tmp_path / "new", seen=look)) as client:
        answer = await client.post("/files", files=batch(*sizes), data={"tags": ["a", "b"], "note": "ö"})
    assert answer.json() == {
        "files": [["files", f"{number}.bin", f"{number:04}", size] for number, size in enumerate(sizes)],
        "fields": {"tags": ["a", "b"], "note": ["ö"]},
    }
    assert contents == [content for _, (_, content, _) in batch(*sizes)]
    assert names_below(tmp_path / "new") == []


async def test_what_is_renamed_stays(serve: Any, tmp_path: Path) -> None:
    """A file may leave the folder before that goes."""

    def keep(form: ReceivedForm) -> None:
        form.files[0].path.rename(tmp_path / "kept")

    async with client_of(serve, app_of(tmp_path / "new", seen=keep)) as client:
        assert (await client.post("/files", files=batch(5, 6))).status_code == 200
    assert (tmp_path / "kept").read_bytes() == bytes(5)


async def test_a_hostile_name_is_no_path(serve: Any, tmp_path: Path) -> None:
    """Names are labels; files are called by us."""
    async with client_of(serve, app_of(tmp_path / "a" / "b")) as client:
        answer = await client.post("/files", files=[("files", ("../../../evil", b"x"))])
    assert answer.json()["files"] == [["files", "../../../evil", "0000", 1]]
    assert names_below(tmp_path) == ["a", "b"]


async def test_a_body_may_be_one_file(serve: Any, tmp_path: Path) -> None:
    """A zip as it is, with its name in the request's head or without one."""
    async with client_of(serve, app_of(tmp_path)) as client:
        for disposition, filename in (('attachment; filename="m.zip"', "m.zip"), ("", "")):
            headers = {"Content-Type": "application/zip", "Content-Disposition": disposition}
            answer = await client.post("/files", content=bytes(2 * MIB + 1), headers=headers)
            assert answer.json() == {"files": [["", filename, "0000", 2 * MIB + 1]], "fields": {}}


async def chunked(size: int) -> Any:
    for _ in range(size // 100):
        yield bytes(100)


@pytest.mark.parametrize(
    ("request_of", "status", "detail"),
    [
        ({"files": batch(1, 1, 1, 1)}, 413, "a form may have 3 files"),
        ({"files": batch(5000)}, 413, "the body is larger than 4000 bytes"),
        (
            {"content": bytes(4001), "headers": {"Content-Type": "application/zip"}},
            413,
            "the body is larger than 4000 bytes",
        ),
        (
            {"content": chunked(5000), "headers": {"Content-Type": "application/zip"}},
            413,
            "the body is larger than 4000 bytes",
        ),
        ({"files": batch(1), "data": {"x": "y" * 101}}, 413, "that are no files may have 100 bytes"),
        ({"json": {}}, 422, "this body is application/json"),
        ({}, 422, "of no stated type"),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "no usable boundary"),
        ({"content": b"", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}, 400, "ends before its last"),
        (
            {
                "content": b'--b\r\nContent-Disposition: form-data; name=f; filename="x"\r\n\r\nxxxx\r\n--',
                "headers": {"Content-Type": "multipart/form-data; boundary=b"},
            },
            400,
            "ends before its last",
        ),
        (
            {
                "content": b'--b\r\nContent-Disposition: form-data; name="f"\r\n\r\n\xff\r\n--b--',
                "headers": {"Content-Type": "multipart/form-data; boundary=b"},
            },
            400,
            "field 'f' is no UTF-8 text",
        ),
    ],
)
async def test_bad_forms_are_refused_and_leave_nothing(
    serve: Any, tmp_path: Path, request_of: Any, status: int, detail: str
) -> None:
    """Each in words that say what to do about it."""
    app = app_of(tmp_path, max_bytes=4000, max_files=3, max_field_bytes=100)
    async with client_of(serve, app) as client:
        answer = await client.post("/files", **request_of)
    assert answer.status_code == status
    assert detail in answer.json()["detail"]
    assert names_below(tmp_path) == []


async def test_a_body_that_stalls_is_given_up(serve: Any, tmp_path: Path) -> None:
    """408 once nothing came for BODY_TIMEOUT, however long the body took until then."""
    app = app_of(tmp_path)
    app.config["BODY_TIMEOUT"] = 0.4
    head = b"POST /files HTTP/1.1\r\nHost: x\r\nContent-Type: application/zip\r\nContent-Length: 100\r\n\r\n"
    async with serve(app) as served, await served.connect() as stream:
        await stream.send_all(head)
        begin = trio.current_time()
        for _ in range(4):
            with trio.move_on_after(0.2):  # slower than BODY_TIMEOUT altogether
                await stream.receive_some()
                pytest.fail("it was given up too early")
            await stream.send_all(b"x")
        answer = await stream.receive_some()
        assert trio.current_time() - begin >= 1.1
    assert answer.startswith(b"HTTP/1.1 408")
    assert names_below(tmp_path) == []


async def test_a_client_that_leaves_leaves_nothing(serve: Any, tmp_path: Path) -> None:
    """What it had sent goes with it."""
    arrived, gone = trio.Event(), trio.Event()
    token = trio.lowlevel.current_trio_token()

    def append(path: Path, block: bytearray) -> None:
        path.write_bytes(block)
        trio.from_thread.run_sync(arrived.set, trio_token=token)

    async def files() -> Response:
        try:
            async with receive_form(request, folder=tmp_path, max_bytes=1 << 40, append=append):
                return json_answer("whole")
        finally:
            gone.set()

    endpoint = Endpoint(method="POST", path="/files", handle=files, summary="Files.", max_body_bytes=1 << 40)
    app = create_app("test", [endpoint], health=Health(), not_ready=list, max_body_bytes=1000)
    head = b"POST /files HTTP/1.1\r\nHost: x\r\nContent-Type: application/zip\r\nContent-Length: 10000000\r\n\r\n"
    async with serve(app) as served:
        async with await served.connect() as stream:
            await stream.send_all(head + bytes(2 * MIB))
            await arrived.wait()
            assert names_below(tmp_path)[-1].startswith(RECEIVED_PREFIX)
        with trio.fail_after(10):
            await gone.wait()
    assert names_below(tmp_path) == []


def append_to_a_full_disk(path: Path, block: bytearray) -> None:
    """The first block finds room."""
    with path.open("ab") if not path.exists() else open("/dev/full", "ab") as file:  # noqa: PTH123 # a device
        file.write(block)


async def test_a_full_disk_is_said_and_nothing_is_kept(serve: Any, tmp_path: Path) -> None:
    """507 in the middle of a file; the next client is served."""
    async with client_of(serve, app_of(tmp_path, append=append_to_a_full_disk)) as client:
        answer = await client.post("/files", files=batch(10, 3 * MIB))
        assert (answer.status_code, answer.headers["Retry-After"]) == (507, "1")
        assert answer.json() == {"detail": "the disk has no room for what was sent; nothing of it was kept"}
        assert names_below(tmp_path) == []
        assert (await client.post("/files", files=batch(10))).status_code == 200


async def test_memory_holds_one_block(serve: Any, tmp_path: Path) -> None:
    """However large a file and however it is cut, what is written at once is about a megabyte."""
    blocks: list[int] = []

    def append(path: Path, block: bytearray) -> None:
        blocks.append(len(block))

    async with client_of(serve, app_of(tmp_path, append=append)) as client:
        assert (await client.post("/files", files=batch(40 * MIB, 7))).status_code == 200
    assert sum(blocks) == 40 * MIB + 7
    assert max(blocks) < 2.5 * MIB
    assert len(blocks) <= 42
