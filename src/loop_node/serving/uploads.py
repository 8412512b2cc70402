"""The images in a request: as multipart files, or as the raw body."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from attrs import define, frozen
from quart import Request
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from loop_node.errors import InputError, Overloaded, TooLarge

__all__ = ["BodyBudget", "Upload", "read_body", "read_image", "split_multipart"]

_MAX_PARTS = 1000


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


async def read_body(request: Request) -> bytes:
    """The whole body.

    Raises:
        werkzeug.exceptions.RequestEntityTooLarge: More than MAX_CONTENT_LENGTH.
        werkzeug.exceptions.RequestTimeout: It did not come within BODY_TIMEOUT.
    """
    return cast(bytes, await request.get_data(cache=False))


def split_multipart(body: bytes, boundary: str) -> list[Upload]:
    """Take a multipart/form-data body (RFC 7578) apart.

    Raises:
        InputError: The body does not follow the form its headers announce.
        TooLarge: It has more than 1000 parts.
    """
    try:
        return _parts(MultipartDecoder(boundary.encode("latin-1"), max_parts=_MAX_PARTS), body)
    except RequestEntityTooLarge:
        raise TooLarge(f"a multipart body may have {_MAX_PARTS} parts") from None
    except (ValueError, AttributeError, LookupError) as error:
        raise InputError(f"the multipart body is broken: {error}") from None


def _parts(decoder: MultipartDecoder, body: bytes) -> list[Upload]:
    decoder.receive_data(body)
    decoder.receive_data(None)
    parts: list[Upload] = []
    current: Field | File | None = None
    chunks: list[bytes] = []
    while not isinstance(event := decoder.next_event(), (Epilogue, NeedData)):
        if isinstance(event, (Field, File)):
            current, chunks = event, []
        elif isinstance(event, Data) and current is not None:
            chunks.append(event.data)
            if not event.more_data:
                filename = current.filename if isinstance(current, File) else None
                parts.append(Upload(str(current.name), filename, b"".join(chunks)))
    return parts
