"""What a detector needs of a Learning Loop: its target, its models, and somebody to report to."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from loop_node.schemas.status import DetectorStatus

__all__ = ["ListedModel", "ModelSource", "Target"]


class Target(Protocol):
    """The model a project wants to see deployed."""

    @property
    def model_uuid(self) -> str:
        """Its id."""
        ...

    @property
    def version(self) -> str:
        """Its version, like 1.3."""
        ...


class ListedModel(Protocol):
    """A model in the Learning Loop's list."""

    @property
    def id(self) -> str:
        """Its uuid."""
        ...

    @property
    def version(self) -> str | None:
        """Its version; a model in training may have none."""
        ...


class ModelSource(Protocol):
    """One project of a Learning Loop. All of it raises `LoopUnavailable` (try again) or `LoopRefused`."""

    async def deployment_target(self) -> Target | None:
        """The target; None where the project has none."""
        ...

    async def models(self, model_format: str | None = None) -> Sequence[ListedModel]:
        """The project's models, those of one format or all."""
        ...

    async def download_model(
        self,
        model_id: str,
        model_format: str,
        to: Path,
        *,
        max_bytes: int,
        on_progress: Callable[[int, int | None], None],
    ) -> object:
        """Write the model's zip to `to`: at most `max_bytes`, of which `on_progress` hears as they come.

        `on_progress` is told how many came and, where it is known, how many there are; what it raises ends the download.

        Raises:
            OSError: The disk did not take it; what is there already is left behind, as after a cancellation.
        """
        ...

    async def report_detector(self, status: DetectorStatus) -> None:
        """Tell how the detector is."""
        ...
