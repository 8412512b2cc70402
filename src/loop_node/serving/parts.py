"""The parts of a form as its body comes in; no I/O.

A reader is fed with the body in pieces of any size and answers with events: a `PartHead`, the part's bytes in any number
of pieces, None at its end. It holds back no more than a part's head or a possible boundary, and takes time linear in the
body's length, whatever is in it.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final, Protocol
from urllib.parse import unquote

from attrs import frozen
from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser
from multipart import parse_options_header as parse_header
from werkzeug.http import parse_options_header

from loop_node.errors import InputError, Malformed, TooLarge

__all__ = ["PartEvent", "PartHead", "PartReader", "read_disposition", "reader_for"]

_MAX_HEAD_LINE_BYTES: Final = 4 << 10
_MAX_HEAD_LINES: Final = 16
_MAX_BOUNDARY: Final = 200  # RFC 2046 allows 70, and some clients use more
_EXTENDED_FILENAME: Final = re.compile(r";\s*filename\*=utf-8'[^']{0,20}'([^;\s]*)", re.IGNORECASE)
_FILE_TYPES: Final = ("application/octet-stream", "application/zip", "application/x-zip-compressed")


@frozen
class PartHead:
    """What a part says of itself; `filename` is None for a field that is no file.

    Names are as they were sent, percent signs and all, but for the `%22`, `%0D` and `%0A` that browsers put in place of
    what a quoted name cannot hold. They are the client's words: no paths.
    """

    field: str
    filename: str | None


PartEvent = PartHead | bytes | bytearray | None


class PartReader(Protocol):
    """See above."""

    def feed(self, data: bytes) -> Iterator[PartEvent]:
        """Yield what the next piece of the body brings; to be consumed before the next.

        Raises:
            Malformed: This is no multipart body.
            TooLarge: Too many parts, or a head that is too large.
        """
        ...

    def end(self) -> Iterator[PartEvent]:
        """Yield what the end of the body brings.

        Raises:
            Malformed: It ends inside a part.
        """
        ...


def read_disposition(value: str) -> PartHead:
    """What the `Content-Disposition` of a part says; the well-known parser of the web framework takes ten times as long."""
    _, words = parse_header(value)
    return PartHead(words.get("name", ""), words.get("filename"))


def reader_for(mimetype: str, parameters: Mapping[str, str], disposition: str, *, max_parts: int) -> PartReader:
    """A reader for a body of this `Content-Type` and `Content-Disposition`.

    Raises:
        InputError: This is neither a form nor a file.
        Malformed: A form without a usable boundary.
    """
    if mimetype == "multipart/form-data":
        return _Multipart(parameters.get("boundary", ""), max_parts)
    if mimetype in _FILE_TYPES or mimetype.startswith("image/"):
        _, words = parse_options_header(disposition)
        return _OneFile(words.get("filename", ""))
    raise InputError(
        "no files: send multipart/form-data, or one file itself as application/zip, application/octet-stream or image/..."
        f" (this body is {mimetype or 'of no stated type'})"
    )


class _Multipart:
    """RFC 7578 on RFC 2046, section 5.1."""

    def __init__(self, boundary: str, max_parts: int) -> None:
        if not 1 <= len(boundary) <= _MAX_BOUNDARY or not boundary.isascii() or not boundary.isprintable():
            raise Malformed("the multipart body is broken: Content-Type names no usable boundary")
        self._max_parts = max_parts
        self._parser = PushMultipartParser(
            boundary,
            max_header_size=_MAX_HEAD_LINE_BYTES,
            max_header_count=_MAX_HEAD_LINES,
            max_segment_count=max_parts,
        )

    def feed(self, data: bytes) -> Iterator[PartEvent]:
        try:
            for event in self._parser.parse(data):
                if isinstance(event, MultipartSegment):
                    yield PartHead(event.name, _filename(event))
                else:
                    yield event
        except ParserLimitReached as error:
            raise TooLarge(f"a form may have {self._max_parts} parts with heads of a few lines: {error}") from None
        except MultipartError as error:
            raise Malformed(f"the multipart body is broken: {error}") from None

    def end(self) -> Iterator[PartEvent]:
        try:
            self._parser.close()
        except MultipartError:
            raise Malformed("the multipart body is broken: it ends before its last boundary") from None
        return iter(())


class _OneFile:
    def __init__(self, filename: str) -> None:
        self._head: PartHead | None = PartHead("", filename)

    def feed(self, data: bytes) -> Iterator[PartEvent]:
        if self._head is not None:
            yield self._head
            self._head = None
        yield data

    def end(self) -> Iterator[PartEvent]:
        if self._head is not None:
            yield self._head
        yield None


def _filename(segment: MultipartSegment) -> str | None:
    """In old clients' way too (RFC 5987), which forms are not meant to use."""
    filename: str | None = segment.filename
    if filename is None and (found := _EXTENDED_FILENAME.search(segment.header("Content-Disposition", ""))):
        return unquote(found[1])
    return filename
