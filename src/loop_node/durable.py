"""Files that are there whole after a power cut, or as they were before. Blocking."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

__all__ = ["make_folder", "read_json", "remove", "sync_file", "sync_files", "sync_folder", "sync_tree", "write_json"]

_MAX_JSON_BYTES: Final = 1 << 20


def write_json(path: Path, value: object) -> None:
    """Replace a file by `value` as JSON; a power cut leaves the old file or the new one.

    Raises:
        OSError: The disk did not take it; the old file is untouched.
    """
    fresh = path.with_name(f"{path.name}.new")
    with fresh.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, ensure_ascii=True, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(path)
    sync_folder(path.parent)


def read_json(path: Path) -> Any:
    """What a file of ours says; None if it is not there.

    Raises:
        ValueError: It is no JSON, or far larger than any of ours.
        OSError: It cannot be read.
    """
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError(f"it is larger than {_MAX_JSON_BYTES} bytes")
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def sync_file(file: Path) -> None:
    """Make the content of a file survive a power cut."""
    _sync(file, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_files(files: Iterable[Path]) -> None:
    """Make the content of files survive a power cut, and their names."""
    folders = set()
    for file in files:
        sync_file(file)
        folders.add(file.parent)
    for folder in folders:
        sync_folder(folder)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that they survive a power cut."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_tree(folder: Path) -> None:
    """Make a folder with all that is in it survive a power cut."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync_file(Path(parent, name))
        sync_folder(Path(parent))


def remove(path: Path) -> None:
    """Remove whatever is there: a file, a link (never what it points to), a folder, nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
