"""The outbox as the rest of the node sees it."""

import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec
import trio
from attrs import frozen

from loop_node.errors import Unavailable
from loop_node.schemas.detections import ImageMetadata
from loop_node.schemas.wire import unstructure_flat

from .backlog import Backlog, DropReason, Limits, Queue
from .disk import Disk, RealDisk
from .drainer import Drainer, Handle, OutboxMode, Send
from .folder import DeadLimits, Folder
from .intake import Answer, Intake, Request
from .item import Content
from .store import RunBlocking, Store, Trouble, in_one_thread
from .takeover import Takeover

__all__ = ["NewImage", "Outbox", "OutboxStats", "open_outbox"]

TICK_S: Final = 10.0
TICKS_PER_LOOK: Final = 6
_FAREWELL_S: Final = 2.0


@frozen(kw_only=True)
class NewImage:
    """An image to be kept for the Learning Loop: the JPEG as received, and what is known of it."""

    jpeg: bytes
    metadata: ImageMetadata
    priority: bool = False


@frozen(kw_only=True)
class OutboxStats:
    """The accounts: `stored == uploaded + sum(dropped) + dead + sum(images)` at every moment.

    Attributes:
        images: Waiting images by queue.
        size_bytes: Their bytes by queue.
        oldest_s: How long the oldest one has waited, by this machine's clock; up to 10 s behind.
        refused: Uploads that were answered with an error because they could not be kept; none of the others counts them.
    """

    images: Mapping[Queue, int]
    size_bytes: Mapping[Queue, int]
    oldest_s: float
    stored: int
    uploaded: int
    dead: int
    refused: int
    dropped: Mapping[DropReason, int]


