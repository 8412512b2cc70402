"""Files and accounts moved together: what the writer, the drainer and the takeover do to images.

The accounts are changed in the Trio thread alone, without a checkpoint between two that belong together; the files in one
thread at a time, so that a disk that hangs holds up nothing else. Reads for sending have a thread of their own.
"""

import errno
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol, TypeVar

import trio
from attrs import define, frozen

from loop_node.errors import StorageFull, Unavailable

from .backlog import Backlog, DropReason, NoRoom, Pending, Queue
from .folder import DeadLimits, Draft, Folder
from .intake import Request
from .item import BrokenItem, Content, item_id, sequence_of

__all__ = ["FIRST_SEQUENCE", "OutgoingImage", "RunBlocking", "Store", "Trouble", "in_one_thread"]

logger = logging.getLogger(__name__)

FIRST_SEQUENCE: Final = 10**12
"""Leaves room below for what older software left behind, which comes first in the order."""

_FULL: Final = {
    DropReason.BYTES: "the outbox holds as many bytes as it may (MAX_OUTBOX_BYTES)",
    DropReason.DISK: "the disk has no more room than is to stay free (MIN_FREE_DISK_BYTES)",
}

T = TypeVar("T")


class RunBlocking(Protocol):
    """Runs blocking work; what it returns or raises comes back."""

    async def __call__(self, work: Callable[[], T], /) -> T:
        """Cancelled, it returns at once, and the work goes on unheard."""
        ...


def in_one_thread() -> RunBlocking:
    """One piece of work at a time, each in a worker thread; one that was abandoned still holds up the next."""
    limiter = trio.CapacityLimiter(1)

    async def run(work: Callable[[], T], /) -> T:
        return await trio.to_thread.run_sync(work, limiter=limiter, abandon_on_cancel=True)

    return run


@frozen
class OutgoingImage:
    """An image on its way to the Learning Loop.

    Attributes:
        id: Stays the same however often it is sent.
        jpeg: The image's file, as it was received.
        metadata: A JSON object in UTF-8.
    """

    id: str
    jpeg: bytes
    metadata: bytes

    @property
    def stem(self) -> str:
        """What the names of its two files begin with."""
        return f"image_{self.id}"


@define
class Trouble:
    """Something that is logged once when it begins and once when it is over."""

    _lasts: bool = False

    def begin(self, message: str) -> None:
        """Log, unless it lasts already."""
        if not self._lasts:
            logger.error("%s", message)
        self._lasts = True

    def end(self, message: str) -> None:
        """Log, if it lasted."""
        if self._lasts:
            logger.warning("%s", message)
        self._lasts = False


