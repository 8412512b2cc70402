"""multipart/form-data written piece by piece, so that what is sent need not fit into memory.

File names keep what is plain ASCII; the rest of them, and what has a meaning of its own in headers or on some file
systems (quotes, backslash, slash, colon, percent), is percent-encoded. Equal names stay equal and different ones
different, so a Loop can pair files by stem whether or not it decodes.
"""

import secrets
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

import attrs
import trio

__all__ = ["FilePart", "Form", "prepare_form"]

CHUNK_BYTES: Final = 64 * 1024
_PLAIN: Final = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) not in '"\\/:%')


@attrs.frozen(kw_only=True)
class FilePart:
    """A file to send.

    Attributes:
        field: Name of the form field; may be that of other parts too.
        filename: What the file is called on the other side.
        content: Its bytes, or where on disk they are.
        content_type: Their media type.
    """

    field: str = "files"
    filename: str
    content: bytes | Path = attrs.field(repr=False)
    content_type: str = "application/octet-stream"


@attrs.frozen(kw_only=True)
class Form:
    """A body of known length; `chunks` may be called again to send it again."""

    content_type: str
    length: int
    _pieces: tuple[tuple[bytes | Path, int], ...]

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body, in pieces of at most 64 KiB; at most one file is open at a time.

        Raises:
            OSError: A file cannot be read, or has changed since the form was prepared.
        """
        for content, size_bytes in self._pieces:
            if isinstance(content, bytes):
                for start in range(0, size_bytes, CHUNK_BYTES):
                    yield content[start : start + CHUNK_BYTES]
                continue
            async with await trio.open_file(content, "rb") as file:
                left_bytes = size_bytes
                while left_bytes:
                    chunk = await file.read(min(CHUNK_BYTES, left_bytes))
                    if not chunk:
                        raise OSError(f"{content} became shorter while it was sent")
                    left_bytes -= len(chunk)
                    yield chunk  # noqa: ASYNC119  # whoever sends it closes the generator


async def prepare_form(parts: Sequence[FilePart], fields: Mapping[str, Sequence[str]]) -> Form:
    """Lay out a form: the fields first, then the files, both in their order.

    Raises:
        OSError: A file is not there.
    """
    boundary = secrets.token_hex(16)
    pieces = [(content, await _size(content)) for content in _layout(boundary, parts, fields)]
    return Form(
        content_type=f"multipart/form-data; boundary={boundary}",
        length=sum(size_bytes for _, size_bytes in pieces),
        pieces=tuple(pieces),
    )


def _layout(boundary: str, parts: Sequence[FilePart], fields: Mapping[str, Sequence[str]]) -> Iterator[bytes | Path]:
    for name, values in fields.items():
        for value in values:
            yield f"{_disposition(boundary, name)}\r\n\r\n{value}\r\n".encode()
    for part in parts:
        disposition = f'{_disposition(boundary, part.field)}; filename="{encoded_name(part.filename)}"'
        yield f"{disposition}\r\nContent-Type: {part.content_type}\r\n\r\n".encode()
        yield part.content
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()


def _disposition(boundary: str, name: str) -> str:
    return f'--{boundary}\r\nContent-Disposition: form-data; name="{encoded_name(name)}"'


def encoded_name(name: str) -> str:
    """A name as it may stand between quotes in a header."""
    return quote(name, safe=_PLAIN, errors="surrogatepass")


async def _size(content: bytes | Path) -> int:
    return len(content) if isinstance(content, bytes) else (await trio.Path(content).stat()).st_size
