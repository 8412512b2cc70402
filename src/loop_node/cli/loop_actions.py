"""What each verb of `loop-node loop ...` asks of a Learning Loop and says of the answer.

An action takes the client and the parsed command line. What the Loop refuses goes up as it is; lists with nothing in them
say so.
"""

import argparse
from typing import Any, Final
from urllib.parse import quote

import trio
from attrs import frozen

from loop_node.errors import InputError, LoopRefused
from loop_node.loop.client import LoopClient
from loop_node.loop.multipart import FilePart

from .terminal import complain, counted, progress, say, steps_of_bytes

__all__ = [
    "Place",
    "begin_training",
    "choose_target",
    "count_images",
    "create_project",
    "delete_project",
    "download_images",
    "download_model",
    "end_training",
    "list_images",
    "list_models",
    "list_nodes",
    "list_projects",
    "list_trainings",
    "move_images",
    "upload_model",
    "watch_training",
]

_LONGEST_DOWNLOAD_BYTES: Final = 1 << 40
_POLL_S: Final = 1.0


@frozen
class Place:
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


# projects


async def list_projects(client: LoopClient, _options: argparse.Namespace) -> None:
    """All projects with their categories."""
    projects = (await client.get_json("/projects"))["projects"]
    if not projects:
        say("no projects")
    for one in projects:
        categories = ", ".join(f"{category['name']} ({category['type']})" for category in one["categories"])
        say(f"{one['organization_id']}/{one['project_id']}: {categories or 'no categories'}")


async def create_project(client: LoopClient, options: argparse.Namespace) -> None:
    """Make a project."""
    place: Place = options.place
    order = {"organization": place.organization, "project": place.project, "categories": options.categories}
    await client.send_json("POST", "/local/projects", order)
    say(f"made {place.organization}/{place.project}")


async def delete_project(client: LoopClient, options: argparse.Namespace) -> None:
    """Delete a project with `--yes`; without, say what would go.

    Raises:
        InputError: There was no `--yes`.
    """
    place: Place = options.place
    images = sum((await client.get_json(place.local))["images"].values())
    models = len((await client.get_json(f"{place.contract}/models"))["models"])
    held = f"{place.organization}/{place.project}: {counted(images, 'image')}, {counted(models, 'model')}"
    if not options.yes:
        raise InputError(f"nothing was deleted; with --yes this goes for good: {held}")
    query = "?keep_images=true" if options.keep_images else ""
    await client.send_json("DELETE", f"{place.contract}{query}", {})
    say(f"deleted {held}{' (the image files are in kept_images)' if options.keep_images else ''}")


# images


async def count_images(client: LoopClient, options: argparse.Namespace) -> None:
    """The number of images in each state."""
    for state, count in (await client.get_json(options.place.local))["images"].items():
        say(f"{state:10} {count}")


async def list_images(client: LoopClient, options: argparse.Namespace) -> None:
    """The ids of images, one a line."""
    for image_id in await _ids(client, options):
        say(image_id)


async def move_images(client: LoopClient, options: argparse.Namespace) -> None:
    """Move images to a state, those of `--id` or all of `--state`."""
    ids = options.ids or await _ids(client, options)
    answer = await client.send_json("PUT", f"{options.place.local}/images/state", {"ids": ids, "state": options.to})
    say(f"moved {counted(answer['moved'], 'image')} to {options.to}")


async def download_images(client: LoopClient, options: argparse.Namespace) -> None:
    """Write images into a folder, each as its id; those that are there already are left alone."""
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


async def list_models(client: LoopClient, options: argparse.Namespace) -> None:
    """All models, the newest first."""
    models = (await client.get_json(f"{options.place.contract}/models"))["models"]
    if not models:
        say("no models")
    for one in models:
        mark = "  <- deployment target" if one["is_target"] else ""
        say(f"{one['version']:8} {', '.join(one['formats']) or 'no file':30} {one['created']}  {one['comment']}{mark}")


async def upload_model(client: LoopClient, options: argparse.Namespace) -> None:
    """Upload a model; it gets the next major version."""
    parts = [
        FilePart(field="files", filename=file.name, content=file, content_type="application/octet-stream")
        for file in options.files
    ]
    path = f"{options.place.contract}/{quote(options.model_format, safe='')}"
    with progress(0, "model") as advance:
        answer = await client.send_files("POST", path, parts, on_progress=steps_of_bytes(advance))
    say(f"version {answer['version']}, id {answer['id']}")
    if answer.get("warning"):
        complain(f"warning: {answer['warning']}")


async def choose_target(client: LoopClient, options: argparse.Namespace) -> None:
    """Let detectors follow a version."""
    await client.send_json("PUT", f"{options.place.local}/deployment/target", {"version": options.version})
    say(f"detectors are to follow version {options.version}")


async def download_model(client: LoopClient, options: argparse.Namespace) -> None:
    """Write a model zip.

    Raises:
        InputError: There is no model of this version.
    """
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


async def list_trainings(client: LoopClient, options: argparse.Namespace) -> None:
    """All trainings, the newest first."""
    trainings = (await client.get_json(f"{options.place.local}/trainings"))["trainings"]
    if not trainings:
        say("no trainings")
    for one in trainings:
        say(_training_line(one))


async def begin_training(client: LoopClient, options: argparse.Namespace) -> None:
    """Let a trainer begin, and with `--watch` follow it."""
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
        await watch_training(client, options)


async def watch_training(client: LoopClient, options: argparse.Namespace) -> None:
    """Follow a training to its end.

    Raises:
        LoopRefused: It failed.
    """
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


async def end_training(how: str, client: LoopClient, options: argparse.Namespace) -> None:
    """End a training; `how` is stop or abort."""
    await client.send_json("POST", f"{options.place.local}/trainings/{options.number}/{how}", {})
    say(f"told the trainer to {how} training {options.number}")


def _training_line(one: dict[str, Any]) -> str:
    errors = f"  {'; '.join(f'{key}: {said}' for key, said in one['errors'].items())}" if one["errors"] else ""
    until = f"ended {one['ended']}" if one["ended"] else "under way"
    return f"{one['training_number']:4} {one['state']:26} {until}  {one['trainer_name'] or ''}{errors}"


async def list_nodes(client: LoopClient, _options: argparse.Namespace) -> None:
    """All nodes that have told of themselves."""
    nodes = (await client.get_json("/local/nodes"))["nodes"]
    if not nodes:
        say("no nodes")
    for one in nodes:
        place = f"  {one['organization']}/{one['project']}" if one["project"] else ""
        state = one["status"].get("state") or "?"
        how = "connected" if one["connected"] else f"seen {one['seen']}"
        say(f"{one['kind']:10} {one['name']:30} {state:12} {how}{place}  {one['id']}")
