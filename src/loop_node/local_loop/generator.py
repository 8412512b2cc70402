"""Synthetic projects, for tests and for a first look: the same name gives the same project.

A project appears whole or not at all. Its folder is made in `incoming` first, a few images at a time; then one transaction
moves it to its place and writes all records. Marks are drawn from their seeds within it, so what is held in memory does not
grow with their number. A process that dies on the way leaves only what a start removes.
"""

import colorsys
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final, Protocol, TypeVar
from uuid import uuid4

import trio
from attrs import frozen

from loop_node.durable import make_folder, sync_file, sync_folder
from loop_node.errors import Conflict, NotFound
from loop_node.images import InspectedJpeg, inspect_jpeg
from loop_node.schemas.local_loop import AnnotationSet, DataSet, GeneratorOrder, ImageState, NewCategory
from loop_node.schemas.models import CategoryType

from . import models, trainings
from .batches import detections_by_model, stored_annotations
from .database import Database
from .drawings import draw_image, generated_annotations, generated_detections, id_for
from .folders import Folders, no_room_is_storage_full
from .images import NewImage, write_records
from .model_zips import make_zip
from .projects import Project, check_name, create_project, find_project, now

__all__ = ["Plan", "PlannedImage", "Store", "generate_project", "generated_categories", "make_project"]

T = TypeVar("T")

_FORMAT: Final = "mocked"
_MODEL_FILES: Final = {"file_1.txt": b"content of file one", "file_2.txt": b"content of file two"}
_MAX_ZIP_BYTES: Final = 1 << 20
_HOTKEYS: Final = "1234567890qwertyuiopasdfghjklzxcvbnm"
_POINT_SIZE_PX: Final = 20
_DRAWN_AT_ONCE: Final = 20
_WRITTEN_AT_ONCE: Final = 500
_NO_NUMBER_YET: Final = 0


class Store(Protocol):
    """What a Learning Loop has that this needs."""

    @property
    def database(self) -> Database:
        """All records."""

    @property
    def folders(self) -> Folders:
        """All files."""

    @property
    def max_image_pixels(self) -> int:
        """More are refused."""


@frozen(kw_only=True)
class PlannedImage:
    """An image to be; its bytes, its id and its marks come from its seed.

    Attributes:
        draw: Makes a JPEG of the seed.
        is_annotated: Whether it gets annotations at all.
        boxes: Box annotations.
        detected_boxes: Box detections, by the model of version `model_name`.
    """

    seed: str
    name: str
    state: ImageState
    draw: Callable[[str], bytes]
    is_annotated: bool = True
    boxes: int = 0
    detected_boxes: int = 0
    model_name: str
    data_set: DataSet = DataSet.TRAIN
    tags: Sequence[str] = ()

    @property
    def id(self) -> str:
        """The same for the same seed."""
        return id_for(self.seed)


@frozen(kw_only=True)
class Plan:
    """A whole project to be.

    Attributes:
        trainings: For training 1, 2, ... the ids of its models.
        thumbnails: Whether they are made now; else when they are looked at.
        target: The version that detectors are to follow.
        host: What `model.json` says of where a model came from.
    """

    organization: str
    project: str
    name: str
    categories: Sequence[NewCategory]
    images: Sequence[PlannedImage]
    trainings: Sequence[Sequence[str]]
    thumbnails: bool = True
    target: str | None = None
    host: str


@frozen
class _StagedImage:
    planned: PlannedImage
    file: Path
    width_px: int
    height_px: int
    size_bytes: int


async def generate_project(store: Store, organization: str, order: GeneratorOrder, *, host: str) -> Project:
    """Make the project that was ordered; its id is its name in lower case. Cancelled, it has made all of it or nothing.

    Raises:
        InputError: A name that cannot be used.
        Conflict: There is one of this name.
        StorageFull: No room; nothing was kept.
    """
    return await make_project(store, _planned(organization, order, host))


