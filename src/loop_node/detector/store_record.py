"""`model_store.json`: which models have served, which are held back, which one is being built. Blocking.

It is replaced as a whole and synced. What does not fit in a file that somebody else wrote is as if it were not there.
"""

import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from attrs import define, field, frozen

from loop_node.durable import read_json, write_json

from .update_policy import Failure, ModelRef, Quarantine, Quarantined, is_version

__all__ = ["StoreRecord"]

logger = logging.getLogger(__name__)

_SECOND_CHANCE: Final = 2
"""So many deaths during its build hold back a model that has served: one of them is more likely a power cut."""
_MOST_HELD_BACK: Final = 50
_MOST_SERVED: Final = 100


@frozen
class _HeldBack:
    model: ModelRef
    reason: str
    retry_at: float  # seconds since the epoch: it must mean something after a restart


@define(eq=False)
class StoreRecord:
    """The record in memory; `write` puts it on disk.

    Attributes:
        served: The last one served last.
    """

    path: Path
    served: list[ModelRef] = field(factory=list)
    _held_back: list[_HeldBack] = field(factory=list)
    _deaths: dict[str, int] = field(factory=dict)
    _building: ModelRef | None = None

    def read(self) -> bool:
        """Take in what is on disk; a note of a build is one that the process did not survive.

        Returns:
            Whether there was anything.
        """
        try:
            said = read_json(self.path)
        except (OSError, ValueError) as error:
            logger.warning("%s cannot be read and is begun anew: %s", self.path, error)
            return False
        if isinstance(said, dict):
            self.served = [model for one in _list(said.get("served")) if (model := _model(one))]
            self._held_back = [held for one in _list(said.get("held_back")) if (held := _held(one))]
            self._deaths = {model: n for model, n in _dict(said.get("deaths")).items() if isinstance(n, int)}
            died = _model(said.get("building"))
            if died is not None:
                self._count_death(died)
        return isinstance(said, dict)

    def write(self) -> None:
        """Put it on disk.

        Raises:
            OSError: The disk did not take it.
        """
        held_back = [
            {"id": held.model.id, "version": held.model.version, "reason": held.reason, "retry_at": held.retry_at}
            for held in self._held_back
        ]
        value = {
            "served": [_named(model) for model in self.served],
            "held_back": held_back,
            "building": self._building and _named(self._building),
            "deaths": self._deaths,
        }
        write_json(self.path, value)

    def begin_build(self, model: ModelRef) -> None:
        """Note a build that begins."""
        self._building = model

    def end_build(self) -> None:
        """The process has survived it."""
        if self._building is not None:
            self._deaths.pop(self._building.id, None)
        self._building = None

    def serves(self, model: ModelRef) -> None:
        """This model serves now."""
        self.served = [*(one for one in self.served if one.version != model.version), model][-_MOST_SERVED:]
        self._held_back = [held for held in self._held_back if held.model.id != model.id]

    def is_held_back(self, model: ModelRef) -> bool:
        """Whether it failed when it was built last."""
        return any(held.model.id == model.id for held in self._held_back)

    def hold_back(self, quarantine: Iterable[Quarantined], now_s: float) -> None:
        """Remember models that do not work; failed downloads are tried again after a restart.

        Args:
            quarantine: The whole of it.
            now_s: Now, on the clock of its times.
        """
        self._held_back = [
            _HeldBack(held.model, held.reason, time.time() + held.retry_at_s - now_s)
            for held in quarantine
            if held.failure is not Failure.DOWNLOAD
        ][-_MOST_HELD_BACK:]

    def quarantine(self, now_s: float, build_s: float) -> Quarantine:
        """What is held back since before this start; wherever the clock was set meanwhile, for `build_s` at most."""
        return {
            held.model.id: Quarantined(
                model=held.model,
                failure=Failure.BUILD,
                reason=held.reason,
                failures=1,
                retry_at_s=now_s + min(max(held.retry_at - time.time(), 0.0), build_s),
            )
            for held in self._held_back
        }

    def _count_death(self, model: ModelRef) -> None:
        deaths = self._deaths[model.id] = self._deaths.get(model.id, 0) + 1
        if deaths >= (_SECOND_CHANCE if model in self.served else 1):
            reason = "the process ended while it was being built"
            logger.error("model %s is held back: %s", model.version, reason)
            others = [held for held in self._held_back if held.model.id != model.id]
            self._held_back = [*others, _HeldBack(model, reason, time.time() + 24 * 3600)]  # `quarantine` shortens it


def _named(model: ModelRef) -> dict[str, str]:
    return {"id": model.id, "version": model.version}


def _model(one: Any) -> ModelRef | None:
    match one:
        case {"id": str(model_id), "version": str(version)} if is_version(version):
            return ModelRef(model_id, version)
    return None


def _held(one: Any) -> _HeldBack | None:
    model = _model(one)
    match one:
        case {"reason": str(reason), "retry_at": int() | float() as retry_at} if model is not None:
            return _HeldBack(model, reason, float(retry_at))
    return None


def _list(said: Any) -> list[Any]:
    return said if isinstance(said, list) else []


def _dict(said: Any) -> dict[str, Any]:
    return said if isinstance(said, dict) else {}
