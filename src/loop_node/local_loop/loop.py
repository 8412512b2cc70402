"""The embedded Learning Loop as its doors see it: the store, the accounts and the nodes that are connected."""

import fcntl
import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from sqlite3 import Connection
from typing import Final

import trio
from attrs import define, field

from loop_node.errors import Conflict, SettingsError, StorageFull

from .accounts import Accounts, open_accounts
from .database import Database, open_database
from .folders import Folders, recover
from .images import NewImage, add_images, remove_images
from .links import NodeLinks
from .models import PlannedModel, keep_model, stage_model
from .projects import Project, delete_project, find_project
from .rates import Rate

__all__ = ["LocalLoop", "open_local_loop"]

log = logging.getLogger(__name__)

_TRIES: Final = 5


@define(eq=False, kw_only=True)
class LocalLoop:
    """Everything that is shared between REST, Socket.IO and the pages.

    Attributes:
        max_image_pixels: Larger images are refused.
        max_batch_bytes: Larger uploads of images are refused.
        max_model_bytes: Larger models are refused, unpacked.
        min_free_bytes: What uploads leave free on the disk, so that people can still log in and delete.
        uploads: How often a client may upload images.
        workers: Threads that look at images and make zips, one a core.
    """

    database: Database
    folders: Folders
    accounts: Accounts
    links: NodeLinks = field(factory=NodeLinks)
    max_image_pixels: int
    max_batch_bytes: int
    max_model_bytes: int
    min_free_bytes: int = 0
    uploads: Rate
    workers: trio.CapacityLimiter = field(factory=lambda: trio.CapacityLimiter(2))

    def connected_ids(self) -> set[str]:
        """The ids of the nodes that are connected now."""
        return self.links.ids()

    async def project(self, organization: str, project: str) -> Project:
        """One project.

        Raises:
            NotFound: There is none of this name.
        """
        return await self.database.read(lambda db: find_project(db, organization, project))

    async def check_room(self, wanted_bytes: int | None) -> None:
        """See to it that there is room for an upload of this size, as far as it is known.

        Raises:
            StorageFull: There is not.
        """
        usage = await trio.to_thread.run_sync(shutil.disk_usage, self.folders.root)
        if usage.free - (wanted_bytes or 0) < self.min_free_bytes:
            raise StorageFull(
                f"the disk of the Learning Loop has {usage.free >> 20} MiB free, of which MIN_FREE_DISK_BYTES keeps "
                f"{self.min_free_bytes >> 20} MiB; delete something"
            )

    async def delete_project(self, organization: str, project: str, *, keep_images: bool = False) -> None:
        """Delete a project and its files; its images are kept under another name where that is asked.

        Raises:
            NotFound: There is none of this name.
            StorageFull: No room for the second names.
        """

        def delete(db: Connection) -> int:
            found = find_project(db, organization, project)
            if keep_images:  # in the transaction: no image comes between
                self.folders.keep_images(found.number, organization, project)
            delete_project(db, found)
            return found.number

        number = await self.database.write(delete)
        log.info("project %s/%s was deleted%s", organization, project, ", its images are kept" if keep_images else "")
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self.folders.remove_project, number)

    async def add_images(self, project: Project, images: Sequence[NewImage]) -> list[str]:
        """Keep images that were staged, all or none; returns their ids.

        Raises:
            NotFound: The project has gone meanwhile.
            StorageFull: No room.
        """
        return await self.database.write(
            lambda db: add_images(self.folders, db, project, images),
            undo=partial(remove_images, self.folders, project, images),
        )

    async def keep_model(
        self,
        project: Project,
        plan: Callable[[Connection], PlannedModel],
        model_format: str,
        files: Sequence[tuple[str, Path]],
        host: str,
    ) -> PlannedModel:
        """Keep a model's files in one format; `plan` says which model they belong to.

        The version stands inside of the zip, and is taken only when the zip is whole: should another model have taken it
        meanwhile, the zip is made again.

        Raises:
            InputError: The files are no model.
            Conflict: The model is there in this format already.
        """
        upload = files[0][1].parent if files else self.folders.incoming
        for _ in range(_TRIES):
            planned = await self.database.read(plan)
            stage = partial(
                stage_model, upload, project, planned, model_format, files, host=host, max_bytes=self.max_model_bytes
            )
            staged = await trio.to_thread.run_sync(stage, limiter=self.workers)
            if await self._place_model(project, planned, model_format, staged):
                log.info("%s has model %s in the format %s", project.resource, planned.version, model_format)
                return planned
        raise Conflict("other models came at the same time, again and again; try once more")

    async def _place_model(self, project: Project, planned: PlannedModel, model_format: str, staged: Path) -> bool:
        placed: list[Path] = []

        def place(db: Connection) -> bool:
            kept = keep_model(self.folders, db, project, planned, model_format, staged)
            placed.extend([self.folders.model(project.number, planned.id, model_format)] if kept else [])
            return kept

        def undo() -> None:
            for file in placed:
                file.unlink(missing_ok=True)

        return await self.database.write(place, undo=undo)


@asynccontextmanager
async def open_local_loop(
    folder: Path,
    *,
    username: str | None,
    password: str | None,
    is_loopback: bool,
    max_image_pixels: int,
    max_batch_bytes: int,
    max_model_bytes: int,
    max_uploads_per_minute: int,
    min_free_bytes: int = 0,
) -> AsyncIterator[LocalLoop]:
    """Open the store in `folder`, or make one there.

    Raises:
        SettingsError: The folder cannot be used, or another Learning Loop uses it.
    """
    folders = Folders(folder)
    async with (
        _own(folder),
        open_database(folders.database) as database,
        open_accounts(database, username=username, password=password, is_loopback=is_loopback) as accounts,
    ):
        await database.write(partial(recover, folders))
        yield LocalLoop(
            database=database,
            folders=folders,
            accounts=accounts,
            max_image_pixels=max_image_pixels,
            max_batch_bytes=max_batch_bytes,
            max_model_bytes=max_model_bytes,
            min_free_bytes=min_free_bytes,
            uploads=Rate(max_uploads_per_minute),
        )


@asynccontextmanager
async def _own(folder: Path) -> AsyncIterator[None]:
    """Make the folder and keep other processes out of it; the lock goes with this process, however it ends.

    Raises:
        SettingsError: The folder cannot be used, or another Learning Loop uses it.
    """
    try:
        lock = await trio.to_thread.run_sync(_lock, folder)
    except BlockingIOError:
        raise SettingsError([f"LOCAL_LOOP_FOLDER={folder}: another Learning Loop uses it"]) from None
    except OSError as error:
        raise SettingsError([f"LOCAL_LOOP_FOLDER={folder} cannot be used: {_why(error)}"]) from error
    try:
        yield
    finally:
        os.close(lock)


def _why(error: OSError) -> str:
    return "it is a file, not a folder" if isinstance(error, FileExistsError) else error.strerror or str(error)


def _lock(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # photos and sessions are nobody else's business
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock
