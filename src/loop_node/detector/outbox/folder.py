"""The outbox's folder: what is done to the files, in an order that survives a crash at any point. Blocking.

All methods but `read` are called one at a time; `read` may run beside them.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from attrs import field, frozen
from attrs.validators import ge

from .backlog import Pending, Queue
from .disk import Disk, Entry
from .item import Content, file_name, pack, packed_bytes, parse_name, unpack

__all__ = ["DEAD", "INCOMING", "DeadImage", "DeadLimits", "Draft", "Folder"]

logger = logging.getLogger(__name__)

INCOMING: Final = "incoming"
DEAD: Final = "dead"
_REASON: Final = ".reason.json"


@frozen(kw_only=True)
class DeadLimits:
    """How much of what was given up is kept to be looked at; the oldest goes first."""

    images: int = field(default=1000, validator=ge(0))
    total_bytes: int = field(default=2**30, validator=ge(0))


@frozen
class Draft:
    """An image that is about to become an item, and where it will lie."""

    image: Pending
    content: Content

    @classmethod
    def of(cls, item: str, queue: Queue, content: Content) -> "Draft":
        """An image with its new id."""
        return cls(Pending(item, queue, packed_bytes(content)), content)


@frozen
class DeadImage:
    """An image that was given up."""

    id: str
    size_bytes: int
    queue: Queue
    reason: str


class Folder:
    """The files below `root`."""

    def __init__(self, root: Path, disk: Disk) -> None:
        self.root = root
        self.disk = disk
        self._unsynced: set[Path] = set()  # made, but not yet known to survive a loss of power
        self._leftovers: set[Path] = set()  # should be gone, but the disk refused

    def path(self, image: Pending) -> Path:
        """Where a waiting image lies."""
        return self.root / image.queue.value / file_name(image.id, image.size_bytes)

    def prepare(self) -> None:
        """Make what is missing, and remove what a crash left half written."""
        for folder in (self.root, self.root / INCOMING, *(self.root / queue.value for queue in Queue)):
            self._ensure(folder)
        self.disk.sync_folder(self.root)
        for entry in list(self._scan(self.root / INCOMING)):
            if not entry.is_folder:
                self._discard(self.root / INCOMING / entry.name)

    def free_bytes(self) -> int:
        """Room on the disk."""
        self._ensure(self.root)
        return self.disk.free_bytes(self.root)

    def survey(self) -> list[Pending]:
        """The images that lie here, oldest first."""
        for path in list(self._leftovers):
            self._discard(path)
        found = []
        for queue in Queue:
            for entry in self._scan(self.root / queue.value):
                named = parse_name(entry.name)
                if named and not entry.is_folder:
                    image = Pending(named[0], queue, named[1])
                    if not self._leftovers or self.path(image) not in self._leftovers:
                        found.append(image)
        return sorted(found, key=lambda image: image.id)

    def changed_at_s(self, image: Pending) -> float | None:
        """When the image was stored, in seconds since the epoch; None if it is gone."""
        try:
            return self.disk.changed_at_s(self.path(image))
        except OSError:
            return None

    # writing

    def commit(self, groups: Sequence[Sequence[Draft]], displaced: Sequence[Pending] = ()) -> list[OSError | None]:
        """Make all images of all groups durable; of a group that fails nothing is kept.

        Args:
            groups: Images that are kept together or not at all.
            displaced: Images that go first to make room.

        Returns:
            For each group what went wrong, or None: then all of it is on disk and survives a loss of power.
        """
        self.remove(displaced, durably=False)
        errors = [self._attempt(self._stage, group) for group in groups]
        for number, group in enumerate(groups):
            errors[number] = errors[number] or self._attempt(self._publish, group)
        for queue in Queue:
            self._sync_names(queue, groups, errors)
        return errors

    def _sync_names(self, queue: Queue, groups: Sequence[Sequence[Draft]], errors: list[OSError | None]) -> None:
        """Make the names in a queue's folder durable, for all groups without an error so far; or take all of them back."""
        concerned = [
            number
            for number, group in enumerate(groups)
            if not errors[number] and any(draft.image.queue is queue for draft in group)
        ]
        try:
            if concerned:
                self.disk.sync_folder(self.root / queue.value)
        except OSError as error:
            for number in concerned:
                errors[number] = error
                self._withdraw(groups[number])

    def _attempt(self, step: Callable[[Sequence[Draft]], None], group: Sequence[Draft]) -> OSError | None:
        try:
            step(group)
        except OSError as error:
            self._withdraw(group)
            return error
        return None

    def _stage(self, group: Sequence[Draft]) -> None:
        self._ensure(self.root / INCOMING)
        for draft in group:
            self._write(self._staged(draft), pack(draft.content))

    def _publish(self, group: Sequence[Draft]) -> None:
        for queue in {draft.image.queue for draft in group}:
            self._ensure(self.root / queue.value)
        for draft in group:
            self.disk.rename(self._staged(draft), self.path(draft.image))

    def _withdraw(self, group: Sequence[Draft]) -> None:
        for draft in group:
            self._discard(self._staged(draft))
            self._discard(self.path(draft.image))

    def _staged(self, draft: Draft) -> Path:
        return self.root / INCOMING / f"{draft.image.id}.part"

    def _write(self, path: Path, parts: Iterable[bytes]) -> None:
        with self.disk.create(path) as file:
            for part in parts:
                file.write(part)
            file.sync()

    # reading and removing

    def read(self, image: Pending) -> Content:
        """What a waiting image holds.

        Raises:
            FileNotFoundError: It is gone.
            BrokenItem: It is not whole.
            OSError: It could not be read.
        """
        return unpack(self.disk.read(self.path(image)))

    def remove(self, images: Sequence[Pending], *, durably: bool) -> None:
        """Remove images; what the disk refuses to let go is forgotten here and removed later.

        Args:
            images: May be gone already.
            durably: Whether a loss of power must not bring them back.
        """
        for image in images:
            self._discard(self.path(image))
        for queue in {image.queue for image in images} if durably else ():
            try:
                self.disk.sync_folder(self.root / queue.value)
            except OSError as error:
                logger.warning("%s: %s", self.root / queue.value, error)

    # the dead

    def bury(self, image: Pending, reason: str, limits: DeadLimits) -> None:
        """Set an image aside, its reason beside it.

        Raises:
            FileNotFoundError: It is gone.
            OSError: The disk refused; it lies where it lay.
        """
        grave = self.root / DEAD
        self._ensure(grave)
        self._note_reason(image, reason)
        try:
            self.disk.rename(self.path(image), grave / file_name(image.id, image.size_bytes))
        except OSError:
            self._discard(grave / f"{image.id}{_REASON}")
            raise
        self._settle_dead(limits)

    def bury_draft(self, draft: Draft, reason: str, limits: DeadLimits) -> None:
        """Set something aside that never was in a queue.

        Raises:
            OSError: The disk refused; nothing of it is kept.
        """
        grave = self.root / DEAD / file_name(draft.image.id, draft.image.size_bytes)
        self._ensure(self.root / INCOMING)
        self._ensure(grave.parent)
        self._note_reason(draft.image, reason)
        try:
            self._write(self._staged(draft), pack(draft.content))
            self.disk.rename(self._staged(draft), grave)
            self.disk.sync_folder(grave.parent)
        except OSError:
            for path in (self._staged(draft), grave, grave.parent / f"{draft.image.id}{_REASON}"):
                self._discard(path)
            raise
        self._settle_dead(limits)

    def dead(self) -> list[DeadImage]:
        """What was given up, oldest first."""
        named = [parse_name(entry.name) for entry in self._scan(self.root / DEAD) if not entry.is_folder]
        return [self._dead_image(*name) for name in sorted(filter(None, named))]

    def dead_path(self, image: DeadImage) -> Path:
        """Where a dead image lies."""
        return self.root / DEAD / file_name(image.id, image.size_bytes)

    def drop_dead(self, image: DeadImage) -> None:
        """Remove a dead image for good."""
        self._discard(self.dead_path(image))
        self._discard(self.root / DEAD / f"{image.id}{_REASON}")

    def revive(self, image: DeadImage) -> None:
        """Put a dead image back among the waiting ones.

        Raises:
            FileNotFoundError: It is gone.
            OSError: The disk refused.
        """
        queue = self.root / image.queue.value
        self._ensure(queue)
        self.disk.rename(self.dead_path(image), queue / file_name(image.id, image.size_bytes))
        self.disk.sync_folder(queue)
        self._discard(self.root / DEAD / f"{image.id}{_REASON}")

    def highest_dead(self) -> str:
        """The newest id among the dead, or an empty string."""
        names = (parse_name(entry.name) for entry in self._scan(self.root / DEAD))
        return max((name[0] for name in names if name), default="")

    def _note_reason(self, image: Pending, reason: str) -> None:
        note = json.dumps({"reason": reason, "queue": image.queue.value}, indent=2, ensure_ascii=False)
        path = self.root / DEAD / f"{image.id}{_REASON}"
        try:
            self._write(path, [note.encode(errors="replace")])
        except OSError as error:  # a full disk must not keep a bad image in the way of the others
            logger.warning("%s was set aside without its reason (%s): %s", image.id, reason, error)
            self._discard(path)

    def _settle_dead(self, limits: DeadLimits) -> None:
        with suppress(OSError):
            self.disk.sync_folder(self.root / DEAD)
        dead = sorted(filter(None, (parse_name(entry.name) for entry in self._scan(self.root / DEAD))))
        total_bytes = sum(size_bytes for _, size_bytes in dead)
        for number, (item, size_bytes) in enumerate(dead):
            if len(dead) - number <= limits.images and total_bytes <= limits.total_bytes:
                break
            self.drop_dead(DeadImage(item, size_bytes, Queue.NORMAL, ""))
            total_bytes -= size_bytes

    def _dead_image(self, item: str, size_bytes: int) -> DeadImage:
        try:
            note = json.loads(self.disk.read(self.root / DEAD / f"{item}{_REASON}"))
            return DeadImage(item, size_bytes, Queue(note["queue"]), str(note["reason"]))
        except (OSError, ValueError, KeyError, TypeError):
            return DeadImage(item, size_bytes, Queue.NORMAL, "unknown")

    # small steps

    def _ensure(self, folder: Path) -> None:
        """Make a folder that an operator may have deleted, so that it survives a loss of power."""
        try:
            made = self.disk.make_folder(folder)
        except FileNotFoundError:
            self._ensure(folder.parent)
            made = self.disk.make_folder(folder)
        if made:
            self._unsynced.add(folder)
        if folder in self._unsynced:
            self.disk.sync_folder(folder.parent)
            self._unsynced.discard(folder)

    def _discard(self, path: Path) -> None:
        try:
            self.disk.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            if path not in self._leftovers:
                logger.warning("%s could not be removed, and is left for later: %s", path, error)
            self._leftovers.add(path)
            return
        self._leftovers.discard(path)

    def _scan(self, folder: Path) -> Iterator[Entry]:
        try:
            yield from self.disk.scan(folder)
        except FileNotFoundError:
            return
