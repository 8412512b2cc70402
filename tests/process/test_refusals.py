"""What a running node says no to, and how: always JSON, always the right status, never 500."""

import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

pytestmark = pytest.mark.process

JPEG_TYPE = {"content-type": "image/jpeg"}
DEFAULT_LIMIT_BYTES = 64 << 20


def detail(answer: httpx.Response, status: int) -> str:
    """What the answer says, once it has the status and the shape that all refusals have."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    said = answer.json()
    assert list(said) == ["detail"]
    return str(said["detail"])


def huge_png(width: int, height: int) -> bytes:
    """A PNG of so many pixels and few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + (width + 7) // 8)) for _ in range(height))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows + packer.flush()) + chunk(b"IEND", b"")


async def test_what_is_wrong_with_a_form_is_named(client: httpx.AsyncClient, small_jpeg: bytes) -> None:
    """No image, two images, a wrong field, no form at all: 422 with the field's name."""
    said = detail(await client.post("/detect", files={"files": small_jpeg}), 422)
    assert "'file' is missing" in said
    assert "'files'" in said
    assert "2 images" in detail(await client.post("/detect", files=[("file", small_jpeg)] * 2), 422)
    assert "'file'" in detail(await client.post("/detect"), 422)
    assert "'file'" in detail(await client.post("/detect", data={"file": ""}), 422)
    assert "'file'" in detail(await client.post("/detect", json={"file": 1}), 422)
    unbounded = {"content-type": "multipart/form-data"}
    assert "multipart" in detail(await client.post("/detect", content=b"x", headers=unbounded), 422)
    broken = {"content-type": "multipart/form-data; boundary=b"}
    assert "multipart" in detail(await client.post("/detect", content=b"--b\r\n\r\n", headers=broken), 422)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda jpeg: b"", "empty"),
        (lambda jpeg: b"no image at all", "no image we read"),
        (lambda jpeg: b"GIF89a" + bytes(100), "no image we read"),
        (lambda jpeg: jpeg[: len(jpeg) // 2], "truncated"),
        (lambda jpeg: jpeg[:20], "truncated"),
        (lambda jpeg: jpeg[:2], "truncated"),
    ],
    ids=["empty", "text", "gif", "half", "head", "two bytes"],
)
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "form"])
async def test_what_is_no_whole_image_is_named(
    client: httpx.AsyncClient, small_jpeg: bytes, damage: Callable[[bytes], bytes], named: str, raw: bool
) -> None:
    """Empty, of a format we do not read, or cut off: 422 that says so."""
    image = damage(small_jpeg)
    sent = {"content": image, "headers": JPEG_TYPE} if raw else {"files": {"file": ("a.jpg", image, "image/jpeg")}}
    assert named in detail(await client.post("/detect", **sent), 422)


@pytest.mark.parametrize("where", ["headers", "params"])
async def test_an_unknown_autoupload_is_named(client: httpx.AsyncClient, small_jpeg: bytes, where: str) -> None:
    """A word that stands for nothing is refused, with those that stand for something."""
    said = detail(await client.post("/detect", files={"file": small_jpeg}, **{where: {"autoupload": "some"}}), 422)
    assert all(word in said for word in ("autoupload", "'some'", "filtered", "all", "disabled"))


async def test_a_date_that_is_none_costs_no_detections(coco: Any, client: httpx.AsyncClient, photos: Path) -> None:
    """A robot with a bad clock keeps its detections; the date is dropped with a warning."""
    files = {"file": (photos / "astronaut.png").read_bytes()}
    answer = await client.post("/detect", files=files, headers={"creation_date": "yesterday-4711"})
    assert answer.status_code == 200
    assert answer.json()["created"] is None
    assert answer.json()["box_detections"]
    (line,) = (line for line in coco.log.splitlines() if "yesterday-4711" in line)
    assert "WARNING" in line


@pytest.mark.parametrize("path", ["/", "/detect/", "/Detect", "/docs/nothing.js", "/%00", "/%ff"])
async def test_an_unknown_path_is_404(client: httpx.AsyncClient, path: str) -> None:
    """In the same shape as every refusal."""
    assert detail(await client.get(path), 404) == "Not Found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/detect", {"POST"}),
        ("POST", "/about", {"GET", "HEAD"}),
        ("GET", "/debug_logging", {"PUT"}),
        ("OPTIONS", "/detect", {"POST"}),
        ("DELETE", "/healthz", {"GET", "HEAD"}),
        ("BREW", "/detect", {"POST"}),
    ],
)
async def test_a_wrong_method_is_405(client: httpx.AsyncClient, method: str, path: str, allowed: set[str]) -> None:
    """OPTIONS is one; the answer names those that are right."""
    answer = await client.request(method, path)
    assert detail(answer, 405) == "Method Not Allowed"
    assert set(answer.headers["allow"].split(", ")) == allowed


async def test_debug_logging_takes_two_words(client: httpx.AsyncClient) -> None:
    """On and off come back as JSON strings, everything else is 400."""
    assert (await client.put("/debug_logging", content=b"on")).json() == "on"
    assert (await client.put("/debug_logging", content=b"off")).json() == "off"
    for wrong in (b"", b"ON", b"\xff\xfe", b'"on"'):
        assert detail(await client.put("/debug_logging", content=wrong), 400) == "Invalid state"


