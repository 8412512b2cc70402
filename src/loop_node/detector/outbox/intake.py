"""The line between those who hand over images and the writer: bounded in images and in bytes."""

from collections import deque
from collections.abc import Sequence
from typing import Final

import trio
from attrs import define, field

from .backlog import Queue
from .item import Content

__all__ = ["MAX_BYTES", "MAX_IMAGES", "Answer", "Intake", "Request"]

MAX_IMAGES: Final = 64
MAX_BYTES: Final = 64 * 2**20


@define(eq=False)
class Answer:
    """What came of a request, for the one who waits."""

    _given: trio.Event = field(factory=trio.Event)
    _ids: list[str] = field(factory=list)
    _error: Exception | None = None

    def give(self, outcome: list[str] | Exception) -> None:
        """Answer; only the first answer counts."""
        if self._given.is_set():
            return
        if isinstance(outcome, Exception):
            self._error = outcome
        else:
            self._ids = outcome
        self._given.set()

    async def wait(self) -> list[str]:
        """The ids of the stored images, or the error raised."""
        await self._given.wait()
        if self._error is not None:
            raise self._error
        return self._ids


@define(eq=False)
class Request:
    """Images that are kept together or not at all; without an `answer` nobody waits for the outcome."""

    images: Sequence[tuple[Queue, Content]]
    answer: Answer | None = None

    @property
    def size_bytes(self) -> int:
        """About what it takes in memory."""
        return sum(len(content.jpeg) + len(content.metadata) for _, content in self.images)


@define(eq=False)
class Intake:
    """The line itself. A request larger than the whole line passes when the line is empty.

    What the writer has taken is no longer in the line, so memory holds at most twice these bounds.
    """

    max_images: int = MAX_IMAGES
    max_bytes: int = MAX_BYTES
    images: int = 0
    size_bytes: int = 0
    _line: deque[Request] = field(factory=deque)
    _arrived: trio.Event = field(factory=trio.Event)
    _room: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot)

    def offer(self, request: Request) -> bool:
        """Join the line if there is room."""
        if self._line and not self._fits(request):
            return False
        self._line.append(request)
        self.images += len(request.images)
        self.size_bytes += request.size_bytes
        self._arrived.set()
        return True

    async def join(self, request: Request) -> None:
        """Join the line, waiting for room. Cancelled, the request is not in the line."""
        while not self.offer(request):
            await self._room.park()

    async def arrival(self) -> None:
        """Wait until there is a request."""
        await self._arrived.wait()

    def take(self) -> list[Request]:
        """Everything in the line, now."""
        taken, self._line = list(self._line), deque()
        self.images = self.size_bytes = 0
        self._arrived = trio.Event()
        self._room.unpark_all()
        return taken

    def _fits(self, request: Request) -> bool:
        return (
            self.images + len(request.images) <= self.max_images
            and self.size_bytes + request.size_bytes <= self.max_bytes
        )