class Outbox:
    """Takes images in, keeps them, sends them. Its two tasks are `run_writer` and `run_drainer`."""

    def __init__(self, store: Store, intake: Intake) -> None:
        self._store = store
        self._intake = intake
        self._drainer = Drainer(store)
        self._behind = Trouble()
        self._writing = False
        self._wrote = trio.Event()
        store.on_arrival = self._drainer.stir

    @property
    def mode(self) -> OutboxMode:
        """Whether images are sent."""
        return self._drainer.mode

    async def set_mode(self, mode: OutboxMode, *, within_s: float = 30.0) -> bool:
        """See `Drainer.set_mode`."""
        return await self._drainer.set_mode(mode, within_s=within_s)

    # in

    async def store(self, jpeg: bytes, metadata: ImageMetadata, *, priority: bool) -> str:
        """Keep an image; returns its id when it is on disk and survives a loss of power. As `store_all`."""
        (item,) = await self.store_all([NewImage(jpeg=jpeg, metadata=metadata, priority=priority)])
        return item

    async def store_all(self, images: Sequence[NewImage]) -> list[str]:
        """Keep all of these images or none; returns their ids when all are on disk and survive a loss of power.

        Cancelled, or at a crash, some of them may be kept without anybody having been told.

        Raises:
            StorageFull: There is no room, and none can be made.
            Unavailable: The disk failed, or the node is stopping.
        """
        if not images:
            return []
        request = Request([_content(image) for image in images], Answer())
        await self._intake.join(request)
        return await request.answered()

    def offer(self, jpeg: bytes, metadata: ImageMetadata, *, priority: bool = False) -> bool:
        """Hand over an image that nobody waits for; never waits itself.

        Returns:
            False if the writer is too far behind: the image is dropped and counted.
        """
        taken = self._intake.offer(Request([_content(NewImage(jpeg=jpeg, metadata=metadata, priority=priority))]))
        if taken:
            self._behind.end("the outbox's writer has caught up")
        else:
            self.turn_away()
        return taken

    def turn_away(self) -> None:
        """Count an image that nobody waits for and that was dropped at the door, or on its way there."""
        self._behind.begin("images are dropped: they come faster than the disk takes them")
        self._store.backlog.turned_away(DropReason.WRITER_FULL)

    def stats(self) -> OutboxStats:
        """The accounts at this moment."""
        backlog, counts = self._store.backlog, self._store.backlog.counts
        return OutboxStats(
            images={queue: len(backlog.ids(queue)) for queue in Queue},
            size_bytes={queue: backlog.size_bytes(queue) for queue in Queue},
            oldest_s=self._store.oldest_s(),
            stored=counts.stored,
            uploaded=counts.uploaded,
            dead=counts.dead,
            refused=counts.refused,
            dropped={reason: counts.dropped[reason] for reason in DropReason},
        )

    # the tasks

    async def run_writer(self, handle: Handle) -> None:
        """Write what comes in, take over what older software left, and notice what operators do, until cancelled.

        Cancelled, it still writes for up to 2 seconds what was handed over before.
        """
        self._intake.closed = False
        writing = trio.CancelScope(shield=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_until_closed, writing)
            handle.ready()
            try:
                await trio.sleep_forever()
            finally:
                self._intake.close()
                writing.deadline = trio.current_time() + _FAREWELL_S

    async def _write_until_closed(self, scope: trio.CancelScope) -> None:
        with scope:
            await self._write_for_ever(Takeover(self._store))
        for request in self._intake.take():
            request.fail(Unavailable("the node is stopping"))

    async def _write_for_ever(self, takeover: Takeover) -> None:
        await self._store.trim()
        await takeover.find()
        ticks, next_tick_s = 0, trio.current_time()
        while not self._intake.closed:
            if trio.current_time() >= next_tick_s:
                await self._look_after_folder(takeover, ticks)
                ticks, next_tick_s = ticks + 1, trio.current_time() + TICK_S
            if takeover.pending:
                await takeover.step()
            else:
                with trio.move_on_at(next_tick_s):
                    await self._intake.arrival()
            await self._write_what_came()
        await self._write_what_came()

    async def _write_what_came(self) -> None:
        requests = self._intake.take()
        if not requests:
            return
        self._writing = True
        try:
            await self._store.write(requests)
        finally:
            self._writing = False
            self._wrote.set()
            self._wrote = trio.Event()

    async def _look_after_folder(self, takeover: Takeover, ticks: int) -> None:
        await self._store.note_oldest()
        if ticks and ticks % TICKS_PER_LOOK == 0:
            await self._store.look_around()
            if not takeover.pending:
                await takeover.find()

    async def run_drainer(self, send: Send, handle: Handle, *, rng: Callable[[], float] = random.random) -> None:
        """Send images until cancelled; see `Drainer.run`."""
        await self._drainer.run(send, handle=handle, rng=rng)

    async def wait_idle(self) -> None:
        """Wait until all that was handed over is written, and there is nothing to send or nothing is to be sent."""
        while self._is_writing() or not self._drainer.is_idle:
            if self._is_writing():
                await self._wrote.wait()
            else:
                await self._drainer.wait_idle()

    def _is_writing(self) -> bool:
        return self._writing or self._intake.images > 0


@asynccontextmanager
async def open_outbox(
    folder: Path,
    limits: Limits,
    *,
    dead_limits: DeadLimits | None = None,
    intake: Intake | None = None,
    disk: Disk | None = None,
    run_blocking: Callable[[], RunBlocking] = in_one_thread,
) -> AsyncIterator[Outbox]:
    """The outbox in `folder`, ready to take images in; a disk that refuses is reported by what is stored, not here.

    Args:
        folder: Made if it is not there.
        limits: What may lie in it.
        dead_limits: What is kept of images that were given up.
        intake: The line before the writer.
        disk: The file system.
        run_blocking: Makes what runs blocking work.
    """
    store = Store(
        Folder(folder, disk or RealDisk()),
        Backlog(limits),
        dead_limits=dead_limits or DeadLimits(),
        run=run_blocking(),
        run_reads=run_blocking(),
    )
    await store.load()
    yield Outbox(store, intake or Intake())


def _content(image: NewImage) -> tuple[Queue, Content]:
    """Encoded here and now: whoever handed the metadata over may change them later."""
    queue = Queue.PRIORITY if image.priority else Queue.NORMAL
    return queue, Content(image.jpeg, msgspec.json.encode(unstructure_flat(image.metadata)))
