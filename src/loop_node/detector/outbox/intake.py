"""The line between those who hand over images and the writer: bounded in images and in bytes."""

from collections import deque
from collections.abc import Sequence
from typing import Final

import trio
from attrs import define, field

from loop_node.errors import Unavailable

from .backlog import Queue
from .item import Content

__all__ = ["MAX_BYTES", "MAX_IMAGES", "Answer", "Intake", "Request"]

MAX_IMAGES: Final = 64
MAX_BYTES: Final = 64 * 2**20


@define(eq=False)
class Answer:
    """What comes of a request, for the one who waits."""

    given: trio.Event = field(factory=trio.Event)
    ids: list[str] = field(factory=list)
    error: Exception | None = None


@define(eq=False)
class Request:
    """Images that are kept together or not at all; without an `answer` nobody waits for the outcome."""

    images: Sequence[tuple[Queue, Content]]
    answer: Answer | None = None

    @property
    def size_bytes(self) -> int:
        """About what it takes in memory."""
        return sum(len(content.jpeg) + len(content.metadata) for _, content in self.images)

    def succeed(self, ids: list[str]) -> None:
        """Tell who waits that the images are kept."""
        if self.answer and not self.answer.given.is_set():
            self.answer.ids = ids
            self.answer.given.set()

    def fail(self, error: Exception) -> None:
        """Tell who waits that they are not, unless there was an answer before."""
        if self.answer and not self.answer.given.is_set():
            self.answer.error = error
            self.answer.given.set()

    async def answered(self) -> list[str]:
        """The ids of the images once they are kept; raises what `fail` was given."""
        if self.answer is None:
            raise ValueError("nobody waits for this request")
        await self.answer.given.wait()
        if self.answer.error is not None:
            raise self.answer.error
        return self.answer.ids


@define(eq=False)
class Intake:
    """The line itself. A request larger than the whole line passes when the line is empty.

    What the writer has taken is no longer in the line, so memory holds at most twice these bounds.
    """

    max_images: int = MAX_IMAGES
    max_bytes: int = MAX_BYTES
    images: int = 0
    size_bytes: int = 0
    closed: bool = False
    _line: deque[Request] = field(factory=deque)
    _arrived: trio.Event = field(factory=trio.Event)
    _room: trio.lowlevel.ParkingLot = field(factory=trio.lowlevel.ParkingLot)

    def offer(self, request: Request) -> bool:
        """Join the line if it is open and there is room."""
        if self.closed or (self._line and not self._fits(request)):
            return False
        self._line.append(request)
        self.images += len(request.images)
        self.size_bytes += request.size_bytes
        self._arrived.set()
        return True

    async def join(self, request: Request) -> None:
        """Join the line, waiting for room. Cancelled, the request is not in the line.

        Raises:
            Unavailable: The line is closed.
        """
        while not self.offer(request):
            if self.closed:
                raise Unavailable("the node is stopping")
            await self._room.park()

    def close(self) -> None:
        """Let nobody in any more, and whoever waits for requests or for room go on."""
        self.closed = True
        self._arrived.set()
        self._room.unpark_all()

    async def arrival(self) -> None:
        """Wait until there is a request, or the line is closed."""
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
