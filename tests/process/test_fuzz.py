"""Hostile input, made up at random: the node answers 4xx or hangs up, says nothing in its log, and does not grow.

FUZZ_EXAMPLES=1000 sends so many requests to every endpoint; the suite sends about a thousand to all of them together.
"""

import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

pytestmark = [pytest.mark.process, pytest.mark.timeout(1800)]

IN_FULL = "FUZZ_EXAMPLES" in os.environ
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "40"))
ANSWER_S = 40
PAUSE_S = 0.1
"""A request without an answer for so long is taken for one that the node wants more of."""
GROWTH_KIB = 24_000
"""What the second half of a run may add to the first. An image here has up to 4 MB of pixels, and where the heap has no
gap of that size it grows by one; a leak of 5 KB a request would add up to this in 5000 requests."""

PATHS = {
    "/detect": "POST",
    "/about": "GET",
    "/model_version": "GET",
    "/operation_mode": "GET",
    "/debug_logging": "PUT",
    "/healthz": "GET",
    "/readyz": "GET",
    "/v2/health/live": "GET",
    "/v2/health/ready": "GET",
    "/openapi.json": "GET",
    "/docs": "GET",
    "/docs/start.js": "GET",
    "/docs/swagger-ui.css": "GET",
    "/docs/favicon-32x32.png": "GET",
    "/ws/socket.io/": "POST",
    "/no/such/path": "GET",
}

fuzz = settings(
    max_examples=EXAMPLES,
    derandomize=not IN_FULL,
    database=None,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


def is_whole(answer: bytes) -> bool:
    """Whether an answer of stated length is there in full; one to HEAD never is, but the connection's end tells, too."""
    head, blank, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: *(\d+)", head.lower())
    return bool(blank and length and len(body) >= int(length[1]))


def first_answer(answer: bytes) -> tuple[int, bytes]:
    """Status and body; bytes beyond the request are answered, too, but that is not looked at."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head:
        return 0, b""
    status = int(head.split()[1])
    if status == 100:
        return first_answer(body)
    return status, re.split(rb"(?=HTTP/1\.1 )", body)[0]


class Target:
    """The node under fire, and how much memory it had after each request."""

    def __init__(self, node: Any) -> None:
        self.node = node
        self.samples_kib: list[int] = []

    def send(self, request: bytes, pause_s: float = PAUSE_S) -> tuple[int, bytes]:
        """Status and body of the answer to raw bytes; status 0 if the node hung up without a word."""
        with socket.create_connection(self.node.address, timeout=pause_s) as peer:
            answer = self._exchange(peer, request)
        self.samples_kib.append(self.node.status("VmRSS"))
        return first_answer(answer)

    @staticmethod
    def _exchange(peer: socket.socket, request: bytes) -> bytes:
        answer = b""
        try:
            peer.sendall(request)
            while not is_whole(answer):
                try:
                    data = peer.recv(1 << 20)
                except TimeoutError:  # it waits for more, then: there is none
                    peer.settimeout(ANSWER_S)
                    peer.shutdown(socket.SHUT_WR)
                    continue
                if not data:
                    break
                answer += data
        except ConnectionError:
            pass  # it had enough of us, and may have answered before
        return answer

    def check_growth(self) -> None:
        half = len(self.samples_kib) // 2
        first, second = max(self.samples_kib[:half]), max(self.samples_kib[half:])
        print(f"\n{len(self.samples_kib)} requests; {first} KiB in the first half, {second} in the second")  # noqa: T201 # pytest shows it on request
        assert second - first < GROWTH_KIB


@pytest.fixture(scope="module")
def target(coco: Any) -> Iterator[Target]:
    """All of the module's requests go to one node, which is as well at the end as it was before."""
    target = Target(coco)
    before = coco.log
    yield target
    assert httpx.get(f"{coco.url}/readyz", trust_env=False, timeout=ANSWER_S).status_code == 200
    said = coco.log.removeprefix(before)
    assert not re.search(r" (?:ERROR|CRITICAL) |Exception ignored", said)  # a traceback at DEBUG is none of these
    target.check_growth()


@pytest.fixture(scope="module")
def images(photos: Path, encoded: Callable[..., bytes]) -> list[bytes]:
    """Good files of all formats, small and middle-sized."""
    with Image.open(photos / "chelsea.png") as photo:
        rgb = photo.convert("RGB").resize((90, 60))
    exif = Image.Exif()
    exif[274] = 6
    return [
        encoded(rgb, "JPEG", exif=exif),
        encoded(rgb, "JPEG", progressive=True, quality=30),
        encoded(rgb.convert("CMYK"), "JPEG"),
        encoded(rgb.convert("L"), "JPEG", subsampling=0),
        encoded(rgb, "PNG"),
        encoded(rgb.convert("P"), "PNG", transparency=3),
        encoded(rgb.convert("RGBA"), "PNG", optimize=True),
        encoded(rgb, "WEBP"),
        encoded(rgb.convert("RGBA"), "WEBP", lossless=True),
        encoded(rgb, "BMP"),
        encoded(rgb.convert("1"), "BMP"),
    ]


def damaged(data: st.DataObject, image: bytes) -> bytes:
    """The image with something cut off, turned over, put in, or left as it is."""
    at = data.draw(st.integers(0, len(image) - 1), "at")
    match data.draw(st.sampled_from(["whole", "cut", "flip", "header", "insert", "drop", "swap"]), "damage"):
        case "cut":
            return image[:at]
        case "flip":
            flipped = bytearray(image)
            for place in data.draw(st.lists(st.integers(0, 8 * len(image) - 1), min_size=1, max_size=20), "bits"):
                flipped[place // 8] ^= 1 << place % 8
            return bytes(flipped)
        case "header":  # where the sizes are
            place = data.draw(st.integers(2, min(600, len(image) - 1)), "place")
            return image[:place] + data.draw(st.binary(min_size=1, max_size=4), "bytes") + image[place + 4 :]
        case "insert":
            return image[:at] + data.draw(st.binary(max_size=100), "bytes") + image[at:]
        case "drop":
            return image[:at] + image[at + data.draw(st.integers(1, 100), "length") :]
        case "swap":
            return image[at:] + image[:at]
    return image


names = st.sampled_from(["file", "files", "FILE", "", 'fi"le', "file\\", "fïle", "a" * 500, "file[]", "\0"])
LINES = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=60)
TYPES = st.sampled_from(
    [
        "image/jpeg",
        "image/png",
        "image/",
        "application/octet-stream",
        "application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary="a b"',
        "multipart/form-data; boundary=ümlaut",
        "multipart/form-data; boundary=" + "b" * 300,
        "multipart/mixed; boundary=b",
        "",
        ";;;=",
    ]
)
CONTRACT = st.sampled_from(
    ["camera-id", "camera_id", "mac", "tags", "source", "autoupload", "creation-date", "creation_date"]
)
OTHERS = st.sampled_from(
    [
        "x-request-id",
        "expect",
        "upgrade",
        "connection",
        "transfer-encoding",
        "content-encoding",
        "range",
        "cookie",
        "accept",
        "if-none-match",
        "te",
        "forwarded",
        "http2-settings",
        "sec-websocket-key",
        "sec-websocket-version",
        "authorization",
        "content-length",
        "host",
        "content-disposition",
        "origin",
        "x-forwarded-for",
    ]
)
VALUES = st.one_of(
    LINES,
    st.sampled_from(
        [
            *("filtered", "all", "disabled", "2026-11-23_10:11:12.123", "0000-00-00", "9999-12-31T23:59:60Z", ",,,"),
            *("websocket", "h2c", "100-continue", "chunked", "gzip", "identity, chunked", "close", "keep-alive"),
            *(
                "-1",
                "0",
                "1e9",
                "99999999999999999999",
                "bytes=0-",
                "a" * 5000,
                "\t",
                "%00",
                "${jndi:ldap://x}",
                "null",
            ),
        ]
    ),
)
HEADERS = st.lists(st.tuples(st.one_of(CONTRACT, OTHERS), VALUES), max_size=6)
QUERIES = st.one_of(
    st.just(""),
    st.lists(st.tuples(CONTRACT, LINES), max_size=4).map(lambda pairs: str(httpx.QueryParams(pairs))),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60),
    st.sampled_from(["%", "%ff", "tags=%ff%fe", "&&&", "=", "a[b]=1", "tags=" + "x," * 2000, "autoupload=all"]),
)


