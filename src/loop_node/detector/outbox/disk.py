"""All that the outbox does to a disk, one call site each: the seam at which tests fail calls and cut the power."""

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from io import FileIO
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from attrs import define

from loop_node.durable import sync_folder

__all__ = ["Disk", "Entry", "NewFile", "RealDisk"]

_FOLDERS_CAN_BE_SYNCED: Final = os.name == "posix"


class Entry(NamedTuple):
    """A name in a folder."""

    name: str
    is_folder: bool


class NewFile(Protocol):
    """A file that is being written."""

    def write(self, data: bytes) -> None:
        """Append all of `data`."""
        ...

    def sync(self) -> None:
        """Return when what was written survives a loss of power."""
        ...


class Disk(Protocol):
    """A file system. Everything blocks and may raise `OSError`."""

    def create(self, path: Path) -> AbstractContextManager[NewFile]:
        """Open a file for writing; one of the same name is emptied first."""
        ...

    def read(self, path: Path) -> bytes:
        """The whole content of a file."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Give a file or folder another name, in one step; a file of that name is replaced."""
        ...

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        ...

    def make_folder(self, path: Path) -> bool:
        """Make a folder; False if it was there."""
        ...

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        ...

    def sync_folder(self, path: Path) -> None:
        """Return when the names in a folder survive a loss of power."""
        ...

    def scan(self, path: Path) -> Iterator[Entry]:
        """The names in a folder, in any order."""
        ...

    def changed_at_s(self, path: Path) -> float:
        """When a file was last written, in seconds since the epoch."""
        ...

    def free_bytes(self, path: Path) -> int:
        """Room that is left for us on the disk that holds the folder."""
        ...


@define
class _RealFile:
    _stream: FileIO

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._stream.write(rest) :]

    def sync(self) -> None:
        os.fsync(self._stream.fileno())


class RealDisk:
    """The disk of this machine."""

    @contextmanager
    def create(self, path: Path) -> Iterator[NewFile]:
        """See `Disk`."""
        with path.open("wb", buffering=0) as stream:
            yield _RealFile(stream)

    def read(self, path: Path) -> bytes:
        """See `Disk`."""
        return path.read_bytes()

    def rename(self, source: Path, target: Path) -> None:
        """See `Disk`."""
        source.replace(target)

    def unlink(self, path: Path) -> None:
        """See `Disk`."""
        path.unlink()

    def make_folder(self, path: Path) -> bool:
        """See `Disk`."""
        if path.is_dir():
            return False
        path.mkdir()
        return True

    def remove_folder(self, path: Path) -> None:
        """See `Disk`."""
        path.rmdir()

    def sync_folder(self, path: Path) -> None:
        """See `Disk`."""
        if not _FOLDERS_CAN_BE_SYNCED:
            return
        sync_folder(path)

    def scan(self, path: Path) -> Iterator[Entry]:
        """See `Disk`."""
        with os.scandir(path) as entries:
            for entry in entries:
                yield Entry(entry.name, entry.is_dir(follow_symlinks=False))

    def changed_at_s(self, path: Path) -> float:
        """See `Disk`."""
        return path.stat().st_mtime

    def free_bytes(self, path: Path) -> int:
        """See `Disk`."""
        return shutil.disk_usage(path).free
