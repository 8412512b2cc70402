"""Thumbnails: made when an image comes, and anew where one is missing. All blocking."""

from pathlib import Path
from threading import get_ident

from loop_node.errors import NotFound, StorageFull
from loop_node.images import inspect_jpeg

from .folders import Folders
from .projects import Project

__all__ = ["keep_thumbnail", "make_thumbnail"]


def keep_thumbnail(file: Path, thumbnail: bytes) -> None:
    """Whole or not there. Not durable, and not there on a full disk, or where none came: it can be made anew."""
    if not thumbnail:
        return
    unfinished = file.with_name(f".{file.name}.{get_ident()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(thumbnail)
        unfinished.rename(file)
    except OSError:
        unfinished.unlink(missing_ok=True)


def make_thumbnail(folders: Folders, project: Project, image_id: str, max_pixels: int) -> Path:
    """The thumbnail's file, made anew if it is not there. Blocking.

    Raises:
        NotFound: The image has gone meanwhile.
        StorageFull: No room for it.
    """
    file = folders.thumbnail(project.number, image_id)
    if not file.is_file():
        try:
            image = folders.image(project.number, image_id).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"{project.resource} has no image {image_id[:60]!r} any more") from None
        keep_thumbnail(file, inspect_jpeg(image, max_pixels=max_pixels).thumbnail)
        if not file.is_file():
            raise StorageFull("the disk of the Learning Loop has no room for a thumbnail")
    return file
