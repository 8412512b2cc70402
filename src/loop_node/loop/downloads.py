"""Bytes of unknown size from the network to a new file on disk: whole, or not there."""

import errno
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import trio
from attrs import frozen

from loop_node.errors import StorageFull, TooLarge

__all__ = ["Download", "OnReceived", "store"]

OnReceived = Callable[[int, int | None], None]
"""Called with the bytes that are on disk, and with those of the whole where they are known."""

_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT}


@frozen(kw_only=True)
class Download:
    """A file that came; `filename` is what the sender calls it, for people to read, never a path."""

    filename: str
    size_bytes: int


async def store(
    chunks: AsyncIterator[bytes],
    to: Path,
    *,
    max_bytes: int,
    announced_bytes: int | None,
    on_received: OnReceived,
) -> int:
    """Write what comes to the new file `to`; after an error or a cancellation there is no such file.

    It is not flushed to the disk itself: what is not whole yet after a power cut is downloaded again.

    Returns:
        Its size in bytes.

    Raises:
        TooLarge: More than `max_bytes`, announced or real.
        StorageFull: The disk or the quota is.
        OSError: The file is there already, or cannot be written.
    """
    if announced_bytes is not None and announced_bytes > max_bytes:
        raise _too_large(max_bytes)
    file = await trio.open_file(to, "xb")
    size_bytes, whole = 0, False
    try:
        async with file:
            async for chunk in chunks:
                size_bytes += len(chunk)
                if size_bytes > max_bytes:
                    raise _too_large(max_bytes)
                await file.write(chunk)
                on_received(size_bytes, announced_bytes)
        whole = True
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StorageFull(f"no room for a download in {to.parent}: free some disk space") from error
        raise
    finally:
        if not whole:
            with trio.CancelScope(shield=True):
                await trio.Path(to).unlink(missing_ok=True)
    return size_bytes


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"a download is larger than the {max_bytes} bytes that are allowed")
