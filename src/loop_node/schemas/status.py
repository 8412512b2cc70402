"""What nodes say of themselves, to their clients and to the Learning Loop."""

from enum import StrEnum
from typing import Any

from attrs import Factory, define

from .models import Context, ModelInformation

__all__ = [
    "AboutResponse",
    "AnnotationNodeStatus",
    "DetectionStatus",
    "DetectorStatus",
    "ModelVersionResponse",
    "NodeState",
    "NodeStatus",
    "OperationMode",
    "PretrainedModel",
    "SocketResponse",
    "TrainingStatus",
    "VersionControl",
]


class NodeState(StrEnum):
    """What a node is doing."""

    IDLE = "idle"
    OFFLINE = "offline"
    ONLINE = "online"
    PREPARING = "preparing"
    RUNNING = "running"
    STOPPING = "stopping"
    DETECTING = "detecting"
    UPLOADING = "uploading"


class OperationMode(StrEnum):
    """What a detector does; while `detecting` its model is not exchanged."""

    STARTUP = "startup"
    IDLE = "idle"
    DETECTING = "detecting"


class VersionControl(StrEnum):
    """Who chooses a detector's model."""

    FOLLOW_LOOP = "follow_loop"
    SPECIFIC_VERSION = "specific_version"
    PAUSE = "pause"


@define(kw_only=True)
class AboutResponse:
    """The answer of `/about`."""

    operation_mode: str
    state: str | None
    model_info: ModelInformation | None
    target_model: str | None
    version_control: str


@define(kw_only=True)
class ModelVersionResponse:
    """The answer of `GET /model_version`; a version that is not known is the text `None`."""

    current_version: str
    target_version: str
    loop_version: str
    local_versions: list[str]
    version_control: str


@define(kw_only=True)
class DetectionStatus:
    """What detectors up to protocol generation 3 told the Learning Loop over Socket.IO; `uptime` in seconds."""

    id: str
    name: str
    model_format: str
    state: NodeState | None = None
    errors: dict[str, Any] | None = None
    uptime: int | None = None
    current_model: str | None = None
    target_model: str | None = None
    operation_mode: str | None = None


@define(kw_only=True)
class DetectorStatus:
    """What a detector posts to the Learning Loop; `uptime` in seconds."""

    uuid: str
    name: str
    state: NodeState
    uptime: int
    model_format: str
    current_model: str | None
    target_model: str | None
    errors: dict[str, Any]
    operation_mode: str
    node_version: str | None = None


@define(kw_only=True)
class NodeStatus:
    """What any node says of itself; `uptime` in seconds."""

    id: str
    name: str
    state: NodeState | None = NodeState.ONLINE
    uptime: int | None = 0
    errors: dict[str, Any] = Factory(dict)
    capabilities: list[str] = Factory(list)


@define(kw_only=True)
class AnnotationNodeStatus(NodeStatus):
    """What an annotator says of itself."""


@define(kw_only=True)
class PretrainedModel:
    """A model a training may start from."""

    name: str
    label: str
    description: str


@define(kw_only=True)
class TrainingStatus:
    """What a trainer says of itself; `uptime` in seconds, `progress` in 0..1."""

    id: str
    name: str
    state: str | None
    uptime: float | None
    errors: dict[str, Any] | None
    progress: float | None
    pretrained_models: list[PretrainedModel] = Factory(list)
    architecture: str | None = None
    context: Context | None = None


@define(kw_only=True)
class SocketResponse:
    """The acknowledgement of most events between nodes and the Learning Loop."""

    success: bool
    error_msg: str | None = None
    payload: Any = None