def form(data: st.DataObject, image: bytes) -> tuple[str, bytes]:
    """Type and body of a form that may be well or ill."""
    boundary = data.draw(st.sampled_from(["b", "----x", "b" * 70, "'()+_,-./:=?", "ümlaut", "a b"]), "boundary")
    parts = []
    for number in range(data.draw(st.integers(0, 4), "parts")):
        line = f'form-data; name="{data.draw(names, "name")}"'
        if data.draw(st.booleans(), "is file"):
            line += data.draw(st.sampled_from(['; filename="a.jpg"', "; filename=", '; filename="', "; filename*=x"]))
        extra = data.draw(
            st.sampled_from(["", "Content-Type: image/jpeg\r\n", "broken\r\n", "X: " + "y" * 9000 + "\r\n"])
        )
        content = image if number == 0 else data.draw(st.binary(max_size=50), "content")
        head = f"--{boundary}\r\nContent-Disposition: {line}\r\n{extra}\r\n".encode("latin-1")
        parts.append(head + content + b"\r\n")
    end = data.draw(st.sampled_from([b"--%s--\r\n", b"--%s--", b"--%s", b"", b"\r\n--%s--trailing"]), "end")
    body = b"".join(parts) + end.replace(b"%s", boundary.encode("latin-1"))
    return f"multipart/form-data; boundary={boundary}", body


def chunked(data: st.DataObject, body: bytes) -> bytes:
    """The body in chunks, the last of which may be missing or wrong."""
    at = data.draw(st.integers(0, len(body)), "chunk")
    chunks = [b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:at], body[at:]) if part]
    end = data.draw(
        st.sampled_from([b"0\r\n\r\n"] * 5 + [b"", b"zz\r\n", b"ffffffffffffffffff\r\n", b"-1\r\n"]), "last"
    )
    return b"".join(chunks) + end


