"""`loop-node loop ...`: the embedded Learning Loop, and what people do with one that runs.

The verbs talk to the Loop at LOOP_HOST, by default the one on this machine, as LOOP_USERNAME with LOOP_PASSWORD.
Answers go to stdout, an answer without anything in it included.
"""

import argparse
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import trio
from attrs import frozen

from loop_node.errors import InputError, LoopError, LoopRefused, SettingsError
from loop_node.local_loop.accounts import DEFAULT_USER
from loop_node.loop.address import loop_url
from loop_node.loop.client import LoopAccess, LoopClient, open_loop_client
from loop_node.loop.faults import FaultKind
from loop_node.loop.multipart import FilePart
from loop_node.settings import Settings

from .loop_import import import_images
from .terminal import counted, progress, say, steps_of_bytes, unusable

__all__ = ["ASKING_VERBS", "add_asking_verbs", "run_asking_verb"]

_STATES: Final = ("inbox", "annotate", "review", "complete", "trash")
_SETS: Final = ("train", "test", "val")
_LONGEST_DOWNLOAD_BYTES: Final = 1 << 40
_POLL_S: Final = 1.0
_NO_LOGIN_THERE: Final = (404, 405)
ASKING_VERBS: Final = ("project", "import", "images", "model", "train", "nodes")


@frozen
class _Place:
    """A project of the Loop, as `ORGANIZATION/PROJECT` names it."""

    organization: str
    project: str

    @property
    def contract(self) -> str:
        """Its path in the wire contract."""
        return f"/{quote(self.organization, safe='')}/projects/{quote(self.project, safe='')}"

    @property
    def local(self) -> str:
        """Its path in the management API."""
        return f"/local/{quote(self.organization, safe='')}/{quote(self.project, safe='')}"


def _place(text: str) -> _Place:
    organization, slash, project = text.partition("/")
    if not slash or not organization or not project or "/" in project:
        raise argparse.ArgumentTypeError(f"{text!r} must be ORGANIZATION/PROJECT")
    return _Place(organization, project)


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
    verbs.add_parser("nodes", help="the nodes that have told of themselves").set_defaults(ask=_nodes)


def _verb(parser: argparse.ArgumentParser) -> Callable[..., argparse.ArgumentParser]:
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    def add(name: str, ask: Callable[..., Awaitable[None]], said: str) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=said)
        action.set_defaults(ask=ask)
        return action

    return add


def _add_project(parser: argparse.ArgumentParser) -> None:
    add = _verb(parser)
    add("ls", _projects, "all projects")
    create = add("create", _create, "make a project")
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
    delete = add("delete", _delete, "delete a project and all that belongs to it")
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
    count = add("count", _count, "how many images are in each state")
    count.add_argument("place", type=_place, metavar="ORGANIZATION/PROJECT")
    ls = add("ls", _list_images, "the ids of images")
    move = add("move", _move, "move images to a state")
    download = add("download", _download_images, "download images")
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
    ls = add("ls", _models, "all models, the newest first")
    upload = add("upload", _upload_model, "upload a model zip; it gets the next major version")
    target = add("target", _target, "let detectors follow a version")
    download = add("download", _download_model, "download a model zip")
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
    ls = add("ls", _trainings, "all trainings, the newest first")
    begin = add("begin", _begin, "let a connected trainer begin a training")
    watch = add("watch", _watch, "follow a training to its end")
    stop = add("stop", partial(_end, "stop"), "end a training and keep its best model")
    abort = add("abort", partial(_end, "abort"), "end a training and keep nothing")
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


# projects


async def _projects(client: LoopClient, _options: argparse.Namespace) -> None:
    projects = (await client.get_json("/projects"))["projects"]
    if not projects:
        say("no projects")
    for one in projects:
        categories = ", ".join(f"{category['name']} ({category['type']})" for category in one["categories"])
        say(f"{one['organization_id']}/{one['project_id']}: {categories or 'no categories'}")


async def _create(client: LoopClient, options: argparse.Namespace) -> None:
    place: _Place = options.place
    order = {"organization": place.organization, "project": place.project, "categories": options.categories}
    await client.send_json("POST", "/local/projects", order)
    say(f"made {place.organization}/{place.project}")


async def _delete(client: LoopClient, options: argparse.Namespace) -> None:
    place: _Place = options.place
    images = sum((await client.get_json(place.local))["images"].values())
    models = len((await client.get_json(f"{place.contract}/models"))["models"])
    held = f"{place.organization}/{place.project}: {counted(images, 'image')}, {counted(models, 'model')}"
    if not options.yes:
        raise InputError(f"nothing was deleted; with --yes this goes for good: {held}")
    query = "?keep_images=true" if options.keep_images else ""
    await client.send_json("DELETE", f"{place.contract}{query}", {})
    say(f"deleted {held}{' (the image files are in kept_images)' if options.keep_images else ''}")


# images


async def _count(client: LoopClient, options: argparse.Namespace) -> None:
    for state, count in (await client.get_json(options.place.local))["images"].items():
        say(f"{state:10} {count}")


async def _list_images(client: LoopClient, options: argparse.Namespace) -> None:
    for image_id in await _ids(client, options):
        say(image_id)


async def _move(client: LoopClient, options: argparse.Namespace) -> None:
    ids = options.ids or await _ids(client, options)
    answer = await client.send_json("PUT", f"{options.place.local}/images/state", {"ids": ids, "state": options.to})
    say(f"moved {counted(answer['moved'], 'image')} to {options.to}")


