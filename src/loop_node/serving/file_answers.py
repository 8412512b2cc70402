"""Answers that are files, read as fast as the client takes them."""

import re
from pathlib import Path
from types import TracebackType
from typing import IO, Final

import trio
from quart import Response
from quart.wrappers.response import ResponseBody

from loop_node.errors import NotFound

__all__ = ["FileBody", "file_answer"]

_BLOCK_BYTES: Final = 512 << 10
_UNFIT_FOR_A_HEADER: Final = re.compile(r'[^\x20-\x7e]|["\\]')


class FileBody(ResponseBody):
    """An open file as the body of an answer; owned from now on, and closed once the answer is sent or given up."""

    def __init__(self, file: IO[bytes], size_bytes: int) -> None:
        self._file = file
        self._left_bytes = size_bytes

    @property
    def is_closed(self) -> bool:
        """Whether the file has been let go."""
        return self._file.closed

    def close(self) -> None:
        """Close the file; again is fine."""
        self._file.close()

    async def __aenter__(self) -> "FileBody":
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> "FileBody":
        return self

    async def __anext__(self) -> bytes:
        if not self._left_bytes:
            raise StopAsyncIteration
        data = await trio.to_thread.run_sync(self._file.read, min(_BLOCK_BYTES, self._left_bytes))
        if not data:
            raise OSError(f"{self._file.name} became shorter while it was sent")
        self._left_bytes -= len(data)
        return data


async def file_answer(path: Path, *, content_type: str, filename: str | None = None) -> Response:
    """An answer that streams a file.

    Args:
        path: Opened at once: it may be renamed or deleted while it is sent, but not written to.
        content_type: What is in it.
        filename: What the client shall call it.

    Raises:
        NotFound: There is no such file.
    """
    try:
        body = await trio.to_thread.run_sync(_open, path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise NotFound(f"there is no file {filename or path.name}") from None
    answer = Response(body[0], content_type=content_type)
    answer.content_length = body[1]
    answer.timeout = None  # a slow client is not a lost one; who takes nothing at all is dropped by its connection
    if filename is not None:
        # in this very form: old clients take the text behind `filename=`
        answer.headers["Content-Disposition"] = f'attachment; filename="{_UNFIT_FOR_A_HEADER.sub("_", filename)}"'
    return answer


def _open(path: Path) -> tuple[FileBody, int]:
    file = path.open("rb", buffering=0)
    size_bytes = file.seek(0, 2)
    file.seek(0)
    return FileBody(file, size_bytes), size_bytes
