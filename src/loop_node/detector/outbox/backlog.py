"""Which images wait, which goes next, which must go when room is short, and the accounts. Pure.

Every image the outbox answers for is in exactly one place, and each method moves it whole, so that at every moment::

    stored == uploaded + dropped (all reasons) + dead + pending

`stored` counts the images that were made durable, those found at start or put back by an operator, and those that were
dropped at the door (handed over with nobody waiting for the outcome, and not kept). An upload that was refused with an
error is none of the outbox's and counts as `refused` alone. The counters live as long as the process.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from enum import StrEnum
from typing import Final

from attrs import Factory, define, field, frozen
from attrs.validators import ge

__all__ = ["AGED_EVERY", "Backlog", "Counts", "DropReason", "Limits", "NoRoom", "Pending", "Queue"]

AGED_EVERY: Final = 5
"""Every so many places of a batch one belongs to the oldest normal image, whatever is newer or has priority."""


class Queue(StrEnum):
    """The two kinds of images; the value names the folder, too."""

    PRIORITY = "priority"
    NORMAL = "normal"


class DropReason(StrEnum):
    """Why an image left without having been uploaded."""

    COUNT = "count"  # more normal images than allowed
    BYTES = "bytes"  # more bytes than allowed
    DISK = "disk"  # less room left on the disk than is to stay free
    WRITER_FULL = "writer_full"  # images came faster than they could be written
    WRITE_FAILED = "write_failed"  # the disk refused
    DELETED = "deleted"  # somebody deleted the file


class NoRoom(Exception):
    """No room can be made; nothing was dropped. `reason` is the limit that stands in the way."""

    def __init__(self, reason: DropReason) -> None:
        self.reason = reason
        super().__init__(reason.value)


@frozen(kw_only=True)
class Limits:
    """How much may lie in the outbox.

    Args:
        normal_images: Normal images; priority images have no such limit.
        total_bytes: All waiting images together.
        free_bytes: What stays free on the disk.
    """

    normal_images: int = field(default=1000, validator=ge(1))
    total_bytes: int = field(default=4 * 2**30, validator=ge(1))
    free_bytes: int = field(default=500_000_000, validator=ge(0))


@frozen
class Pending:
    """A waiting image: where it lies and how large its file is."""

    id: str
    queue: Queue
    size_bytes: int


@define
class Counts:
    """The accounts since the process started; see the module."""

    stored: int = 0
    uploaded: int = 0
    dead: int = 0
    refused: int = 0
    dropped: Counter[DropReason] = Factory(Counter)


@define
class _Line:
    """The images of one queue by age: ids sort by sequence."""

    ids: list[str] = Factory(list)
    sizes: dict[str, int] = Factory(dict)
    size_bytes: int = 0

    def add(self, item: str, size_bytes: int) -> None:
        if self.ids and item < self.ids[-1]:
            insort(self.ids, item)
        else:  # nearly always, and much faster for a long folder at start
            self.ids.append(item)
        self.sizes[item] = size_bytes
        self.size_bytes += size_bytes

    def remove(self, item: str) -> None:
        del self.ids[bisect_left(self.ids, item)]
        self.size_bytes -= self.sizes.pop(item)


class Backlog:
    """The waiting images and the accounts.

    Attributes:
        in_flight: Ids of the images that are being sent; when room is short they go last.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.counts = Counts()
        self.in_flight: frozenset[str] = frozenset()
        self._lines = {queue: _Line() for queue in Queue}
        self._reserved_bytes = 0

    def __len__(self) -> int:
        return sum(len(line.ids) for line in self._lines.values())

    def __contains__(self, item: object) -> bool:
        return item in self._lines[Queue.NORMAL].sizes or item in self._lines[Queue.PRIORITY].sizes

    def ids(self, queue: Queue) -> Sequence[str]:
        """The ids of a queue, oldest first."""
        return self._lines[queue].ids

    def size_bytes(self, queue: Queue) -> int:
        """The bytes of a queue."""
        return self._lines[queue].size_bytes

    def pending(self, item: str) -> Pending | None:
        """What is known of a waiting image; None if it does not wait."""
        for queue, line in self._lines.items():
            if item in line.sizes:
                return Pending(item, queue, line.sizes[item])
        return None

    # order

    def choose(self, places: int, *, without: Collection[str] = ()) -> list[str]:
        """The ids to send next, at most `places`, none of `without`.

        Priority images in the order they came, then normal ones, newest first; but every fifth place goes to the oldest
        normal image, so that each one's turn comes however many newer ones arrive.
        """
        without = set(without)
        by_rank = self._by_rank(without)
        oldest = (item for item in self._lines[Queue.NORMAL].ids if item not in without)
        chosen: dict[str, None] = {}
        for place in range(1, places + 1):
            aged = next((item for item in oldest if item not in chosen), None) if place % AGED_EVERY == 0 else None
            item = aged or next((item for item in by_rank if item not in chosen), None)
            if item is None:
                break
            chosen[item] = None
        return list(chosen)

    def _by_rank(self, without: Collection[str]) -> Iterator[str]:
        yield from (item for item in self._lines[Queue.PRIORITY].ids if item not in without)
        yield from (item for item in reversed(self._lines[Queue.NORMAL].ids) if item not in without)

    # room

    def reserve(self, size_bytes: int, disk_bytes: int, *, displace: bool = True) -> list[Pending]:
        """Make room for an image that is about to be written; to be followed by `release`.

        Args:
            size_bytes: Of its file.
            disk_bytes: Free on the disk now.
            displace: Whether other images may be dropped for it.

        Returns:
            The images that were dropped for it: their files have to go before it is written.

        Raises:
            NoRoom: It does not fit, even if all normal images were dropped.
        """
        over_bytes = self._reserved_bytes + sum(line.size_bytes for line in self._lines.values()) + size_bytes
        missing = {
            DropReason.DISK: self.limits.free_bytes + size_bytes - disk_bytes,
            DropReason.BYTES: over_bytes - self.limits.total_bytes,
        }
        reason = max(missing, key=missing.__getitem__)
        room_bytes = self._lines[Queue.NORMAL].size_bytes if displace else 0
        if missing[reason] > room_bytes:
            raise NoRoom(reason)
        self._reserved_bytes += size_bytes
        dropped: list[Pending] = []
        while sum(image.size_bytes for image in dropped) < missing[reason]:
            dropped.append(self._drop_oldest(reason))
        return dropped

    def release(self, size_bytes: int) -> None:
        """Give back what was reserved: the image is durable and is counted next, or is not kept."""
        self._reserved_bytes -= size_bytes

    def find(self, image: Pending) -> None:
        """Count an image whose file is there: made durable, found at start, or put back by an operator."""
        self.counts.stored += 1
        self._lines[image.queue].add(image.id, image.size_bytes)

    def trim(self) -> list[Pending]:
        """Drop the oldest normal images above the allowed number; their files have to go."""
        dropped = []
        while len(self._lines[Queue.NORMAL].ids) > self.limits.normal_images:
            dropped.append(self._drop_oldest(DropReason.COUNT))
        return dropped

    def _drop_oldest(self, reason: DropReason) -> Pending:
        """Drop the oldest normal image that is not being sent, else the oldest."""
        line = self._lines[Queue.NORMAL]
        item = next((item for item in line.ids if item not in self.in_flight), line.ids[0])
        image = Pending(item, Queue.NORMAL, line.sizes[item])
        line.remove(item)
        self.counts.dropped[reason] += 1
        return image

    # what becomes of an image; each returns whether it still waited

    def uploaded(self, item: str) -> bool:
        """Count an image that the Learning Loop has; one that was dropped meanwhile stays a dropped one."""
        if not self._forget(item):
            return False
        self.counts.uploaded += 1
        return True

    def buried(self, item: str) -> bool:
        """Count an image that was set aside for good."""
        if not self._forget(item):
            return False
        self.counts.dead += 1
        return True

    def vanished(self, item: str) -> bool:
        """Count an image whose file is gone without our doing."""
        if not self._forget(item):
            return False
        self.counts.dropped[DropReason.DELETED] += 1
        return True

    def turned_away(self, reason: DropReason) -> None:
        """Count an image that nobody waits for and that could not be kept."""
        self.counts.stored += 1
        self.counts.dropped[reason] += 1

    def found_dead(self) -> None:
        """Count an image that was found broken and set aside at once."""
        self.counts.stored += 1
        self.counts.dead += 1

    def _forget(self, item: str) -> bool:
        image = self.pending(item)
        if image is not None:
            self._lines[image.queue].remove(item)
        return image is not None