def request(
    data: st.DataObject, method: str, path: str, body: bytes, content_type: str, headers: list[tuple[str, str]]
) -> bytes:
    """A request that is whole, or not quite."""
    query = data.draw(QUERIES, "query")
    version = data.draw(st.sampled_from(["1.1"] * 8 + ["1.0", "0.9", "2.0", "x"]), "version")
    framing = data.draw(
        st.sampled_from(["length"] * 6 + ["chunked"] * 3 + ["too long", "too short", "none"]), "framing"
    )
    lines = [f"{method} {path}{'?' * bool(query)}{query} HTTP/{version}", "Host: node", f"Content-Type: {content_type}"]
    length = {"length": len(body), "too long": len(body) + 7, "too short": len(body) // 2}
    if framing == "chunked":
        lines.append("Transfer-Encoding: chunked")
        body = chunked(data, body)
    elif framing != "none":
        lines.append(f"Content-Length: {length[framing]}")
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def accept(status: int, body: bytes) -> None:
    """A refusal is the client's fault and says so as JSON; 503 is an answer, too."""
    assert status < 500 or status == 503, body
    if status in (404, 405, 413, 422):
        assert re.fullmatch(rb'\{"detail":".*"\}', body, re.DOTALL) or not body, body  # none after HEAD


@settings(fuzz, max_examples=3 * EXAMPLES)
@given(data=st.data())
def test_damaged_images(target: Target, images: list[bytes], data: st.DataObject) -> None:
    """Damaged images in good requests: 200 where they can be read all the same, else 422; and nothing else."""
    image = damaged(data, data.draw(st.sampled_from(images), "image"))
    head = "POST /detect HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: image/jpeg\r\ncontent-length: {}\r\n\r\n"
    status, body = target.send(head.format(len(image)).encode() + image, pause_s=ANSWER_S)
    assert status in (200, 422), body


@settings(fuzz, max_examples=3 * EXAMPLES)
@given(data=st.data())
def test_detections_asked_for_in_odd_ways(target: Target, images: list[bytes], data: st.DataObject) -> None:
    """Odd forms, headers, queries and framings around images."""
    image = damaged(data, data.draw(st.sampled_from(images), "image"))
    if data.draw(st.booleans(), "as form"):
        content_type, image = form(data, image)
    else:
        content_type = data.draw(TYPES, "type")
    headers = data.draw(HEADERS, "headers")
    accept(*target.send(request(data, "POST", "/detect", image, content_type, headers)))


@pytest.mark.parametrize("path", PATHS)
@fuzz
@given(data=st.data())
def test_every_endpoint(target: Target, images: list[bytes], path: str, data: st.DataObject) -> None:
    """Odd requests of all methods, with all sorts of bodies."""
    method = data.draw(
        st.sampled_from([PATHS[path]] * 6 + ["GET", "POST", "PUT", "HEAD", "OPTIONS", "TRACE", "g\xebt"])
    )
    path += data.draw(st.sampled_from([""] * 6 + ["/", "/..", "%00", "%ff", "//", ";x", "/../../etc/passwd"]), "tail")
    bodies = st.one_of(st.binary(max_size=300), st.sampled_from([b"", b"on", b"off", b"{}", b"\xff", *images]))
    body = data.draw(bodies, "body")
    accept(*target.send(request(data, method, path, body, data.draw(TYPES, "type"), data.draw(HEADERS, "headers"))))


GARBAGE = st.one_of(
    st.binary(max_size=3000),
    st.sampled_from(
        [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9) + b"\xff" * 40,
            b"GET * HTTP/1.1\r\n\r\n",
            b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n",
            b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n",
            b"GET http://elsewhere/about HTTP/1.1\r\nhost: x\r\n\r\n",
            b"GET \xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
            b"GET /about HTTP/1.1\r\n\r\n",
            b"GET /about HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
            b"GET /about HTTP/1.1\nhost: a\n\n",
            b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
            b"GET /about HTTP/1.1\r\nhost: x\r\n" + b"x: y\r\n" * 20_000,
            b"GET /about HTTP/1.1\r\nhost: x\r\n folded\r\n\r\n",
            b"GET /about HTTP/1.1\r\nhost: x\r\n\r\n" * 200,
            b"GET /about HTTP/1.1\r\nhost: x\r\nupgrade: h2c\r\nconnection: upgrade, http2-settings\r\n"
            b"http2-settings: AAMAAABkAAQAAP__\r\n\r\n",
            b"GET /detect HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" + b"\x88\x80abcd",
            b"POST /detect HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
            b"POST /detect HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
            b"POST /detect HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        ]
    ),
)


@settings(fuzz, max_examples=2 * EXAMPLES)
@given(st.lists(GARBAGE, min_size=1, max_size=3).map(b"".join))
def test_garbage_instead_of_http(target: Target, garbage: bytes) -> None:
    """Bytes that are no HTTP, or only look like it."""
    accept(*target.send(garbage))
