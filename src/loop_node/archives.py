"""Model zips unpacked so that a hostile or broken one harms nothing: it writes only below its own folder, or not at all."""

import hashlib
import lzma
import shutil
import stat
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Final

from loop_node.errors import ModelError

__all__ = ["MAX_ENTRIES", "MAX_UNPACKED_BYTES", "copy_entries", "read_file", "unpack"]

MAX_UNPACKED_BYTES: Final = 4 * 2**30
MAX_ENTRIES: Final = 10_000
_LONGEST_END_BYTES: Final = 22 + 0xFFFF + 20  # with its comment, and what points to a zip64 end
_IN_ZIP64: Final = 0xFFFF
_CHUNK_BYTES: Final = 2**20
_MAX_NAME_BYTES: Final = 255
_UNFINISHED: Final = "unfinished-"
_A_DAY_S: Final = 24 * 3600


def unpack(archive: Path, into: Path, *, max_bytes: int = MAX_UNPACKED_BYTES, max_entries: int = MAX_ENTRIES) -> Path:
    """Unpack a zip into a folder below `into` that is named for its content. Blocking.

    The folder appears whole or not at all, so one that is there already is used as it is.

    Returns:
        The folder.

    Raises:
        ModelError: It is no zip, is broken, is over a bound, or names something outside of its folder;
            or the disk is at fault, whose error is the cause then.
    """
    with _usable(str(archive)):
        with archive.open("rb") as stream:
            name = f"{archive.stem}-{hashlib.file_digest(stream, 'sha256').hexdigest()[:12]}"
        folder = into / name
        if not folder.is_dir():
            into.mkdir(parents=True, exist_ok=True)
            _sweep(into)
            _unpack_whole(archive, folder, max_bytes, max_entries)
    return folder


def copy_entries(
    archive: Path,
    sink: zipfile.ZipFile,
    *,
    called: str,
    leave_out: Container[str] = (),
    max_bytes: int = MAX_UNPACKED_BYTES,
    max_entries: int = MAX_ENTRIES,
) -> list[str]:
    """Copy the files of a zip into another one, checked as `unpack` checks them. Blocking.

    Args:
        archive: The zip.
        sink: Open for writing.
        called: The zip's name for messages.
        leave_out: Names that are not copied.
        max_bytes: Of all files, unpacked.
        max_entries: Of files and folders.

    Returns:
        The names that were copied.

    Raises:
        ModelError: As `unpack`.
    """
    copied: dict[str, None] = {}
    folders: set[str] = set()
    with _usable(called), _opened(archive, called, max_entries) as source:
        room_bytes = max_bytes
        for entry in source.infolist():
            name = str(_checked_name(called, entry))
            if entry.is_dir() or name in leave_out:
                continue
            above = [str(folder) for folder in PurePosixPath(name).parents]
            if name in copied or name in folders or not copied.keys().isdisjoint(above):
                raise ModelError(f"{called} holds {name!r} twice")
            copied[name] = None
            folders.update(above)
            with source.open(entry) as content, sink.open(name, "w", force_zip64=True) as copy:
                room_bytes = _copy(called, content, copy, room_bytes, max_bytes)
    return list(copied)


def read_file(archive: Path, name: str, *, called: str, max_bytes: int) -> bytes | None:
    """One file of a zip; None if it has none of this name. Blocking.

    Raises:
        ModelError: No usable zip, or the file has more than `max_bytes`.
    """
    with _usable(called), _opened(archive, called, MAX_ENTRIES) as source:
        entries = [entry for entry in source.infolist() if str(PurePosixPath(entry.filename)) == name]
        if not entries:
            return None
        with source.open(entries[0]) as content:
            data = content.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ModelError(f"{called}: {name} has more than {max_bytes} bytes")
    return data


