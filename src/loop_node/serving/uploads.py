"""The images in a request: as multipart files, or as the raw body."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, cast

from attrs import define, frozen
from quart import Request, current_app
from werkzeug.exceptions import RequestEntityTooLarge

from loop_node.errors import InputError, Overloaded, TooLarge

from .bodies import set_body_limit
from .parts import read_disposition

__all__ = ["BodyBudget", "Upload", "read_body", "read_image", "split_multipart"]

_MAX_PARTS: Final = 1000
_MAX_HEAD_BYTES: Final = 4 << 10
_MAX_BOUNDARY: Final = 200  # RFC 2046 allows 70, and some clients use more


@frozen
class Upload:
    """One part of a multipart body; `filename` is None for a form field without a file."""

    name: str
    filename: str | None
    data: bytes


@define
class BodyBudget:
    """How many bytes of request bodies may be in memory at once.

    Args:
        limit_bytes: For all requests together.
        largest_bytes: What a body of unknown length counts as.
    """

    limit_bytes: int
    largest_bytes: int
    used_bytes: int = 0

    @contextmanager
    def take(self, length_bytes: int | None) -> Iterator[None]:
        """Count a body of this length (None: unknown) for the length of the block.

        Raises:
            Overloaded: There is no room for it beside the others.
        """
        wanted = self.largest_bytes if length_bytes is None else min(length_bytes, self.largest_bytes)
        if self.used_bytes and self.used_bytes + wanted > self.limit_bytes:
            raise Overloaded("the bodies of other requests take all memory that is meant for them")
        self.used_bytes += wanted
        try:
            yield
        finally:
            self.used_bytes -= wanted


async def read_image(request: Request, *, field: str) -> bytes:
    """The one image of a request, still encoded: the multipart field `field`, or a body of type `image/...`.

    Raises:
        InputError: No image or more than one; the text says what is accepted.
        TooLarge: More parts than a form may have.
    """
    body = await read_body(request)
    if request.mimetype.startswith("image/") or request.mimetype == "application/octet-stream":
        return body
    if request.mimetype != "multipart/form-data":
        raise InputError(
            f"no image: send multipart/form-data with the field '{field}', or the image itself as image/jpeg or image/png"
            f" (this body is {request.mimetype or 'of no stated type'})"
        )
    parts = split_multipart(body, request.mimetype_params.get("boundary", ""))
    images = [part.data for part in parts if part.name == field and (part.filename is not None or part.data)]
    if len(images) == 1:
        return images[0]
    if images:
        raise InputError(f"field '{field}': {len(images)} images came, send exactly one per request")
    others = ", ".join(sorted({repr(part.name) for part in parts})) or "none"
    raise InputError(f"field '{field}' is missing: it must hold the image (fields that came: {others})")


async def read_body(request: Request, *, max_bytes: int | None = None) -> bytes:
    """The whole body.

    Args:
        request: Its body must not have been asked for.
        max_bytes: A bound below the app's MAX_BODY_BYTES.

    Raises:
        TooLarge: More than one of the two.
        werkzeug.exceptions.RequestTimeout: It did not come within BODY_TIMEOUT.
    """
    limit_bytes = current_app.config["MAX_BODY_BYTES"]
    if max_bytes is not None:
        limit_bytes = min(limit_bytes, max_bytes)
        set_body_limit(request, limit_bytes)
    too_large = TooLarge(f"the body is larger than {limit_bytes} bytes")
    try:
        body = cast(bytes, await request.get_data(cache=False))
    except RequestEntityTooLarge:
        raise too_large from None
    if len(body) > limit_bytes:  # the app itself lets Socket.IO's long-polling have more
        raise too_large
    return body


def split_multipart(body: bytes, boundary: str) -> list[Upload]:
    """Take a multipart/form-data body apart (RFC 7578 on RFC 2046, section 5.1), in time linear in its length.

    The well-kept parsers need seconds for crafted bodies of a few megabytes, and hold up all other work meanwhile.

    Raises:
        InputError: The body does not follow the form its headers announce.
        TooLarge: It has more than 1000 parts.
    """
    if not 1 <= len(boundary) <= _MAX_BOUNDARY or not boundary.isascii():
        raise InputError("the multipart body is broken: Content-Type names no usable boundary")
    delimiter = b"\r\n--" + boundary.encode()
    if body.startswith(delimiter[2:]):
        at = len(delimiter) - 2
    elif (found := body.find(delimiter)) >= 0:
        at = found + len(delimiter)
    else:
        raise InputError("the multipart body is broken: it does not hold the boundary that Content-Type names")
    parts: list[Upload] = []
    while not body.startswith(b"--", at):
        if len(parts) == _MAX_PARTS:
            raise TooLarge(f"a multipart body may have {_MAX_PARTS} parts")
        head, start = _read_head(body, at)
        end = body.find(delimiter, start - 2)  # the line end of the head may be the delimiter's: an empty part
        if end < 0:
            raise InputError("the multipart body is broken: it ends inside a part")
        parts.append(_part(head, body[start : max(start, end)]))
        at = end + len(delimiter)
    return parts


def _read_head(body: bytes, at: int) -> tuple[bytes, int]:
    """The lines of the part that begins behind a delimiter, and where its content begins."""
    limit = at + _MAX_HEAD_BYTES
    line_end = body.find(b"\r\n", at, limit)
    head_end = body.find(b"\r\n\r\n", line_end, limit) if line_end >= 0 else -1
    if head_end < 0 or body[at:line_end].strip(b" \t"):
        raise InputError(f"the multipart body is broken: a part's head does not end within {_MAX_HEAD_BYTES} bytes")
    return body[line_end + 2 : head_end], head_end + 4


def _part(head: bytes, data: bytes) -> Upload:
    for line in head.decode("utf-8", "replace").split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-disposition":
            said = read_disposition(value.strip())
            return Upload(said.field, said.filename, data)
    raise InputError("the multipart body is broken: a part has no Content-Disposition")
