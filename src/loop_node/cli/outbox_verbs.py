"""`loop-node outbox ...`: what lies in a detector's outbox, whether or not the detector runs."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from loop_node.detector.outbox import inspection
from loop_node.errors import InputError

__all__ = ["add_outbox_verbs", "run_outbox_verb"]

_KIB: Final = 1024.0


def add_outbox_verbs(parser: argparse.ArgumentParser) -> None:
    """The actions of `loop-node outbox`."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    ls = actions.add_parser("ls", help="the images, in the order in which they are sent; then the dead ones")
    ls.set_defaults(act=_list)
    actions.add_parser("stats", help="how many there are, how large, how old").set_defaults(act=_stats)
    export = actions.add_parser("export", help="copy images and their metadata to a folder")
    export.set_defaults(act=_export)
    export.add_argument("folder", type=Path, metavar="FOLDER")
    retry = actions.add_parser("retry", help="let dead images be sent again")
    retry.set_defaults(act=_retry)
    drop = actions.add_parser("drop", help="delete images for good")
    drop.set_defaults(act=_drop)
    for action in (ls, export, retry, drop):
        action.add_argument("ids", nargs="*", metavar="ID", help="default: all; for drop they must be named, or --all")
    drop.add_argument("--all", action="store_true", dest="drop_all", help="all images, waiting and dead")


def run_outbox_verb(options: argparse.Namespace, data_folder: Path) -> None:
    """Do it, and say what came of it.

    Raises:
        InputError: There is no such image, or no outbox at all.
    """
    options.act(options, data_folder / "outbox")


def _list(options: argparse.Namespace, outbox: Path) -> None:
    for image in _picked(options, outbox):
        reason = f"  {image.reason}" if image.reason else ""
        _say(f"{image.id}  {image.place:8}  {image.size_bytes / _KIB:8.0f} KiB  {image.age_s:8.0f} s{reason}")


def _stats(_options: argparse.Namespace, outbox: Path) -> None:
    for place, stats in inspection.folder_stats(inspection.list_images(outbox)).items():
        _say(f"{place:8}  {stats.images:7} images  {stats.size_bytes / _KIB:10.0f} KiB  oldest {stats.oldest_s:8.0f} s")
