"""Images that older detector software left in the folder, taken over one by one.

Three layouts are known; `<ts>` is a local time, and all names may contain a colon::

    <outbox>/<ts>/image.json, image.jpg
    <outbox>/<ts>/image_<ts>.json, image_<ts>.jpg
    <outbox>/{normal,priority}/<ts>/image_<ts>.json, image_<ts>.jpg

The newest comes first and each gets an id before all that are there, so that their order stays what it was, also when the
takeover is interrupted and goes on later. The token of an id is made from the old name: an image that was made durable but
whose old folder is still there after a crash is recognized.
"""

import json
import logging
import re
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from attrs import frozen

from .backlog import Queue
from .folder import Folder
from .item import Content
from .store import Store

__all__ = ["Takeover"]

logger = logging.getLogger(__name__)

_TIMESTAMP: Final = re.compile(r"\d{4}-\d\d-\d\d[_T]\d\d(:|%3A|-)\d\d(:|%3A|-)\d\d(\.\d+)?", re.ASCII)
_IMAGE: Final = re.compile(r"image(_.*)?\.(jpg|json)", re.ASCII)
_OLD_NAMES: Final = uuid.UUID("5d5d0a0c-5b0e-4d6f-8a35-0d5f0f9a2f11")


@frozen
class _OldFolder:
    path: Path
    queue: Queue

    @property
    def token(self) -> str:
        return uuid.uuid5(_OLD_NAMES, f"{self.path.parent.name}/{self.path.name}").hex[:16]


@frozen
class _OldImage:
    """What lies in an old folder; `fault` says why it cannot be sent, `files` is what goes when it was taken over."""

    content: Content
    files: Sequence[Path]
    fault: str


class Takeover:
    """The takeover at work: `step` takes one image."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._folder = store.folder
        self._waiting: list[_OldFolder] = []
        self._tokens: frozenset[str] = frozenset()

    async def find(self) -> None:
        """Look for old folders."""
        try:
            found = await self._store.run(lambda: _find(self._folder))
        except OSError as error:
            logger.warning("%s could not be searched for older images: %s", self._folder.root, error)
            return
        self._waiting = sorted(found, key=lambda old: old.path.name)
        if found:
            ids = [item for queue in Queue for item in self._store.backlog.ids(queue)]
            self._tokens = frozenset(item[17:] for item in ids)
            logger.info("%d images of an older outbox in %s are being taken over", len(found), self._folder.root)

    @property
    def pending(self) -> bool:
        """Whether there is more to take over."""
        return bool(self._waiting)

    async def step(self) -> None:
        """Take over the newest one; what the disk refuses now is left for the next `find`."""
        old = self._waiting.pop()
        try:
            await self._take(old)
        except OSError as error:
            logger.warning("%s is left for later: %s", old.path, error)

    async def _take(self, old: _OldFolder) -> None:
        store, folder = self._store, self._folder
        image = await store.run(lambda: _read(folder, old))
        if image is None:
            return
        if old.token in self._tokens:
            pass  # a crash came between the last two steps
        elif image.fault:
            await store.bury_foreign(old.token, image.content, f"{old.path.name}: {image.fault}")
            logger.warning("%s was set aside: %s", old.path, image.fault)
        elif not await store.take_over(old.token, old.queue, image.content):
            logger.warning("%s is left for later: there is no room for it", old.path)
            return
        await store.run(lambda: _remove(folder, old, image.files))


def _find(folder: Folder) -> list[_OldFolder]:
    places = [(folder.root, Queue.NORMAL), *((folder.root / queue.value, queue) for queue in Queue)]
    found = []
    for place, queue in places:
        try:
            entries = list(folder.disk.scan(place))
        except FileNotFoundError:
            continue
        found += [
            _OldFolder(place / entry.name, queue)
            for entry in entries
            if entry.is_folder and _TIMESTAMP.fullmatch(entry.name)
        ]
    return found


def _read(folder: Folder, old: _OldFolder) -> _OldImage | None:
    """What lies in the folder; None if it is gone, was empty, or holds nothing of an image."""
    try:
        names = sorted(entry.name for entry in folder.disk.scan(old.path) if not entry.is_folder)
    except FileNotFoundError:
        return None
    if not names:
        folder.disk.remove_folder(old.path)
        return None
    files = [old.path / name for name in names if _IMAGE.fullmatch(name)]
    if not files:
        logger.warning("%s holds no image and is left alone", old.path)
        return None
    jpegs, metadatas = ([path for path in files if path.suffix == suffix] for suffix in (".jpg", ".json"))
    jpeg = folder.disk.read(jpegs[0]) if jpegs else b""
    metadata = folder.disk.read(metadatas[0]) if metadatas else b""
    return _OldImage(Content(jpeg, metadata or b"{}"), files, _fault(jpeg, metadata))


def _fault(jpeg: bytes, metadata: bytes) -> str:
    if not jpeg:
        return "its JPEG is missing or empty"
    if not metadata:
        return "its JSON is missing or empty"
    try:
        readable = isinstance(json.loads(metadata), dict)
    except (ValueError, RecursionError):
        readable = False
    return "" if readable else "its JSON cannot be read"


def _remove(folder: Folder, old: _OldFolder, files: Sequence[Path]) -> None:
    for path in files:
        folder.disk.unlink(path)
    try:
        folder.disk.remove_folder(old.path)
    except OSError as error:
        logger.warning("%s was taken over, but not removed: %s", old.path, error)
    folder.disk.sync_folder(old.path.parent)
