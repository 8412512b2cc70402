"""`loop-node loop ...`: the command line of those who ask a Learning Loop, and whom it asks as whom.

The verbs talk to the Loop at LOOP_HOST, by default the one on this machine, as LOOP_USERNAME with LOOP_PASSWORD.
What they do is in `loop_actions` and `loop_import`.
"""

import argparse
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from loop_node.errors import InputError, LoopError, LoopRefused, SettingsError
from loop_node.local_loop.accounts import DEFAULT_USER
from loop_node.loop.address import loop_url
from loop_node.loop.client import LoopAccess, open_loop_client
from loop_node.loop.faults import FaultKind
from loop_node.settings import Settings

from . import loop_actions
from .loop_actions import Place
from .loop_import import import_images
from .terminal import unusable

__all__ = ["ASKING_VERBS", "add_asking_verbs", "run_asking_verb"]

_STATES: Final = ("inbox", "annotate", "review", "complete", "trash")
_SETS: Final = ("train", "test", "val")
_NO_LOGIN_THERE: Final = (404, 405)
ASKING_VERBS: Final = ("project", "import", "images", "model", "train", "nodes")


def _place(text: str) -> Place:
    organization, slash, project = text.partition("/")
    if not slash or not organization or not project or "/" in project:
        raise argparse.ArgumentTypeError(f"{text!r} must be ORGANIZATION/PROJECT")
    return Place(organization, project)


def _category(text: str) -> dict[str, str]:
    name, _, kind = text.partition(":")
    return {"name": name, "type": kind or "box"}


def _hyperparameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} must be NAME=VALUE")
    for read in (int, float):
        try:
            return name, read(value)
        except ValueError:
            continue
    return name, {"true": True, "false": False}.get(value.lower(), value)


def add_asking_verbs(parser: argparse.ArgumentParser) -> None:
    """The verbs below `loop-node loop`; without one, the Loop itself runs."""
    parser.description = "Without a VERB, run a Learning Loop on this machine; with one, ask a Learning Loop that runs."
    parser.epilog = (
        "The verbs ask the Learning Loop at LOOP_HOST (default: the one on this machine) as LOOP_USERNAME with "
        "LOOP_PASSWORD, which are also the user of the Learning Loop that is run here."
    )
    verbs = parser.add_subparsers(dest="asks", metavar="VERB")
    _add_project(verbs.add_parser("project", help="list, make or delete projects"))
    _add_import(verbs.add_parser("import", help="take in JPEG files, perhaps with a COCO file"))
    _add_images(verbs.add_parser("images", help="count, move or download images"))
    _add_model(verbs.add_parser("model", help="list, upload or download models, choose the deployment target"))
    _add_train(verbs.add_parser("train", help="begin, watch, stop or abort a training"))
    verbs.add_parser("nodes", help="the nodes that have told of themselves").set_defaults(ask=loop_actions.list_nodes)


def _verb(parser: argparse.ArgumentParser) -> Callable[..., argparse.ArgumentParser]:
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    def add(name: str, ask: Callable[..., Awaitable[None]], said: str) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=said)
        action.set_defaults(ask=ask)
        return action

    return add


def _add_project(parser: argparse.ArgumentParser) -> None:
    add = _verb(parser)
    add("ls", loop_actions.list_projects, "all projects")
    create = add("create", loop_actions.create_project, "make a project")
    create.add_argument("place", type=_place, metavar="ORGANIZATION/PROJECT")
    create.add_argument(
        "--category",
        dest="categories",
        type=_category,
        action="append",
        default=[],
        metavar="NAME[:TYPE]",
        help="box (default), point, segmentation or classification; may be given again",
    )
    delete = add("delete", loop_actions.delete_project, "delete a project and all that belongs to it")
    delete.add_argument("place", type=_place, metavar="ORGANIZATION/PROJECT")
    delete.add_argument("--keep-images", action="store_true", help="keep the image files in the Loop's kept_images")
    delete.add_argument("--yes", action="store_true", help="do it; without this, only say what would go")


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(ask=import_images)
    parser.add_argument("place", type=_place, metavar="ORGANIZATION/PROJECT")
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="JPEG files, or folders of them")
    parser.add_argument("--annotations", type=Path, metavar="COCO.json", help="matched by file name")
    parser.add_argument("--state", choices=_STATES, default="inbox")
    parser.add_argument("--set", dest="data_set", choices=_SETS, default="train")
    parser.add_argument("--tag", dest="tags", action="append", default=[], metavar="TAG", help="may be given again")