class Store:
    """The images on disk and their accounts.

    Args:
        folder: The files.
        backlog: The accounts.
        dead_limits: How much of what was given up is kept.
        run: Runs what changes files, one at a time.
        run_reads: Runs reads.

    Attributes:
        on_arrival: Called when there are more images to send.
    """

    def __init__(
        self, folder: Folder, backlog: Backlog, *, dead_limits: DeadLimits, run: RunBlocking, run_reads: RunBlocking
    ) -> None:
        self.folder = folder
        self.backlog = backlog
        self.dead_limits = dead_limits
        self.run = run
        self.on_arrival: Callable[[], None] = lambda: None
        self._oldest_since_s: float | None = None
        self._run_reads = run_reads
        self._highest = FIRST_SEQUENCE - 1
        self._lowest = FIRST_SEQUENCE
        self._writing = Trouble()

    # start

    async def load(self) -> None:
        """Count what lies in the folder; a disk that refuses is asked again by `look_around`."""
        try:
            await self.run(self.folder.prepare)
        except OSError as error:
            self._writing.begin(f"the outbox {self.folder.root} cannot be prepared: {error}")
        try:
            found, highest_dead = await self.run(lambda: (self.folder.survey(), self.folder.highest_dead()))
        except OSError as error:
            self._writing.begin(f"the outbox {self.folder.root} cannot be read: {error}")
            return
        self._adopt(found)
        if highest_dead:
            self._highest = max(self._highest, sequence_of(highest_dead))

    def _adopt(self, found: Sequence[Pending]) -> None:
        """Count images that were found, oldest first."""
        for image in found:
            if image.id not in self.backlog:
                self.backlog.find(image)
        if found:
            self._highest = max(self._highest, sequence_of(found[-1].id))
            self._lowest = min(self._lowest, sequence_of(found[0].id))
            self.on_arrival()

    def new_id(self) -> str:
        """An id that comes after all others in the order."""
        self._highest += 1
        return item_id(self._highest, secrets.token_hex(8))

    def older_id(self, token: str) -> str:
        """An id that comes before all others in the order."""
        self._lowest -= 1
        return item_id(self._lowest, token)

    # in

    async def write(self, requests: Sequence[Request]) -> None:
        """Make the images of all requests durable in one go, and answer each request.

        Cancelled or failing, requests that are not answered yet are told to try again; what of them reached the disk is
        found and counted by the next `look_around`.
        """
        try:
            await self._write(requests)
        finally:
            for request in requests:
                request.fail(Unavailable("the outbox was interrupted; whether the image was kept is not known"))

    async def _write(self, requests: Sequence[Request]) -> None:
        try:
            disk_bytes = await self.run(self.folder.free_bytes)
        except OSError as error:
            for request in requests:
                self._fail(request, error)
            return
        admitted: list[tuple[Request, list[Draft]]] = []
        displaced: list[Pending] = []
        for request in requests:
            drafts = [Draft.of(self.new_id(), queue, content) for queue, content in request.images]
            size_bytes = sum(draft.image.size_bytes for draft in drafts)
            try:
                dropped = self.backlog.reserve(size_bytes, disk_bytes)
            except NoRoom as no_room:
                self._turn_away(request, no_room.reason, StorageFull(_FULL[no_room.reason], retry_after_s=60))
                continue
            disk_bytes += sum(image.size_bytes for image in dropped) - size_bytes
            displaced += dropped
            admitted.append((request, drafts))
        await self._commit(admitted, displaced)

    async def _commit(self, admitted: Sequence[tuple[Request, list[Draft]]], displaced: Sequence[Pending]) -> None:
        groups = [drafts for _, drafts in admitted]
        try:
            outcomes = await self.run(lambda: self.folder.commit(groups, displaced))
        finally:
            self.backlog.release(sum(draft.image.size_bytes for drafts in groups for draft in drafts))
        for (request, drafts), error in zip(admitted, outcomes, strict=True):
            if error is None:
                self._keep(request, drafts)
            else:
                self._fail(request, error)
        await self.trim()

    def _keep(self, request: Request, drafts: Sequence[Draft]) -> None:
        for draft in drafts:
            self.backlog.find(draft.image)
        request.succeed([draft.image.id for draft in drafts])
        self.on_arrival()
        self._writing.end("images are kept again")

    def _fail(self, request: Request, error: OSError) -> None:
        text = f"the image could not be written: {error.strerror or error}"
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        told = StorageFull(text, retry_after_s=60) if full else Unavailable(text)
        self._turn_away(request, DropReason.WRITE_FAILED, told)

    def _turn_away(self, request: Request, reason: DropReason, error: Exception) -> None:
        self._writing.begin(f"images cannot be kept in {self.folder.root}: {error}")
        if request.answer:
            self.backlog.counts.refused += len(request.images)
            request.fail(error)
        else:
            for _ in request.images:
                self.backlog.turned_away(reason)

    async def trim(self) -> None:
        """Drop what is above the allowed number."""
        dropped = self.backlog.trim()
        if dropped:
            await self.run(lambda: self.folder.remove(dropped, durably=False))

    async def take_over(self, token: str, queue: Queue, content: Content) -> bool:
        """Make an image of older software durable; it comes before all that is here. False: no room for it now.

        A normal image without room is dropped: it would be the first to go anyway.

        Raises:
            OSError: The disk refused.
        """
        draft = Draft.of(self.older_id(token), queue, content)
        disk_bytes = await self.run(self.folder.free_bytes)
        try:
            dropped = self.backlog.reserve(draft.image.size_bytes, disk_bytes, displace=queue is Queue.PRIORITY)
        except NoRoom as no_room:
            if queue is Queue.NORMAL and no_room.reason is DropReason.BYTES:
                self.backlog.turned_away(no_room.reason)
                return True
            return False
        try:
            (error,) = await self.run(lambda: self.folder.commit([[draft]], dropped))
        finally:
            self.backlog.release(draft.image.size_bytes)
        if error:
            raise error
        self.backlog.find(draft.image)
        self.on_arrival()
        await self.trim()
        return True

    async def bury_foreign(self, token: str, content: Content, reason: str) -> None:
        """Set something aside that never was in a queue.

        Raises:
            OSError: The disk refused.
        """
        draft = Draft.of(self.older_id(token), Queue.NORMAL, content)
        await self.run(lambda: self.folder.bury_draft(draft, reason, self.dead_limits))
        self.backlog.found_dead()

    async def look_around(self) -> None:
        """Notice what others did to the folder: files that were deleted or put back."""
        known = frozenset().union(*(self.backlog.ids(queue) for queue in Queue))
        try:
            gone, found = await self.run(lambda: self._compare(known))
        except OSError as error:
            self._writing.begin(f"the outbox {self.folder.root} cannot be read: {error}")
            return
        for item in gone:
            self.backlog.vanished(item)
        self._adopt(found)
        await self.trim()

    def _compare(self, known: frozenset[str]) -> tuple[frozenset[str], list[Pending]]:
        """Of the images that were known before, those that do not lie in the folder; and those in it that were not."""
        lying = self.folder.survey()
        return known.difference(image.id for image in lying), [image for image in lying if image.id not in known]

    async def note_oldest(self) -> None:
        """Learn how long the oldest image has waited."""
        ages = [self.backlog.ids(queue)[0] for queue in Queue if self.backlog.ids(queue)]
        oldest = self.backlog.pending(min(ages)) if ages else None
        self._oldest_since_s = await self.run(lambda: self.folder.changed_at_s(oldest)) if oldest else None

    def oldest_s(self) -> float:
        """Age of the oldest image in seconds by this machine's clock, as of the last `note_oldest`."""
        if self._oldest_since_s is None or not len(self.backlog):
            return 0.0
        return max(0.0, time.time() - self._oldest_since_s)

    # out

    async def read(self, ids: Sequence[str]) -> tuple[list[OutgoingImage], list[str]]:
        """The images with these ids, in their order, and the ids of those the disk did not let us read.

        Those that are gone are counted, those that are broken set aside.
        """
        images: list[OutgoingImage] = []
        unread: list[str] = []
        for wanted in filter(None, map(self.backlog.pending, ids)):
            try:
                content = await self._run_reads(partial(self.folder.read, wanted))
            except FileNotFoundError:
                self.backlog.vanished(wanted.id)
            except BrokenItem as error:
                if not await self.bury(wanted.id, f"it cannot be sent: {error}"):
                    unread.append(wanted.id)
            except OSError as error:
                logger.warning("%s cannot be read: %s", self.folder.path(wanted), error)
                unread.append(wanted.id)
            else:
                images.append(OutgoingImage(wanted.id, content.jpeg, content.metadata))
        return images, unread

    async def delivered(self, ids: Sequence[str]) -> None:
        """Remove images that the Learning Loop has. Cancelled, some may be sent again after a restart."""
        gone = [image for image in map(self.backlog.pending, ids) if image]
        for image in gone:
            self.backlog.uploaded(image.id)
        await self.run(lambda: self.folder.remove(gone, durably=True))

    async def bury(self, item: str, reason: str) -> bool:
        """Set an image aside for good; False if the disk refused."""
        image = self.backlog.pending(item)
        if image is None:
            return True
        try:
            await self.run(lambda: self.folder.bury(image, reason, self.dead_limits))
        except FileNotFoundError:
            self.backlog.vanished(item)
        except OSError as error:
            logger.warning("%s cannot be set aside: %s", self.folder.path(image), error)
            return False
        else:
            logger.warning("image %s was set aside: %s", item, reason)
            self.backlog.buried(item)
        return True
