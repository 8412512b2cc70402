"""Forms with files of any size: each file goes to disk as it comes, through one block of memory.

Below the folder a caller names, each request has a folder `received-...` of its own, in which its files are called
`0000`, `0001` and so on; what clients call them never becomes a path. That folder goes when the request ends. One that is
there when no request is can only be left from a crash.
"""

import errno
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trio
from attrs import define, field, frozen
from quart import Request
from werkzeug.exceptions import RequestEntityTooLarge, RequestTimeout

from loop_node.errors import Malformed, StorageFull, TooLarge

from .parts import PartEvent, PartHead, reader_for

__all__ = ["RECEIVED_PREFIX", "ReceivedFile", "ReceivedForm", "receive_form"]

RECEIVED_PREFIX: Final = "received-"
_BLOCK_BYTES: Final = 1 << 20
_MAX_FIELDS: Final = 1000
_CLEAN_UP_S: Final = 60
_DISK_FULL: Final = {errno.ENOSPC, errno.EDQUOT}


@frozen(kw_only=True)
class ReceivedFile:
    """A file that came; `filename` is what the client calls it and no more than a label, empty if it does not say."""

    field: str
    filename: str
    path: Path
    size_bytes: int


@frozen(kw_only=True)
class ReceivedForm:
    """A whole form, its parts in the order in which they came."""

    files: list[ReceivedFile]
    fields: dict[str, list[str]]


def _append(path: Path, block: bytearray) -> None:
    """Opened anew for each block, so that no file is ever left open."""
    with path.open("ab") as file:
        file.write(block)


@asynccontextmanager
async def receive_form(
    request: Request,
    *,
    folder: Path,
    max_bytes: int,
    max_files: int = 1000,
    max_field_bytes: int = 1 << 20,
    append: Callable[[Path, bytearray], None] = _append,
) -> AsyncIterator[ReceivedForm]:
    """Receive a multipart form, or a body that is one file, for the length of the block.

    The files are not synced. What shall outlive the block is to be renamed out of its folder. Cancelled, nothing stays.

    Args:
        request: Its body must not have been asked for.
        folder: Where its folder is made; made itself if need be.
        max_bytes: Of the whole body.
        max_files: In one form.
        max_field_bytes: Of all parts together that are no files: they are held in memory.
        append: Writes a block behind a file, or makes it; blocking.

    Raises:
        InputError: Neither a form nor a file.
        Malformed: The form is broken, ends inside a part or has a field that is no text.
        TooLarge: It is over one of the bounds.
        StorageFull: The disk has no room for it.
        werkzeug.exceptions.RequestTimeout: Nothing came for BODY_TIMEOUT.
    """
    reader = reader_for(
        request.mimetype,
        request.mimetype_params,
        request.headers.get("Content-Disposition", ""),
        max_parts=max_files + _MAX_FIELDS,
    )
    with _full_disk_told():
        own_folder = Path(await trio.to_thread.run_sync(_make_folder, folder))
    try:
        spool = _Spool(own_folder, max_files, max_field_bytes, append)
        with _full_disk_told():
            async for data in _Pieces(request, max_bytes):
                for event in reader.feed(data):
                    await spool.take(event)
            for event in reader.end():
                await spool.take(event)
        yield ReceivedForm(files=spool.files, fields=spool.fields)
    finally:
        with trio.move_on_after(_CLEAN_UP_S, shield=True):
            await trio.to_thread.run_sync(partial(shutil.rmtree, own_folder, ignore_errors=True))


class _Pieces:
    """The body in pieces, each of which has to come in time."""

    def __init__(self, request: Request, max_bytes: int) -> None:
        self._body = request.body
        self._idle_s = float("inf") if request.body_timeout is None else request.body_timeout
        self._max_bytes = max_bytes
        self._received_bytes = 0

    def __aiter__(self) -> "_Pieces":
        return self

    async def __anext__(self) -> bytes:
        too_large = TooLarge(f"the body is larger than {self._max_bytes} bytes")
        with trio.move_on_after(self._idle_s) as idle:
            try:
                data = await anext(self._body)
            except RequestEntityTooLarge:
                raise too_large from None
        if idle.cancelled_caught:
            raise RequestTimeout
        self._received_bytes += len(data)
        if self._received_bytes > self._max_bytes:
            raise too_large
        return data


@define
class _Spool:
    _folder: Path
    _max_files: int
    _max_field_bytes: int
    _append: Callable[[Path, bytearray], None]
    files: list[ReceivedFile] = field(init=False, factory=list)
    fields: dict[str, list[str]] = field(init=False, factory=dict)
    _head: PartHead = field(init=False, default=PartHead("", None))
    _block: bytearray = field(init=False, factory=bytearray)
    _written_bytes: int = field(init=False, default=0)
    _field_bytes: int = field(init=False, default=0)

    async def take(self, event: PartEvent) -> None:
        if isinstance(event, PartHead):
            self._begin(event)
        elif event is None:
            await self._end()
        else:
            await self._add(event)

    def _begin(self, head: PartHead) -> None:
        if head.filename is not None and len(self.files) == self._max_files:
            raise TooLarge(f"a form may have {self._max_files} files")
        self._head = head
        self._written_bytes = 0

    async def _add(self, data: bytes | bytearray) -> None:
        self._block += data
        if self._head.filename is None:
            self._field_bytes += len(data)
            if self._field_bytes > self._max_field_bytes:
                raise TooLarge(f"the fields of a form that are no files may have {self._max_field_bytes} bytes")
        elif len(self._block) >= _BLOCK_BYTES:
            await self._write()

    async def _end(self) -> None:
        name, filename = self._head.field, self._head.filename
        if filename is None:
            self.fields.setdefault(name, []).append(_text(name, self._block))
            self._block.clear()
            return
        if self._block or not self._written_bytes:
            await self._write()
        size_bytes = self._written_bytes
        self.files.append(ReceivedFile(field=name, filename=filename, path=self._path(), size_bytes=size_bytes))

    async def _write(self) -> None:
        block, self._block = self._block, bytearray()
        await trio.to_thread.run_sync(self._append, self._path(), block)
        self._written_bytes += len(block)

    def _path(self) -> Path:
        return self._folder / f"{len(self.files):04}"


def _text(name: str, data: bytearray) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Malformed(f"field '{name}' is no UTF-8 text; a file has to have a filename") from None


def _make_folder(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    return tempfile.mkdtemp(prefix=RECEIVED_PREFIX, dir=folder)


@contextmanager
def _full_disk_told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        raise StorageFull("the disk has no room for what was sent; nothing of it was kept") from error
