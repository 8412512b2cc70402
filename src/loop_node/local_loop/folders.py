"""The folder of an embedded Learning Loop, and how files get into it so that a kill at any moment leaves it whole.

Layout::

    loop.sqlite3                                   every record
    lock                                           held by the process that serves
    incoming/<upload>/                             files on their way in, gone with their request
    projects/<number>/images/<id[:2]>/<id>.jpg
    projects/<number>/thumbnails/<id[:2]>/<id>.jpg made anew when missing
    projects/<number>/models/<id>/<format>.zip
    kept_images/<organization>/<project>/          images of projects that were deleted without them

Invariants:

1. A record is written after its file is on disk whole (file and folders fsynced), and removed before its file.
2. An image's file below `projects` that has no record has a second name in `incoming`, `<number>-<id>.jpg`, until its record
   is written; a model's file that has no record is found by comparing few files with few records. A project that is made
   together with its images is staged in `incoming` as a whole folder: one without a record goes as a whole.

So a start after a kill finds every record's file, and removes what has no record without reading the whole folder.
"""

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from attrs import frozen

from loop_node.durable import make_folder, remove, sync_folder
from loop_node.errors import StorageFull

__all__ = ["Folders", "no_room_is_storage_full", "place", "recover"]

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)


@frozen
class Folders:
    """Where everything lies."""

    root: Path

    @property
    def database(self) -> Path:
        """All records."""
        return self.root / "loop.sqlite3"

    @property
    def incoming(self) -> Path:
        """Uploads on their way in."""
        return self.root / "incoming"

    def project(self, number: int) -> Path:
        """All files of a project."""
        return self.root / "projects" / str(number)

    def image(self, project: int, image_id: str) -> Path:
        """An image as it came."""
        return self.project(project) / "images" / image_id[:2] / f"{image_id}.jpg"

    def thumbnail(self, project: int, image_id: str) -> Path:
        """The same, small and upright."""
        return self.project(project) / "thumbnails" / image_id[:2] / f"{image_id}.jpg"

    def model(self, project: int, model_id: str, model_format: str) -> Path:
        """A model's zip in one format."""
        return self.project(project) / "models" / model_id / f"{model_format}.zip"

    def kept_images(self, organization: str, project: str) -> Path:
        """Images of a project that was deleted without them."""
        return self.root / "kept_images" / organization / project

    def keep_images(self, number: int, organization: str, project: str) -> None:
        """Give the images of a project that is about to go a second name. Blocking.

        Raises:
            StorageFull: No room for them.
        """
        kept = self.kept_images(organization, project)
        with no_room_is_storage_full():
            make_folder(kept)
            for image in self.project(number).glob("images/*/*.jpg"):
                with suppress(FileExistsError):
                    os.link(image, kept / image.name)
            sync_folder(kept)

    def remove_project(self, number: int) -> None:
        """Remove the files of a project whose records are gone. Blocking; a start after a kill does the rest."""
        shutil.rmtree(self.project(number), ignore_errors=True)

    def staged_image(self, upload: Path, project: int, image_id: str) -> Path:
        """The second name of an image whose record is not written yet."""
        return upload / f"{project}-{image_id}.jpg"


@contextmanager
def no_room_is_storage_full() -> Iterator[None]:
    """Let a full disk be told as what it is.

    Raises:
        StorageFull: Something could not be written for want of room.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StorageFull("the disk of the Learning Loop is full; nothing was kept") from error
        raise


def place(files: Iterable[tuple[Path, Path]]) -> None:
    """Give each file (durably written before) a second name, durably."""
    folders = set()
    for staged, final in files:
        make_folder(final.parent)
        os.link(staged, final)
        folders.add(final.parent)
    for folder in folders:
        sync_folder(folder)


def recover(folders: Folders, db: sqlite3.Connection) -> None:
    """Remove what a process that was killed has left; to be called before anything is served. Blocking."""
    folders.incoming.mkdir(parents=True, exist_ok=True)
    for staged in folders.incoming.glob("*/*-*.jpg"):
        project, _, image_id = staged.stem.partition("-")
        if project.isdigit() and not db.execute("SELECT 1 FROM images WHERE id = ?", (image_id,)).fetchone():
            folders.image(int(project), image_id).unlink(missing_ok=True)
    for left in folders.incoming.iterdir():
        remove(left)
    _remove_unknown_projects(folders, db)
    known = {(model, f"{form}.zip") for model, form in db.execute("SELECT model_id, format FROM model_files")}
    for file in (folders.root / "projects").glob("*/models/*/*.zip"):
        if (file.parent.name, file.name) not in known:
            file.unlink()


def _remove_unknown_projects(folders: Folders, db: sqlite3.Connection) -> None:
    (folders.root / "projects").mkdir(exist_ok=True)
    known = {str(number) for (number,) in db.execute("SELECT id FROM projects")}
    for folder in (folders.root / "projects").iterdir():
        if folder.name not in known:
            remove(folder)
