"""Who chooses the model: what clients may say about it, and how a mode set at run time outlives the process."""

import logging
from pathlib import Path
from typing import Protocol

from attrs import frozen

from loop_node.schemas.status import OperationMode, VersionControl

from .durable import read_json, write_json
from .update_policy import ModelRef, is_version

__all__ = ["ChosenMode", "ModelControl", "mode_file", "read_mode", "write_mode"]

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