@contextmanager
def _usable(called: str) -> Iterator[None]:
    """Tell what is wrong with a zip, whichever way the library says it."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, ValueError) as error:
        raise ModelError(f"{called} is no usable zip: {error}") from None
    except RuntimeError as error:  # how zipfile says that a password is needed
        raise ModelError(f"{called} cannot be unpacked: {error}") from None
    except OSError as error:
        raise ModelError(f"{called} cannot be unpacked: {error}") from error  # the disk, not the zip


def _announced_entries(archive: Path) -> int:
    """How many entries the end of a zip announces (APPNOTE.TXT, 4.3.14 and 4.3.16); 0 where it cannot be told.

    To be looked at first: the library reads a directory of any length before it says how long it is.
    """
    with archive.open("rb") as stream:
        stream.seek(max(0, archive.stat().st_size - _LONGEST_END_BYTES))
        tail = stream.read()
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or len(tail) < at + 22:
            return 0
        (entries,) = struct.unpack_from("<H", tail, at + 10)
        locator = tail.rfind(b"PK\x06\x07", 0, at)
        if entries == _IN_ZIP64 and locator >= 0:
            (place,) = struct.unpack_from("<Q", tail, locator + 8)
            stream.seek(place)
            end = stream.read(40)
            return int(struct.unpack_from("<Q", end, 32)[0]) if end.startswith(b"PK\x06\x06") else 0
    return int(entries)


@contextmanager
def _opened(archive: Path, called: str, max_entries: int) -> Iterator[zipfile.ZipFile]:
    announced = _announced_entries(archive)
    if announced > max_entries:
        raise ModelError(f"{called} has {announced} entries, more than {max_entries}")
    with zipfile.ZipFile(archive) as opened:
        entries = len(opened.infolist())
        if entries > max_entries:
            raise ModelError(f"{called} has {entries} entries, more than {max_entries}")
        yield opened


def _unpack_whole(archive: Path, folder: Path, max_bytes: int, max_entries: int) -> None:
    with (
        _opened(archive, str(archive), max_entries) as unpacked,
        tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=folder.parent) as name,
    ):
        whole = Path(name) / "model"
        whole.mkdir()
        room_bytes = max_bytes
        for entry in unpacked.infolist():
            target = whole / _checked_name(str(archive), entry)
            if entry.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with unpacked.open(entry) as source, target.open("xb") as sink:
                room_bytes = _copy(str(archive), source, sink, room_bytes, max_bytes)
        try:
            whole.rename(folder)
        except OSError:
            if not folder.is_dir():  # if it is, another node has unpacked the same content meanwhile
                raise


def _sweep(into: Path) -> None:
    """Remove what unpackings that were killed have left; young ones may belong to another node."""
    for left in into.glob(f"{_UNFINISHED}*"):
        if time.time() - left.stat().st_mtime > _A_DAY_S:
            shutil.rmtree(left, ignore_errors=True)


def _checked_name(archive: str, entry: zipfile.ZipInfo) -> PurePosixPath:
    path = PurePosixPath(entry.filename)
    if path.is_absolute() or ".." in path.parts or "\\" in entry.filename or ":" in entry.filename:
        raise ModelError(f"{archive} names a file outside of its folder: {entry.filename!r}")
    if not path.parts or any(len(part.encode()) > _MAX_NAME_BYTES for part in path.parts):
        raise ModelError(f"{archive} holds a name that no file can have: {entry.filename[:100]!r}")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise ModelError(f"{archive} holds a symbolic link: {entry.filename!r}")
    return path


def _copy(archive: str, source: IO[bytes], sink: IO[bytes], room_bytes: int, max_bytes: int) -> int:
    """Copy what really is in the archive, whatever its directory claims; returns the room that is left."""
    while chunk := source.read(_CHUNK_BYTES):
        room_bytes -= len(chunk)
        if room_bytes < 0:
            raise ModelError(f"{archive} unpacks to more than {max_bytes} bytes")
        sink.write(chunk)
    return room_bytes
