"""What the detector says of itself, the same over REST and Socket.IO and to the Learning Loop."""

from collections.abc import Callable, Mapping
from typing import Any

import trio
from attrs import define, field, frozen

from loop_node.inference.engine import ServingModel
from loop_node.schemas.status import ModelVersionResponse, OperationMode, VersionControl
from loop_node.schemas.wire import model_json

from .update_policy import Quarantined

__all__ = ["DetectorState", "Download"]


@frozen(kw_only=True)
class Download:
    """A model on its way; `total_bytes` is None where the Learning Loop does not say."""

    version: str
    received_bytes: int = 0
    total_bytes: int | None = None


@define(kw_only=True)
class DetectorState:
    """What is known beside the installed model.

    Attributes:
        model_error: Why a model that was asked for does not serve; empty if all is well.
        faults: What else is wrong, in words, by what it concerns.
        target_version: The model that should serve; None if that is not known.
        loop_version: The deployment target of the Learning Loop as last read.
        local_versions: The models on this disk; None where no Learning Loop is followed.
        download: What is being downloaded.
        updating_to: The version for which the old model has had to go.
        held_back: Models that failed and wait for their next try.
        describe_link: What is known of the link to the Learning Loop, ready for JSON.
    """

    operation_mode: OperationMode = OperationMode.STARTUP
    version_control: VersionControl = VersionControl.FOLLOW_LOOP
    model_error: str = ""
    faults: dict[str, str] = field(factory=dict)
    target_version: str | None = None
    loop_version: str | None = None
    local_versions: list[str] | None = None
    download: Download | None = None
    updating_to: str | None = None
    held_back: Mapping[str, Quarantined] = field(factory=dict)
    describe_link: Callable[[], dict[str, Any] | None] = lambda: None

    @property
    def errors(self) -> dict[str, str]:
        """All that is wrong; `model` is the contract's key for a model."""
        return ({"model": self.model_error} if self.model_error else {}) | self.faults

    def note_fault(self, concern: str, text: str) -> None:
        """Say what is wrong with something; "" is nothing any more."""
        if text:
            self.faults[concern] = text
        else:
            self.faults.pop(concern, None)

    def target_model(self, model: ServingModel | None) -> str | None:
        """The version that should serve; while paused, the one that does."""
        if self.version_control is VersionControl.PAUSE:
            return model.information.version if model is not None else None
        return self.target_version

    def about(self, model: ServingModel | None) -> dict[str, Any]:
        """The answer of `about`: the contract's keys, then ours."""
        return {
            "operation_mode": self.operation_mode.value,
            "state": None,
            "model_info": model and model_json(model.information),
            "target_model": self.target_model(model),
            "version_control": self.version_control.value,
            "device": model and model.device,
            "errors": self.errors,
            "download": self.download and _download(self.download),
            "loop": self.describe_link(),
            "held_back": [_held(held) for held in self.held_back.values()],
        }

    def model_version(self, model: ServingModel | None) -> ModelVersionResponse:
        """The answer of `model_version`; a version that is not known is the text `None`."""
        local_versions = self.local_versions
        if local_versions is None:
            local_versions = [model.information.version] if model else []
        return ModelVersionResponse(
            current_version=model.information.version if model else "None",
            target_version=self.target_model(model) or "None",
            loop_version=self.loop_version or "None",
            local_versions=local_versions,
            version_control=self.version_control.value,
        )


def _download(download: Download) -> dict[str, Any]:
    return {
        "version": download.version,
        "received_bytes": download.received_bytes,
        "total_bytes": download.total_bytes,
    }


def _held(held: Quarantined) -> dict[str, Any]:
    return {
        "version": held.model.version,
        "failed_at": held.failure.value,
        "reason": held.reason,
        "failures": held.failures,
        "retry_in_s": round(max(0.0, held.retry_at_s - trio.current_time()), 1),
    }
