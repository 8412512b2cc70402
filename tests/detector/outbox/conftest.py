"""A disk in memory whose power can be cut, a disk that fails on demand, and an outbox without threads."""

from contextlib import asynccontextmanager, contextmanager, nullcontext
from copy import deepcopy
from errno import ENOENT
from functools import partial
from pathlib import Path

import pytest
import trio

from loop_node.detector.outbox import Limits, open_outbox
from loop_node.detector.outbox.disk import Entry
from loop_node.schemas.detections import ImageMetadata

HOME = Path("/data")
OUTBOX = HOME / "outbox"
METADATA = ImageMetadata(tags=["a"], created="2026-11-23_02:34:25.998")


class MemoryDisk:
    """A file system in memory. What was not synced is known, so `after_power_loss` can take it away.

    `inodes` maps numbers to files (bytes) and folders (name -> number); `safe` is what survives of each.
    """

    def __init__(self):
        self.inodes = {0: {}}
        self.safe = {0: {}}
        self.free = 10**12
        self.on_change = lambda: None
        self.opened = 0

    def after_power_loss(self, keep):
        """A new disk with what is left.

        `keep(what, inode)` says whether an unsynced change made it to the disk anyway: of the "name" of a file or folder,
        or of its "content". A rename is one change of a name, as in a file system with a journal.
        """
        left = MemoryDisk()
        left.inodes = {0: {}}
        self._copy(0, 0, left, keep)
        left.safe = deepcopy(left.inodes)
        return left

    def _copy(self, source, target, left, keep):
        now, safe = self.inodes[source], self.safe.get(source, {})
        names = {}
        for name in now.keys() | safe.keys():
            changed = now.get(name) != safe.get(name)
            inode = now.get(name) if changed and keep("name", now.get(name, safe.get(name))) else safe.get(name)
            if inode is not None:
                names[name] = inode
        for name, inode in names.items():
            number = len(left.inodes)
            left.inodes[target][name] = number
            if isinstance(self.inodes[inode], dict):
                left.inodes[number] = {}
                self._copy(inode, number, left, keep)
            else:
                written, safe_bytes = self.inodes[inode], self.safe.get(inode, b"")
                left.inodes[number] = written if keep("content", inode) else safe_bytes

    def _find(self, path):
        inode = 0
        for part in path.relative_to(HOME).parts:
            folder = self.inodes[inode]
            if not isinstance(folder, dict) or part not in folder:
                raise FileNotFoundError(ENOENT, "No such file or directory", str(path))
            inode = folder[part]
        return inode

    def _folder(self, path):
        return self.inodes[self._find(path)]

    @contextmanager
    def create(self, path):
        inode = self.opened = max(self.inodes) + 1
        self._folder(path.parent)[path.name] = inode
        self.inodes[inode] = b""
        self.on_change()
        yield MemoryFile(self, inode)

    def read(self, path):
        data = self.inodes[self._find(path)]
        if isinstance(data, dict):
            raise IsADirectoryError(str(path))
        return data

    def rename(self, source, target):
        inode = self._find(source)
        self._folder(target.parent)[target.name] = inode
        del self._folder(source.parent)[source.name]
        self.on_change()

    def unlink(self, path):
        self._find(path)
        del self._folder(path.parent)[path.name]
        self.on_change()

    def make_folder(self, path):
        folder = self._folder(path.parent)
        if path.name in folder:
            return False
        inode = max(self.inodes) + 1
        self.inodes[inode] = {}
        folder[path.name] = inode
        self.on_change()
        return True

    def remove_folder(self, path):
        if self._folder(path):
            raise OSError("not empty")
        del self._folder(path.parent)[path.name]
        self.on_change()

    def sync_folder(self, path):
        inode = self._find(path)
        self.safe[inode] = dict(self.inodes[inode])
        self.on_change()

    def scan(self, path):
        for name, inode in list(self._folder(path).items()):
            yield Entry(name, isinstance(self.inodes[inode], dict))

    def changed_at_s(self, path):
        self._find(path)
        return 0.0

    def free_bytes(self, path):
        self._find(path)
        return self.free

    def put(self, path, data):
        """A file that was there before, safe and sound."""
        for folder in reversed(path.relative_to(HOME).parents):
            self.make_folder(HOME / folder) if folder != Path() else None
        with self.create(path) as file:
            file.write(data)
            file.sync()
        for folder in path.relative_to(HOME).parents:
            self.sync_folder(HOME / folder)

    def names(self, path=OUTBOX):
        """The names of the files in a folder and below, sorted."""
        found = []
        for entry in self.scan(path) if path == HOME or path.name in self._folder(path.parent) else ():
            below = path / entry.name
            found += self.names(below) if entry.is_folder else [str(below.relative_to(OUTBOX))]
        return sorted(found)


