"""`loop-node outbox ...`: what lies in a detector's outbox, whether or not the detector runs."""

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from loop_node.detector.outbox import inspection
from loop_node.detector.outbox.inspection import ListedImage, Outcome
from loop_node.errors import InputError

from .terminal import progress, say

__all__ = ["add_outbox_verbs", "run_outbox_verb"]

_KIB: Final = 1024.0


def add_outbox_verbs(parser: argparse.ArgumentParser) -> None:
    """The actions of `loop-node outbox`."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    ls = actions.add_parser("ls", help="the images in the order in which they are sent, then those that were given up")
    ls.set_defaults(act=_list)
    actions.add_parser("stats", help="how many there are, how large, how old").set_defaults(act=_stats)
    export = actions.add_parser("export", help="copy images and their metadata to a folder")
    export.set_defaults(act=_export)
    export.add_argument("folder", type=Path, metavar="FOLDER")
    retry = actions.add_parser("retry", help="let images that were given up be sent again")
    retry.set_defaults(act=_retry)
    drop = actions.add_parser("drop", help="delete images for good")
    drop.set_defaults(act=_drop)
    drop.add_argument("--all", action="store_true", dest="drop_all", help="all images, waiting and given up")
    for action in (ls, export, retry):
        action.add_argument("ids", nargs="*", metavar="ID", help="default: all")
    drop.add_argument("ids", nargs="*", metavar="ID")


def run_outbox_verb(options: argparse.Namespace, data_folder: Path) -> None:
    """Do it, and say what came of it.

    Raises:
        InputError: There is no such image, no outbox at all, or some of the images could not be worked on.
    """
    outbox = data_folder / "outbox"
    try:
        options.act(options, outbox)
    except OSError as error:
        raise InputError(f"{error.filename or outbox}: {error.strerror}") from error


def _list(options: argparse.Namespace, outbox: Path) -> None:
    for image in _picked(options, outbox):
        reason = f"  {image.reason}" if image.reason else ""
        say(f"{image.id}  {image.place:8}  {image.size_bytes / _KIB:8.0f} KiB  {image.age_s:8.0f} s{reason}")


def _stats(_options: argparse.Namespace, outbox: Path) -> None:
    for place, stats in inspection.folder_stats(inspection.list_images(outbox)).items():
        say(f"{place:8}  {stats.images:7} images  {stats.size_bytes / _KIB:10.0f} KiB  oldest {stats.oldest_s:8.0f} s")


def _export(options: argparse.Namespace, outbox: Path) -> None:
    folder = options.folder
    _work("exported", _picked(options, outbox), lambda images: inspection.export_images(outbox, images, folder))


def _retry(options: argparse.Namespace, outbox: Path) -> None:
    dead = [image for image in _picked(options, outbox) if image.place is inspection.Place.DEAD]
    _work("put back", dead, lambda images: inspection.retry_images(outbox, images))


def _drop(options: argparse.Namespace, outbox: Path) -> None:
    if bool(options.ids) == options.drop_all:
        raise InputError("name the images to delete, or say --all")
    _work("deleted", _picked(options, outbox), lambda images: inspection.drop_images(outbox, images))


def _picked(options: argparse.Namespace, outbox: Path) -> list[ListedImage]:
    images = inspection.list_images(outbox)
    return inspection.pick(images, options.ids) if options.ids else images


def _work(done: str, images: Sequence[ListedImage], work: Callable[[Iterable[ListedImage]], list[Outcome]]) -> None:
    with progress(len(images), "images") as advance:
        outcomes = work(_told(images, advance))
    failed = [outcome for outcome in outcomes if outcome.problem]
    say(f"{done}: {len(outcomes) - len(failed)} of {len(images)}")
    for outcome in failed:
        say(f"{outcome.id} {outcome.problem}")
    if failed:
        raise InputError(f"{len(failed)} images were not {done}")


def _told(images: Sequence[ListedImage], advance: Callable[..., None]) -> Iterator[ListedImage]:
    for image in images:
        yield image
        advance(1)
