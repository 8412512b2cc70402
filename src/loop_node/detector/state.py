"""What the detector says of itself, the same over REST and Socket.IO."""

from typing import Any

from attrs import define

from loop_node.inference.engine import ServingModel
from loop_node.schemas.status import ModelVersionResponse, OperationMode, VersionControl
from loop_node.schemas.wire import model_json

__all__ = ["DetectorState"]


@define(kw_only=True)
class DetectorState:
    """What is known beside the installed model.

    Attributes:
        model_error: Why a model that was asked for does not serve; empty if all is well.
    """

    operation_mode: OperationMode = OperationMode.STARTUP
    version_control: VersionControl = VersionControl.FOLLOW_LOOP
    model_error: str = ""

    def about(self, model: ServingModel | None) -> dict[str, Any]:
        """The answer of `about`: the contract's keys, then `device` and `errors`."""
        return {
            "operation_mode": self.operation_mode.value,
            "state": None,
            "model_info": model and model_json(model.information),
            "target_model": None,
            "version_control": self.version_control.value,
            "device": model and model.device,
            "errors": {"model": self.model_error} if self.model_error else {},
        }

    def model_version(self, model: ServingModel | None) -> ModelVersionResponse:
        """The answer of `model_version`; a version that is not known is the text `None`."""
        return ModelVersionResponse(
            current_version=model.information.version if model else "None",
            target_version="None",
            loop_version="None",
            local_versions=[model.information.version] if model else [],
            version_control=self.version_control.value,
        )