def generated_categories(order: GeneratorOrder, seed: str) -> list[NewCategory]:
    """The categories of an order: `box category 1` and so on, each with a colour and, while they last, a hotkey."""
    counts = (order.box_categories, order.point_categories, order.segmentation_categories)
    kinds = zip(CategoryType, (*counts, order.classification_categories), strict=True)
    names = [(kind, f"{kind} category {number}") for kind, count in kinds for number in range(1, count + 1)]
    return [
        NewCategory(
            id=id_for(f"{seed} {name}"),
            name=name,
            type=kind,
            color=_color(position),
            hotkey=_HOTKEYS[position] if position < len(_HOTKEYS) else None,
            point_size=_POINT_SIZE_PX if kind is CategoryType.POINT else None,
        )
        for position, (kind, name) in enumerate(names)
    ]


def _color(position: int) -> str:
    """Hues by steps of the golden ratio: neighbours differ, and none repeats."""
    red, green, blue = colorsys.hsv_to_rgb(position * 0.618034 % 1, 0.75, 0.9)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def _planned(organization: str, order: GeneratorOrder, host: str) -> Plan:
    project = order.project_name.lower()
    seed = f"{organization}/{project}"
    counts = {
        ImageState.INBOX: order.inbox,
        ImageState.ANNOTATE: order.annotate,
        ImageState.REVIEW: order.review,
        ImageState.COMPLETE: order.complete,
    }
    names = [(state, f"{state}_{number}") for state, count in counts.items() for number in range(1, count + 1)]
    return Plan(
        organization=organization,
        project=project,
        name=order.project_name,
        categories=generated_categories(order, seed),
        images=[
            PlannedImage(
                seed=f"{seed} {name}",
                name=name,
                state=state,
                draw=partial(draw_image, style=order.image_style),
                boxes=order.box_annotations,
                detected_boxes=order.box_detections,
                model_name=f"{order.trainings or 1}.0",
                tags=[f"tag {index % order.tags + 1}"] if order.tags else [],
            )
            for index, (state, name) in enumerate(names)
        ],
        trainings=[[id_for(f"{seed} model {number}.0")] for number in range(1, order.trainings + 1)],
        thumbnails=bool(order.thumbs),
        host=host,
    )


async def make_project(store: Store, plan: Plan) -> Project:
    """Make all of a plan, or nothing of it; takes as long as its images take to be drawn.

    Raises:
        InputError: A name that cannot be used.
        Conflict: There is one of this name.
        StorageFull: No room; nothing was kept.
    """
    check_name("organization", plan.organization)
    check_name("project_name", plan.project)
    await store.database.read(partial(_refuse_existing, plan=plan))
    staging = Folders(store.folders.incoming / uuid4().hex)
    making = trio.CapacityLimiter(1)
    try:
        staged: list[_StagedImage] = []
        for images in _chunks(plan.images, _DRAWN_AT_ONCE):
            stage = partial(_stage_images, staging, plan, images, store.max_image_pixels)
            staged += await trio.to_thread.run_sync(stage, limiter=making)
        await trio.to_thread.run_sync(_stage_models, staging, plan, limiter=making)
        write = partial(_write, folders=store.folders, staging=staging, plan=plan, staged=staged)
        return await store.database.write(write)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(partial(shutil.rmtree, staging.root, ignore_errors=True), limiter=making)


def _chunks(everything: Sequence[T], size: int) -> Iterator[list[T]]:
    rest = iter(everything)
    while chunk := list(islice(rest, size)):
        yield chunk


def _refuse_existing(db: sqlite3.Connection, plan: Plan) -> None:
    with suppress(NotFound):
        find_project(db, plan.organization, plan.project)
        raise Conflict(f"there is a project {plan.organization}/{plan.project} already; delete it first")


def _stage_images(staging: Folders, plan: Plan, images: Sequence[PlannedImage], max_pixels: int) -> list[_StagedImage]:
    """Draw images and write them into the folder to be, their content durably. Blocking."""
    staged = []
    with no_room_is_storage_full():
        for planned in images:
            data = planned.draw(planned.seed)
            seen = inspect_jpeg(data, max_pixels=max_pixels)
            file = _write_file(staging.image(_NO_NUMBER_YET, planned.id), data)
            if plan.thumbnails:
                _write_file(staging.thumbnail(_NO_NUMBER_YET, planned.id), seen.thumbnail)
            staged.append(_StagedImage(planned, file, seen.width_px, seen.height_px, len(data)))
        for one in staged:
            sync_file(one.file)
    return staged


