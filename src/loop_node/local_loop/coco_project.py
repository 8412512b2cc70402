"""The project `demo/coco`: the categories of the bundled COCO model, and the model as its deployment target."""

import json
import shutil
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Final

import trio

from loop_node.errors import NotFound
from loop_node.schemas.local_loop import NewCategory
from loop_node.schemas.models import CategoryType

from .loop import LocalLoop
from .models import plan_upload, set_target
from .projects import create_project

__all__ = ["COCO_ORGANIZATION", "COCO_PROJECT", "fill_with_coco"]

COCO_ORGANIZATION: Final = "demo"
COCO_PROJECT: Final = "coco"
_FILES: Final = ("model.xml", "model.bin", "model.json")


async def fill_with_coco(loop: LocalLoop, *, host: str) -> None:
    """Make the project where there is none, and see to it that it has a target. Killed in between, a next call goes on.

    Raises:
        StorageFull: No room.
    """
    bundled = Path(str(resources.files("loop_node") / "bundled" / "coco"))
    try:
        project = await loop.project(COCO_ORGANIZATION, COCO_PROJECT)
    except NotFound:
        said = json.loads(await trio.Path(bundled / "model.json").read_bytes())
        categories = [NewCategory(id=one["id"], name=one["name"], type=CategoryType.BOX) for one in said["categories"]]
        project = await loop.database.write(lambda db: create_project(db, COCO_ORGANIZATION, COCO_PROJECT, categories))
    if project.target_model is not None:
        return
    upload = loop.folders.incoming / "coco"
    copies = [(name, upload / name) for name in _FILES]
    await trio.to_thread.run_sync(_copy, bundled, copies)
    plan = partial(plan_upload, project=project, comment="the bundled COCO model")
    kept = await loop.keep_model(project, plan, "openvino", copies, host)
    await loop.database.write(lambda db: set_target(db, project, kept.version))
    await trio.to_thread.run_sync(shutil.rmtree, upload)


def _copy(bundled: Path, copies: list[tuple[str, Path]]) -> None:
    for name, copy in copies:
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(bundled / name, copy)
