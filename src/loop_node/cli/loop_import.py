"""`loop-node loop import`: files that are no JPEG are named before anything is sent; the rest goes in batches.

A batch is taken in whole or not at all. What ends the import in the middle, a fault or Ctrl-C, does not take back the
batches before; how many images they held is said then.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import trio

from loop_node.errors import InputError
from loop_node.local_loop.coco_files import CocoParts, read_coco_file
from loop_node.loop.client import LoopClient
from loop_node.loop.multipart import FilePart

from .terminal import complain, counted, progress, say, unusable

__all__ = ["import_images"]

_IMAGES_AT_ONCE: Final = 50
_BYTES_AT_ONCE: Final = 32 << 20
_NAMED_AT_ONCE: Final = 20
_START_OF_JPEG: Final = b"\xff\xd8\xff"


async def import_images(client: LoopClient, options: argparse.Namespace) -> None:
    """Send JPEG files, with what a COCO file says of them.

    Raises:
        InputError: Files that cannot be read or are no JPEG, or a COCO file that is none; nothing was sent.
        LoopError: The Loop did not take a batch.
    """
    files = await trio.to_thread.run_sync(_jpeg_files, options.paths)
    coco = await trio.to_thread.run_sync(read_coco_file, options.annotations) if options.annotations else None
    say(f"imported {counted(await _send(client, options, files, coco), 'image')}")
    left = coco.names - {file.name for file in files} if coco else set()
    if left:
        were = "was" if len(left) == 1 else "were"
        say(f"{counted(len(left), 'image')} of the COCO file {were} not among them, for example {min(left)}")


async def _send(client: LoopClient, options: argparse.Namespace, files: Sequence[Path], coco: CocoParts | None) -> int:
    """Send all files; returns how many the Loop took."""
    fields = {"state": [options.state], "set": [options.data_set], "tags": [",".join(options.tags)]}
    imported = handled = 0
    try:
        with progress(len(files), "images") as advance:
            for batch in _batches(files):
                parts = _parts(batch, coco)
                answer = await client.send_files("POST", f"{options.place.local}/import", parts, fields=fields)
                imported += answer["imported"]
                handled += len(batch)
                advance(len(batch))
    finally:
        if 0 < handled < len(files):
            complain(
                f"{imported} of {len(files)} images were imported before this, up to {files[handled - 1]}; "
                "importing them again would store them twice"
            )
    return imported


def _jpeg_files(paths: Sequence[Path]) -> list[Path]:
    """What the paths stand for. Blocking."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(file for file in path.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg"))
        elif path.is_file():
            files.append(path)
        else:
            raise InputError(f"there is no file or folder {path}")
    if not files:
        raise InputError(f"no .jpg or .jpeg file in {', '.join(map(str, paths))}")
    if faults := [fault for file in files if (fault := _fault(file))]:
        more = len(faults) - _NAMED_AT_ONCE
        named = faults[:_NAMED_AT_ONCE] + ([f"and {counted(more, 'more file')}"] if more > 0 else [])
        raise InputError(f"nothing was imported: {'; '.join(named)}")
    return files


def _fault(file: Path) -> str | None:
    """Why a file is not to be sent; whether it is a JPEG to its end is for the Loop to say."""
    try:
        with file.open("rb") as opened:
            start = opened.read(len(_START_OF_JPEG))
    except OSError as error:
        return unusable(error)
    return None if start == _START_OF_JPEG else f"{file} is no JPEG"


def _batches(files: Sequence[Path]) -> Iterator[list[Path]]:
    batch: list[Path] = []
    size_bytes = 0
    for file in files:
        own_bytes = file.stat().st_size
        is_second_of_its_name = file.name in {one.name for one in batch}
        if batch and (
            len(batch) == _IMAGES_AT_ONCE or size_bytes + own_bytes > _BYTES_AT_ONCE or is_second_of_its_name
        ):
            yield batch
            batch, size_bytes = [], 0
        batch.append(file)
        size_bytes += own_bytes
    yield batch


def _parts(batch: Sequence[Path], coco: CocoParts | None) -> list[FilePart]:
    parts = [FilePart(field="files", filename=file.name, content=file, content_type="image/jpeg") for file in batch]
    if coco is not None:
        document = coco.part_for({file.name for file in batch})
        parts.append(
            FilePart(field="annotations", filename="coco.json", content=document, content_type="application/json")
        )
    return parts
