"""The project `zauberzeug/demo` of a store that is to be looked at: something of each kind, and three models."""

from contextlib import suppress
from functools import partial
from importlib import resources
from typing import Final

from loop_node.errors import Conflict
from loop_node.schemas.local_loop import DataSet, ImageState, NewCategory
from loop_node.schemas.models import CategoryType

from .drawings import draw_image, id_for
from .generator import Plan, PlannedImage, Store, make_project

__all__ = ["DEMO_ORGANIZATION", "DEMO_PROJECT", "fill_with_demo"]

DEMO_ORGANIZATION: Final = "zauberzeug"
DEMO_PROJECT: Final = "demo"
_SEED: Final = f"{DEMO_ORGANIZATION}/{DEMO_PROJECT}"
_MODEL_IDS: Final = [f"00000000-0000-0000-0000-0000000000{number}" for number in (10, 11, 12)]
_TARGET: Final = "1.1"
_IMAGES_PER_STATE: Final = 5
_WITHOUT_ANNOTATIONS: Final = (ImageState.INBOX, ImageState.ANNOTATE)
_SETS: Final = (DataSet.TRAIN, DataSet.TRAIN, DataSet.TRAIN, DataSet.TEST, DataSet.VAL)

_CATEGORIES: Final = (
    ("green box", CategoryType.BOX, "#3cb44b"),
    ("blue box", CategoryType.BOX, "#4363d8"),
    ("purple point", CategoryType.POINT, "#911eb4"),
    ("orange outline", CategoryType.SEGMENTATION, "#f58231"),
    ("good", CategoryType.CLASSIFICATION, "#46f0f0"),
    ("bad", CategoryType.CLASSIFICATION, "#e6194b"),
)


async def fill_with_demo(store: Store, *, host: str) -> None:
    """Make the demo project where there is none; one that is there is left alone. Cancelled, all of it is there or nothing.

    Raises:
        StorageFull: No room.
    """
    with suppress(Conflict):
        await make_project(store, _plan(host))


def _plan(host: str) -> Plan:
    return Plan(
        organization=DEMO_ORGANIZATION,
        project=DEMO_PROJECT,
        name=DEMO_PROJECT,
        categories=[
            NewCategory(id=id_for(f"{_SEED} {name}"), name=name, type=kind, color=color, hotkey=str(number))
            for number, (name, kind, color) in enumerate(_CATEGORIES, 1)
        ],
        images=[_image(state, number) for state in ImageState for number in range(_IMAGES_PER_STATE)],
        trainings=[_MODEL_IDS],
        target=_TARGET,
        host=host,
    )


def _image(state: ImageState, number: int) -> PlannedImage:
    """In each state the first is the photo, the others are drawn."""
    name = f"{state}_{number}" if number else f"{state}_astronaut"
    return PlannedImage(
        seed=f"{_SEED} {name}",
        name=name,
        state=state,
        draw=partial(draw_image, style="beautiful") if number else _photo,
        is_annotated=state not in _WITHOUT_ANNOTATIONS,
        boxes=3,
        detected_boxes=2,
        model_name=_TARGET,
        data_set=_SETS[number],
        tags=["demo"],
    )


def _photo(_: str) -> bytes:
    return (resources.files("loop_node") / "bundled" / "photos" / "astronaut.jpg").read_bytes()