async def test_too_many_pixels_are_refused_before_they_are_decoded(coco: Any, client: httpx.AsyncClient) -> None:
    """400 million pixels in 60 KB: refused, and the process never held them."""
    before_kib = coco.status("VmHWM")
    for width, height in ((20_000, 20_000), (2**31 - 1, 2**31 - 1)):
        image = huge_png(20_000, 20_000)
        image = image.replace(struct.pack(">II", 20_000, 20_000), struct.pack(">II", width, height))
        said = detail(await client.post("/detect", content=image, headers={"content-type": "image/png"}), 422)
        assert "MAX_IMAGE_PIXELS" in said or "damaged" in said
    assert coco.status("VmHWM") - before_kib < 100_000


async def big_body(limit_bytes: int) -> Any:
    for _ in range(limit_bytes // (1 << 16) + 2):
        yield bytes(1 << 16)


async def test_a_body_over_64_mib_is_413(coco: Any, client: httpx.AsyncClient) -> None:
    """Announced or in chunks; what was over the limit is not kept."""
    limit = DEFAULT_LIMIT_BYTES
    announced = {"content-type": "image/jpeg", "content-length": str(limit + (1 << 17))}
    for path, method in (("/detect", "POST"), ("/debug_logging", "PUT")):
        for headers in (announced, JPEG_TYPE):
            answer = await client.request(method, path, content=big_body(limit), headers=headers)
            assert str(limit) in detail(answer, 413)
    assert coco.process.poll() is None


@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "announced"])
async def test_who_keeps_sending_still_reads_the_413(nodes: Any, chunked: bool, load: Any) -> None:
    """A client that sends everything before it reads gets the answer, not a reset."""
    node = await nodes.start_ready("detector", MODEL="coco", MAX_BODY_BYTES=100_000)
    length = b"transfer-encoding: chunked" if chunked else b"content-length: 20000000"
    head = b"POST /detect HTTP/1.1\r\nhost: x\r\ncontent-type: image/jpeg\r\n" + length + b"\r\n\r\n"
    for _ in range(2):
        stream = await trio.open_tcp_stream(*node.address)
        async with stream:
            with trio.fail_after(30):
                await stream.send_all(head)
                for _ in range(20):
                    data = bytes(1_000_000)
                    await stream.send_all(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)
                answer = b"".join([part async for part in stream])
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b'{"detail":"the body is larger than 100000 bytes"}' in answer
    async with node.client() as client:
        exact = await client.post("/detect", content=bytes(100_000), headers=JPEG_TYPE)
        assert "no image we read" in detail(exact, 422)
        assert "100000" in detail(await client.post("/detect", content=bytes(100_001), headers=JPEG_TYPE), 413)
    assert await node.stop() == 0


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.0\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        b"POST /detect HTTP/1.0\r\ncontent-type: image/jpeg\r\ncontent-length: %d\r\n\r\n",
        b"POST /detect HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: image/jpeg\r\ncontent-length: %d\r\n\r\n",
    ],
    ids=["1.0", "close", "1.0 with image", "close with image"],
)
async def test_who_wants_one_answer_sees_the_end_right_after_it(coco: Any, small_jpeg: bytes, head: bytes) -> None:
    """HTTP/1.0 and `Connection: close` end with the answer, long before any timeout."""
    request = head % len(small_jpeg) + small_jpeg if b"%d" in head else head
    stream = await trio.open_tcp_stream(*coco.address)
    async with stream:
        await stream.send_all(request)
        with trio.fail_after(20):  # an idle connection is kept for longer
            answer = await stream.receive_some()
            assert answer.startswith(b"HTTP/1.1 200 ")
            answered = trio.current_time()
            rest = b"".join([part async for part in stream])
        assert trio.current_time() - answered < 1
        assert (answer + rest).endswith(b"}")


async def test_a_websocket_to_nowhere_is_404(coco: Any) -> None:
    """The handshake is refused like any request, without a word in the log."""
    before = coco.log
    handshake = (
        b"GET /no/such/path HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    async with await trio.open_tcp_stream(*coco.address) as stream:
        await stream.send_all(handshake)
        with trio.fail_after(20):
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 404 ")
    assert "Traceback" not in coco.log.removeprefix(before)


async def test_a_client_that_leaves_is_no_error(coco: Any, small_jpeg: bytes) -> None:
    """Clients that go in mid-request, with or without a farewell, leave nothing in the log and nobody waiting."""
    before = coco.log
    head = b"POST /detect HTTP/1.1\r\nhost: x\r\ncontent-type: image/jpeg\r\ncontent-length: %d\r\n\r\n" % len(
        small_jpeg
    )
    for sent in (b"", head[:30], head, head + small_jpeg[:100], head + small_jpeg):
        for abruptly in (False, True):
            stream = await trio.open_tcp_stream(*coco.address)
            await stream.send_all(sent)
            if abruptly:  # a reset instead of an end
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await stream.aclose()
    async with coco.client() as client:
        assert (await client.get("/healthz")).status_code == 200
    said = coco.log.removeprefix(before)
    assert "Traceback" not in said
    assert "ERROR" not in said