def _write_file(file: Path, data: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def _stage_models(staging: Folders, plan: Plan) -> None:
    """Write the zips of all models into the folder to be, and make all of it durable. Blocking."""
    with no_room_is_storage_full():
        files = [(name, _write_file(staging.root / name, content)) for name, content in _MODEL_FILES.items()]
        for number, minor, model_id in _models_of(plan):
            known = {
                "host": plan.host,
                "organization": plan.organization,
                "project": plan.project,
                "version": f"{number}.{minor}",
                "id": model_id,
                "format": _FORMAT,
            }
            file = staging.model(_NO_NUMBER_YET, model_id, _FORMAT)
            make_folder(file.parent)
            make_zip(files, file, known, max_bytes=_MAX_ZIP_BYTES)
            sync_file(file)
        folder = staging.project(_NO_NUMBER_YET)
        make_folder(folder)
        for below in (folder, *folder.glob("**/")):
            sync_folder(below)


def _models_of(plan: Plan) -> Iterator[tuple[int, int, str]]:
    """Training number, minor version and id."""
    for number, ids in enumerate(plan.trainings, 1):
        for minor, model_id in enumerate(ids):
            yield number, minor, model_id


def _write(
    db: sqlite3.Connection, *, folders: Folders, staging: Folders, plan: Plan, staged: Sequence[_StagedImage]
) -> Project:
    """Move the folder to its place and write all records, or none. Within one transaction."""
    project = create_project(db, plan.organization, plan.project, plan.categories, name=plan.name)
    folder = folders.project(project.number)
    # a number is given again when its transaction failed as late as in its commit: these files have no records
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with no_room_is_storage_full():
            staging.project(_NO_NUMBER_YET).rename(folder)
            sync_folder(folder.parent)
        for images in _chunks(staged, _WRITTEN_AT_ONCE):
            write_records(db, project, [_new_image(project, image) for image in images])
        _add_trainings(db, project, plan)
        for _, _, model_id in _models_of(plan):
            models.note_file(db, model_id, _FORMAT, folders.model(project.number, model_id, _FORMAT).stat().st_size)
        models.set_target(db, project, plan.target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return find_project(db, plan.organization, plan.project)


def _add_trainings(db: sqlite3.Connection, project: Project, plan: Plan) -> None:
    for number, ids in enumerate(plan.trainings, 1):
        row = trainings.begin(
            db,
            project,
            trainer_id=None,
            trainer_name="generator",
            model_variant=_FORMAT,
            base_model=None,
            hyperparameters={},
            training_id=id_for(f"{plan.organization}/{plan.project} training {number}"),
        )
        trainings.end(db, row, state=trainings.LAST_STATE)
        for model_id in ids:
            models.create_model(
                db, project, major=number, comment=f"training {number}", model_id=model_id, training_number=number
            )


def _new_image(project: Project, staged: _StagedImage) -> NewImage:
    planned, categories = staged.planned, project.categories
    size_px = (staged.width_px, staged.height_px)
    given = AnnotationSet()
    if planned.is_annotated:
        given = generated_annotations(planned.seed, categories.all, *size_px, boxes=planned.boxes)
    found = generated_detections(
        planned.seed, categories.all, *size_px, boxes=planned.detected_boxes, model_name=planned.model_name
    )
    return NewImage(
        id=planned.id,
        staged=staged.file,
        inspected=InspectedJpeg(width_px=staged.width_px, height_px=staged.height_px, thumbnail=b""),
        name=planned.name,
        state=planned.state,
        data_set=planned.data_set,
        source="generator",
        created=now(),
        tags=list(planned.tags),
        size_bytes=staged.size_bytes,
        annotations=stored_annotations(given, planned.id, categories, strict=True),
        detections=detections_by_model(found, categories),
    )