async def _download_images(client: LoopClient, options: argparse.Namespace) -> None:
    ids = await _ids(client, options)
    await trio.Path(options.folder).mkdir(parents=True, exist_ok=True)
    written = 0
    with progress(len(ids), "images") as advance:
        for image_id in ids:
            target = options.folder / f"{image_id}.jpg"
            if not await trio.Path(target).exists():
                path = f"{options.place.contract}/images/{image_id}/main"
                await client.download(path, target, max_bytes=_LONGEST_DOWNLOAD_BYTES)
                written += 1
            advance(1)
    there = f" (there already: {len(ids) - written})" if written < len(ids) else ""
    say(f"wrote {counted(written, 'image')} to {options.folder}{there}")


async def _ids(client: LoopClient, options: argparse.Namespace) -> list[str]:
    params = {"state": options.state} if options.state else {}
    ids: list[str] = (await client.get_json(f"{options.place.contract}/data", params=params))["image_ids"]
    return ids


# models


async def _models(client: LoopClient, options: argparse.Namespace) -> None:
    models = (await client.get_json(f"{options.place.contract}/models"))["models"]
    if not models:
        say("no models")
    for one in models:
        mark = "  <- deployment target" if one["is_target"] else ""
        say(f"{one['version']:8} {', '.join(one['formats']) or 'no file':30} {one['created']}  {one['comment']}{mark}")


async def _upload_model(client: LoopClient, options: argparse.Namespace) -> None:
    parts = [
        FilePart(field="files", filename=file.name, content=file, content_type="application/octet-stream")
        for file in options.files
    ]
    path = f"{options.place.contract}/{quote(options.model_format, safe='')}"
    with progress(0, "model") as advance:
        answer = await client.send_files("POST", path, parts, on_progress=steps_of_bytes(advance))
    say(f"version {answer['version']}, id {answer['id']}")


async def _target(client: LoopClient, options: argparse.Namespace) -> None:
    await client.send_json("PUT", f"{options.place.local}/deployment/target", {"version": options.version})
    say(f"detectors are to follow version {options.version}")


async def _download_model(client: LoopClient, options: argparse.Namespace) -> None:
    models = (await client.get_json(f"{options.place.contract}/models"))["models"]
    found = next((one["id"] for one in models if one["version"] == options.version), None)
    if found is None:
        raise InputError(f"there is no model of version {options.version}")
    path = f"{options.place.contract}/models/{found}/{quote(options.model_format, safe='')}/file"
    with progress(0, "model") as advance:
        await client.download(
            path, options.file, max_bytes=_LONGEST_DOWNLOAD_BYTES, on_progress=steps_of_bytes(advance)
        )
    say(f"wrote {options.file}")


# trainings and nodes


async def _trainings(client: LoopClient, options: argparse.Namespace) -> None:
    trainings = (await client.get_json(f"{options.place.local}/trainings"))["trainings"]
    if not trainings:
        say("no trainings")
    for one in trainings:
        say(_training_line(one))


async def _begin(client: LoopClient, options: argparse.Namespace) -> None:
    order = {
        "trainer": options.trainer,
        "model_variant": options.variant,
        "base_model_version": options.base,
        "hyperparameters": dict(options.hyperparameters),
    }
    begun = await client.send_json("POST", f"{options.place.local}/trainings", order)
    say(f"training {begun['training_number']} has begun")
    if options.watch:
        options.number = begun["training_number"]
        await _watch(client, options)


async def _watch(client: LoopClient, options: argparse.Namespace) -> None:
    training = await _follow(client, options)
    say(_training_line(training))
    for model in training["models"]:
        say(f"  model {model['version']}: {', '.join(model['formats']) or 'no file'}")
    if training["state"] == "failed":
        raise LoopRefused(409, f"training {options.number} failed: {training['errors']}")


async def _follow(client: LoopClient, options: argparse.Namespace) -> dict[str, Any]:
    with progress(1000, "training") as advance:
        state, shown = "", 0
        while True:
            training: dict[str, Any] = await client.get_json(f"{options.place.local}/trainings/{options.number}")
            if training["ended"]:
                return training
            if training["state"] != state:
                state = training["state"]
                advance(-shown, state)
                shown = 0
            now = round(1000 * (training["progress"] or 0))
            advance(now - shown, state)
            shown = now
            await trio.sleep(_POLL_S)


async def _end(how: str, client: LoopClient, options: argparse.Namespace) -> None:
    await client.send_json("POST", f"{options.place.local}/trainings/{options.number}/{how}", {})
    say(f"told the trainer to {how} training {options.number}")


def _training_line(one: dict[str, Any]) -> str:
    errors = f"  {'; '.join(f'{key}: {said}' for key, said in one['errors'].items())}" if one["errors"] else ""
    until = f"ended {one['ended']}" if one["ended"] else "under way"
    return f"{one['training_number']:4} {one['state']:26} {until}  {one['trainer_name'] or ''}{errors}"


async def _nodes(client: LoopClient, _options: argparse.Namespace) -> None:
    nodes = (await client.get_json("/local/nodes"))["nodes"]
    if not nodes:
        say("no nodes")
    for one in nodes:
        place = f"  {one['organization']}/{one['project']}" if one["project"] else ""
        state = one["status"].get("state") or "?"
        how = "connected" if one["connected"] else f"seen {one['seen']}"
        say(f"{one['kind']:10} {one['name']:30} {state:12} {how}{place}  {one['id']}")
