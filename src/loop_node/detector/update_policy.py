"""What a detector does next about its model: nothing, wait, serve one it has, or fetch another. Pure.

Rules, the first that fits:

1. While nothing serves, the first candidate on this machine that is not held back is served, whatever the mode.
2. `pause`, no known target, or a target that serves already: nothing.
3. Any operation mode but `idle`: nothing, until the mode changes.
4. A model that failed is held back until its retry time; another model id is not.

Times are monotonic seconds of one clock.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, TypeAlias

from attrs import field, frozen
from attrs.validators import ge

from loop_node.errors import ModelError
from loop_node.schemas.status import OperationMode, VersionControl

__all__ = [
    "Delays",
    "Failure",
    "Fetch",
    "ModelRef",
    "Quarantine",
    "Quarantined",
    "Serve",
    "Situation",
    "Step",
    "Wait",
    "checked_ref",
    "is_version",
    "next_step",
    "quarantined",
]

_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_VERSION: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,7}")
_LONGEST_RETRY_AFTER_S: Final = 600.0


@frozen
class ModelRef:
    """A model by its names in the Learning Loop; for a local one the operator's words."""

    id: str
    version: str


def is_version(text: str) -> bool:
    """Whether `text` is a version number, which is also a harmless name of a folder."""
    return _VERSION.fullmatch(text) is not None


def checked_ref(model_id: str, version: str) -> ModelRef:
    """A model as the Learning Loop names it, before any of it becomes part of a path.

    Raises:
        ModelError: The id is no uuid, or the version no version number.
    """
    if _UUID.fullmatch(model_id) is None:
        raise ModelError(f"the Learning Loop names a model by {model_id[:80]!r}, which is no uuid")
    if not is_version(version):
        raise ModelError(f"the Learning Loop names a model of version {version[:80]!r}; like 1.3 is needed")
    return ModelRef(model_id, version)


class Failure(StrEnum):
    """What went wrong with a model: it did not come, it is not what it should be, or it does not work."""

    DOWNLOAD = "download"
    UNPACK = "unpack"
    BUILD = "build"


@frozen(kw_only=True)
class Delays:
    """How long a model that failed is held back, in seconds.

    Attributes:
        download_first_s: After the first failed download; doubled by each further one.
        download_cap_s: The longest wait after a failed download.
        build_s: After anything else that failed, a build for example.
        jitter: Share of a download's wait left to chance, 0..1.
    """

    download_first_s: float = field(default=5.0, validator=ge(0))
    download_cap_s: float = field(default=60.0, validator=ge(0))
    build_s: float = field(default=600.0, validator=ge(0))
    jitter: float = 0.3

    def after_download(self, failures: int, dice: float, retry_after_s: float | None = None) -> float:
        """The wait after that many failed downloads in a row; what the Learning Loop asks for is the least.

        Args:
            failures: From 1 on.
            dice: 0..1.
            retry_after_s: The Learning Loop's own words; counts up to ten minutes.
        """
        grown_s = min(self.download_cap_s, self.download_first_s * 2.0 ** min(failures - 1, 60))
        asked_s = min(retry_after_s or 0.0, _LONGEST_RETRY_AFTER_S)
        return max(grown_s * (1 - self.jitter * dice), asked_s)


@frozen(kw_only=True)
class Quarantined:
    """A model that is held back, why and until when.

    Attributes:
        failures: Failures of this kind in a row.
    """

    model: ModelRef
    failure: Failure
    reason: str
    failures: int
    retry_at_s: float


Quarantine: TypeAlias = Mapping[str, Quarantined]
"""By model id."""


def quarantined(
    model: ModelRef,
    failure: Failure,
    reason: str,
    *,
    before: Quarantined | None,
    now_s: float,
    delays: Delays,
    dice: float,
    retry_after_s: float | None = None,
) -> Quarantined:
    """The record of a model that has just failed; `before` is its record until now."""
    in_a_row = before.failures if before is not None and before.failure is failure else 0
    wait_s = delays.build_s
    if failure is Failure.DOWNLOAD:
        wait_s = delays.after_download(in_a_row + 1, dice, retry_after_s)
    return Quarantined(model=model, failure=failure, reason=reason, failures=in_a_row + 1, retry_at_s=now_s + wait_s)


@frozen(kw_only=True)
class Situation:
    """All that counts for the next step.

    Attributes:
        target: The deployment target of the Learning Loop as last read.
        chosen: The model of the mode `specific_version`.
        current: The model that serves.
        candidates: Models on this machine that may serve while none does, best first.
    """

    mode: VersionControl
    operation_mode: OperationMode
    target: ModelRef | None
    chosen: ModelRef | None
    current: ModelRef | None
    candidates: tuple[ModelRef, ...]
    quarantine: Quarantine
    now_s: float

    @property
    def wanted(self) -> ModelRef | None:
        """The model that should serve; None where it is the one that does."""
        if self.mode is VersionControl.PAUSE:
            return None
        return self.chosen if self.mode is VersionControl.SPECIFIC_VERSION else self.target

    def may_fetch(self, model: ModelRef) -> bool:
        """Whether this model should be on its way."""
        return model == self.wanted and model != self.current and self.operation_mode is OperationMode.IDLE

    def held_until_s(self, model: ModelRef) -> float | None:
        """Until when a model is held back; None for one that may be tried now."""
        held = self.quarantine.get(model.id)
        return held.retry_at_s if held is not None and held.retry_at_s > self.now_s else None


@frozen
class Wait:
    """Nothing to do before `until_s`; None is until something changes."""

    until_s: float | None


@frozen
class Serve:
    """Let a model of this machine serve."""

    model: ModelRef


@frozen
class Fetch:
    """Bring this model here if it is not, and let it serve."""

    model: ModelRef


Step: TypeAlias = Wait | Serve | Fetch


def next_step(situation: Situation) -> Step:
    """What to do now. Whoever is at a `Fetch` gives it up when `may_fetch` says no."""
    held_until_s: list[float] = []
    if situation.current is None:
        for candidate in situation.candidates:
            until_s = situation.held_until_s(candidate)
            if until_s is None:
                return Serve(candidate)
            held_until_s.append(until_s)
    wanted = situation.wanted
    if wanted is not None and situation.may_fetch(wanted):
        until_s = situation.held_until_s(wanted)
        if until_s is None:
            return Fetch(wanted)
        held_until_s.append(until_s)
    return Wait(min(held_until_s, default=None))
