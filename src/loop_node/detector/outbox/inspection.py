"""What an operator does with an outbox's folder, whether or not a node works on it. Blocking.

A node that runs notices within a minute what was put back or dropped here. Images may leave under our hands, because a
node sends them: then they are skipped and said to be gone.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from pathlib import Path

from attrs import evolve, frozen

from loop_node.errors import NotFound

from .backlog import Pending, Queue
from .disk import Disk, RealDisk
from .folder import DeadImage, Folder
from .item import BrokenItem, unpack

__all__ = [
    "ListedImage",
    "Outcome",
    "Place",
    "PlaceStats",
    "drop_images",
    "export_images",
    "folder_stats",
    "list_images",
    "pick",
    "retry_images",
]


class Place(StrEnum):
    """Where an image lies."""

    PRIORITY = "priority"
    NORMAL = "normal"
    DEAD = "dead"


@frozen(kw_only=True)
class ListedImage:
    """An image as it is listed.

    Attributes:
        queue: Where it waits, or waited before it was given up.
        age_s: Time since it was stored, by this machine's clock.
        reason: Why it was given up; empty while it waits.
    """

    id: str
    place: Place
    queue: Queue
    size_bytes: int
    age_s: float = 0.0
    reason: str = ""


@frozen(kw_only=True)
class PlaceStats:
    """What lies in one place; `oldest_s` is 0 where nothing does."""

    images: int
    size_bytes: int
    oldest_s: float


@frozen
class Outcome:
    """What came of one image; `problem` is empty if it was done."""

    id: str
    problem: str = ""


def list_images(folder: Path, *, disk: Disk | None = None) -> list[ListedImage]:
    """All images of the outbox: priority in the order they came, normal newest first, then the dead, oldest first.

    Raises:
        NotFound: There is no such folder.
        OSError: It cannot be read.
    """
    files = _files(folder, disk)
    try:
        next(files.disk.scan(folder), None)
    except FileNotFoundError:
        raise NotFound(f"there is no outbox in {folder} (DATA_FOLDER says where it is)") from None
    waiting = files.survey()
    priority = [image for image in waiting if image.queue is Queue.PRIORITY]
    normal = [image for image in reversed(waiting) if image.queue is Queue.NORMAL]
    listed = [_listed(files, image, Place(image.queue.value), "") for image in priority + normal]
    dead = [_listed(files, _waiting(image), Place.DEAD, image.reason) for image in files.dead()]
    return [image for image in listed + dead if image]


def pick(images: Sequence[ListedImage], ids: Iterable[str]) -> list[ListedImage]:
    """Those of `images` that have one of `ids`.

    Raises:
        NotFound: An id that none of them has.
    """
    by_id = {image.id: image for image in images}
    missing = [item for item in ids if item not in by_id]
    if missing:
        raise NotFound(f"no image in the outbox is called {', '.join(missing)}")
    return [by_id[item] for item in ids]


def folder_stats(images: Iterable[ListedImage]) -> dict[Place, PlaceStats]:
    """How much lies where."""
    by_place: dict[Place, list[ListedImage]] = {place: [] for place in Place}
    for image in images:
        by_place[image.place].append(image)
    return {
        place: PlaceStats(
            images=len(there),
            size_bytes=sum(image.size_bytes for image in there),
            oldest_s=max((image.age_s for image in there), default=0.0),
        )
        for place, there in by_place.items()
    }


def export_images(
    folder: Path, images: Iterable[ListedImage], into: Path, *, disk: Disk | None = None
) -> list[Outcome]:
    """Write `image_<id>.jpg` and `image_<id>.json` for each of `images` into the folder `into`, which is made.

    The images stay in the outbox.

    Raises:
        OSError: The folder cannot be written.
    """
    files = _files(folder, disk)
    into.mkdir(parents=True, exist_ok=True)

    def export(image: ListedImage) -> None:
        content = unpack(files.disk.read(_path(files, image)))
        (into / f"image_{image.id}.jpg").write_bytes(content.jpeg)
        (into / f"image_{image.id}.json").write_bytes(content.metadata)

    return [_outcome(image, export) for image in images]


def retry_images(folder: Path, images: Iterable[ListedImage], *, disk: Disk | None = None) -> list[Outcome]:
    """Put dead images back into the queue they were in; for those that wait there is nothing to do."""
    files = _files(folder, disk)

    def retry(image: ListedImage) -> None:
        if image.place is Place.DEAD:
            files.revive(_dead(image))

    return [_outcome(image, retry) for image in images]


def drop_images(folder: Path, images: Iterable[ListedImage], *, disk: Disk | None = None) -> list[Outcome]:
    """Delete images for good."""
    files = _files(folder, disk)

    def drop(image: ListedImage) -> None:
        files.disk.unlink(_path(files, image))
        if image.place is Place.DEAD:
            files.drop_dead(_dead(image))

    return [_outcome(image, drop) for image in images]


def _files(folder: Path, disk: Disk | None) -> Folder:
    return Folder(folder, disk or RealDisk())


def _listed(files: Folder, image: Pending, place: Place, reason: str) -> ListedImage | None:
    """None if it has gone meanwhile."""
    listed = ListedImage(id=image.id, place=place, queue=image.queue, size_bytes=image.size_bytes, reason=reason)
    try:
        stored_at_s = files.disk.changed_at_s(_path(files, listed))
    except FileNotFoundError:
        return None
    return evolve(listed, age_s=max(0.0, time.time() - stored_at_s))


def _outcome(image: ListedImage, work: Callable[[ListedImage], None]) -> Outcome:
    try:
        work(image)
    except FileNotFoundError:
        return Outcome(image.id, "is gone")
    except BrokenItem as error:
        return Outcome(image.id, f"is broken: {error}")
    except OSError as error:
        return Outcome(image.id, str(error))
    return Outcome(image.id)


def _path(files: Folder, image: ListedImage) -> Path:
    return files.dead_path(_dead(image)) if image.place is Place.DEAD else files.path(_waiting(image))


def _waiting(image: ListedImage | DeadImage) -> Pending:
    return Pending(image.id, image.queue, image.size_bytes)


def _dead(image: ListedImage) -> DeadImage:
    return DeadImage(image.id, image.size_bytes, image.queue, image.reason)
