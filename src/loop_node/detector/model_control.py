"""Who chooses the model: what clients may say about it, and how a mode set at run time outlives the process."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import trio
from attrs import frozen

from loop_node.durable import read_json, write_json
from loop_node.errors import InputError, LoopError, ModelError
from loop_node.schemas.status import OperationMode, VersionControl

from .model_source import ListedModel, ModelSource
from .update_policy import ModelRef, checked_ref, is_version

__all__ = ["ChosenMode", "ModelControl", "checked_mode", "mode_file", "read_mode", "write_mode"]

logger = logging.getLogger(__name__)


class ModelControl(Protocol):
    """What the doors may ask about the model."""

    async def load(self) -> None:
        """Build the model that serves anew."""
        ...

    async def set_mode(self, text: str) -> None:
        """Let `follow_loop`, `pause`, `previous` or a version choose the model.

        Raises:
            InputError: It cannot be done, and nothing has changed; the text is the contract's.
        """
        ...

    def set_operation_mode(self, mode: OperationMode) -> None:
        """Say what the detector does; while `detecting` its model is not exchanged."""
        ...

    async def reset(self) -> None:
        """Forget all models of the Learning Loop and every mode that was set."""
        ...


@frozen
class ChosenMode:
    """Who chooses the model, and for `specific_version` which one."""

    control: VersionControl
    model: ModelRef | None = None


async def checked_mode(
    text: str, *, previous: ModelRef | None, source: ModelSource, model_format: str, answer_timeout_s: float
) -> ChosenMode:
    """What a client's text asks for. A version alone has to be looked up; what needs no asking is answered at once.

    Args:
        text: `follow_loop`, `pause`, `previous` or a version.
        previous: The model that served before the one that does.
        source: Where a version is looked up.
        model_format: The format in which it must be there.
        answer_timeout_s: How long the Learning Loop has for its answer.

    Raises:
        InputError: As `ModelControl.set_mode`.
    """
    if text in (VersionControl.FOLLOW_LOOP, VersionControl.PAUSE):
        return ChosenMode(VersionControl(text))
    if text == "previous":
        if previous is None:
            raise InputError("there is no previous model on this disk")
        return ChosenMode(VersionControl.SPECIFIC_VERSION, previous)
    if not is_version(text):
        raise InputError("Invalid version number")
    rows: Sequence[ListedModel] | None = None
    with trio.move_on_after(answer_timeout_s):
        try:
            rows = await source.models(model_format)
        except LoopError as error:
            logger.warning("the Learning Loop's models cannot be read: %s", error)
    if rows is None:
        raise InputError("Failed to load models from learning loop")
    return ChosenMode(VersionControl.SPECIFIC_VERSION, _only_one(rows, text))


def _only_one(rows: Sequence[ListedModel], version: str) -> ModelRef:
    found = [row for row in rows if row.version == version]
    if len(found) != 1:
        raise InputError(f"{'Multiple models' if found else 'No Model'} with version {version}")
    try:
        return checked_ref(found[0].id, version)
    except ModelError as error:
        raise InputError(str(error)) from None


def mode_file(data_folder: Path) -> Path:
    """Where the mode is remembered."""
    return data_folder / "version_control.json"


def read_mode(data_folder: Path) -> ChosenMode | None:
    """The mode that was written last; None if there is none that can be read. Blocking."""
    path = mode_file(data_folder)
    try:
        said = read_json(path)
        match said:
            case {"mode": str(mode), "id": str(model_id), "version": str(version)} if is_version(version):
                return ChosenMode(VersionControl(mode), ModelRef(model_id, version))
            case {"mode": str(mode)} if mode != VersionControl.SPECIFIC_VERSION:
                return ChosenMode(VersionControl(mode))
            case None:
                return None
        raise ValueError("it names no mode")
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be used, the default mode counts: %s", path, error)
        return None


def write_mode(data_folder: Path, mode: ChosenMode) -> None:
    """Remember the mode over a restart. Blocking.

    Raises:
        OSError: The disk does not take it.
    """
    model = {"id": mode.model.id, "version": mode.model.version} if mode.model is not None else {}
    write_json(mode_file(data_folder), {"mode": mode.control.value} | model)