def _add_images(parser: argparse.ArgumentParser) -> None:
    add = _verb(parser)
    count = add("count", loop_actions.count_images, "how many images are in each state")
    count.add_argument("place", type=_place, metavar="ORGANIZATION/PROJECT")
    ls = add("ls", loop_actions.list_images, "the ids of images")
    move = add("move", loop_actions.move_images, "move images to a state")
    download = add("download", loop_actions.download_images, "download images")
    for action in (ls, move, download):
        action.add_argument("place", type=_place, metavar="ORGANIZATION/PROJECT")
        action.add_argument("--state", choices=_STATES, help="of the images; default: all but trash")
    move.add_argument("--to", required=True, choices=_STATES)
    move.add_argument(
        "--id",
        dest="ids",
        action="append",
        default=[],
        metavar="ID",
        help="may be given again; default: all of --state",
    )
    download.add_argument("folder", type=Path, metavar="FOLDER")


def _add_model(parser: argparse.ArgumentParser) -> None:
    add = _verb(parser)
    ls = add("ls", loop_actions.list_models, "all models, the newest first")
    upload = add("upload", loop_actions.upload_model, "upload a model zip; it gets the next major version")
    target = add("target", loop_actions.choose_target, "let detectors follow a version")
    download = add("download", loop_actions.download_model, "download a model zip")
    for action in (ls, upload, target, download):
        action.add_argument("place", type=_place, metavar="ORGANIZATION/PROJECT")
    for action in (target, download):
        action.add_argument("version", metavar="VERSION")
    upload.add_argument("files", type=Path, nargs="+", metavar="FILE", help="one zip, or the model's files")
    download.add_argument("file", type=Path, metavar="FILE", help="the zip to write")
    for action in (upload, download):
        action.add_argument("--format", dest="model_format", default="openvino", metavar="FORMAT")


def _add_train(parser: argparse.ArgumentParser) -> None:
    add = _verb(parser)
    ls = add("ls", loop_actions.list_trainings, "all trainings, the newest first")
    begin = add("begin", loop_actions.begin_training, "let a connected trainer begin a training")
    watch = add("watch", loop_actions.watch_training, "follow a training to its end")
    stop = add("stop", partial(loop_actions.end_training, "stop"), "end a training and keep its best model")
    abort = add("abort", partial(loop_actions.end_training, "abort"), "end a training and keep nothing")
    for action in (ls, begin, watch, stop, abort):
        action.add_argument("place", type=_place, metavar="ORGANIZATION/PROJECT")
    for action in (watch, stop, abort):
        action.add_argument("number", type=int, metavar="NUMBER")
    begin.add_argument("--trainer", metavar="TRAINER", help="id or name; default: one that is idle")
    begin.add_argument("--variant", default="", metavar="VARIANT", help="the model's architecture")
    begin.add_argument("--base", metavar="VERSION", help="the model to start from")
    begin.add_argument(
        "--set", dest="hyperparameters", type=_hyperparameter, action="append", default=[], metavar="NAME=VALUE"
    )
    begin.add_argument("--watch", action="store_true", help="and follow it to its end")


def run_asking_verb(options: argparse.Namespace, settings: Settings) -> None:
    """Ask the Loop, and print what it says.

    Raises:
        SettingsError: There is a user without a password, or a password without a user.
        LoopError: It was not reached, or it said no.
        InputError: A file on this side cannot be read or written.
    """
    access = _access(settings)

    async def ask() -> None:
        async with open_loop_client(access) as client:
            with _refused_login_explained(access):
                await options.ask(client, options)

    try:
        trio.run(ask)
    except* OSError as errors:  # those of the network have become LoopErrors
        raise InputError("; ".join(unusable(error) for error in _leaves(errors))) from None


def _leaves(errors: BaseExceptionGroup[OSError]) -> Iterator[OSError]:
    for error in errors.exceptions:
        if isinstance(error, OSError):
            yield error
        else:
            yield from _leaves(error)


def _access(settings: Settings) -> LoopAccess:
    username, password = settings.loop_username, settings.loop_password
    if (username is None) != (password is None):
        raise SettingsError(["LOOP_USERNAME and LOOP_PASSWORD: the Learning Loop's user needs both"])
    if username is None:
        username, password = DEFAULT_USER
    return LoopAccess(
        url=loop_url(settings.loop_host or f"http://127.0.0.1:{settings.node_port}"),
        username=username,
        password=password,
        ca_file=settings.loop_ssl_cert_path,
    )


@contextmanager
def _refused_login_explained(access: LoopAccess) -> Iterator[None]:
    """In words of ours: those of the Loop may hold the password, and are of no use once it is blotted out."""
    try:
        yield
    except LoopRefused as refusal:
        if refusal.kind != FaultKind.LOGIN:
            raise
        if refusal.status in _NO_LOGIN_THERE:
            said = f"what answers at {access.url} is no Learning Loop (it knows no login): check LOOP_HOST"
        else:
            said = (
                f"the Learning Loop at {access.url} does not let in the user {access.username} with this password: "
                "check LOOP_USERNAME and LOOP_PASSWORD"
            )
        raise LoopError(said) from None