class MemoryFile:
    def __init__(self, disk, inode):
        self.disk, self.inode = disk, inode

    def write(self, data):
        self.disk.inodes[self.inode] += bytes(data)
        self.disk.on_change()

    def sync(self):
        self.disk.safe[self.inode] = self.disk.inodes[self.inode]
        self.disk.on_change()


CALLS = ("create", "read", "rename", "unlink", "make_folder", "remove_folder", "sync_folder", "scan", "free_bytes")


class FailingDisk:
    """Another disk, of which `fault(call, path)` makes calls raise; a failing write has written half."""

    def __init__(self, disk, fault):
        self._disk, self.fault = disk, fault

    def __getattr__(self, name):
        return partial(self._call, name) if name in CALLS else getattr(self._disk, name)

    def _call(self, name, path, *rest):
        self.check(name, path)
        if name == "create":
            return self._create(path)
        return getattr(self._disk, name)(path, *rest)

    @contextmanager
    def _create(self, path):
        with self._disk.create(path) as file:
            yield FailingFile(self, path, file)

    def check(self, name, path):
        error = self.fault(name, path)
        if error:
            raise error


class FailingFile:
    def __init__(self, disk, path, file):
        self.disk, self.path, self.file = disk, path, file

    def write(self, data):
        try:
            self.disk.check("write", self.path)
        except OSError:
            self.file.write(data[: len(data) // 2])
            raise
        self.file.write(data)

    def sync(self):
        self.disk.check("sync", self.path)
        self.file.sync()


class Handle:
    """What a task is given; remembers what it said."""

    def __init__(self):
        self.reasons = []
        self.is_ready = False

    def ready(self):
        self.is_ready = True

    def waiting(self, reason):
        self.reasons.append(reason)
        return nullcontext()


class Loop:
    """A Learning Loop in memory: `answer(images)` raises or returns."""

    def __init__(self, answer=lambda images: None):
        self.answer = answer
        self.requests = []
        self.has = {}
        self.times_s = []

    async def __call__(self, images):
        await trio.lowlevel.checkpoint()
        self.requests.append([image.id for image in images])
        self.times_s.append(trio.current_time())
        self.answer(images)
        self.has |= {image.id: image for image in images}


def without_threads():
    """Blocking work done at once."""

    async def run(work):
        await trio.lowlevel.checkpoint()
        return work()

    return run


@asynccontextmanager
async def open_running(disk, send=None, *, folder=OUTBOX, limits=None, handle=None, rng=lambda: 0.0, **options):
    """An outbox with its writer, and its drainer if there is something to `send` with."""
    options = {"run_blocking": without_threads} | options
    async with open_outbox(folder, limits or Limits(), disk=disk, **options) as outbox, trio.open_nursery() as nursery:
        nursery.start_soon(outbox.run_writer, Handle())
        if send:
            nursery.start_soon(partial(outbox.run_drainer, send, handle or Handle(), rng=rng))
        yield outbox
        nursery.cancel_scope.cancel()


def balanced(stats):
    """Whether every image is in exactly one place."""
    return stats.stored == stats.uploaded + stats.dead + sum(stats.dropped.values()) + sum(stats.images.values())


@pytest.fixture
def disk():
    return MemoryDisk()
