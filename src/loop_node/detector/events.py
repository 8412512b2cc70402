"""The detector's Socket.IO side: the contract's events of all generations, their requests and acks.

An error ack of `detect` carries the four lists as null beside `error` (`items` of `batch_detect` likewise): a client that
does not look at `error` then fails, instead of taking the fault for an empty scene.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final

from attrs import frozen

from loop_node.errors import InputError
from loop_node.schemas.wire import model_json, unstructure
from loop_node.socketio.packets import Value
from loop_node.socketio.session import Handler, Peer

from .detection import AUTOUPLOAD_MODES, Detection, DetectionOrder, Detector, Pixels, read_creation_date
from .event_fields import quoted, read_object, read_sent_image, read_tags, read_text
from .model_control import ModelControl
from .state import DetectorState

__all__ = ["detector_events", "error_ack"]

logger = logging.getLogger(__name__)

_LISTS: Final = ("box_detections", "point_detections", "segmentation_detections", "classification_detections")
_NOTHING_SEEN: Final[Mapping[str, dict[str, Value]]] = {
    "detect": dict.fromkeys(_LISTS),
    "batch_detect": {"items": None},
}
_CAMERA_KEYS: Final = ("camera_id", "camera-id", "mac")


def error_ack(event: str, message: str) -> Value:
    """How an error is told to a client that wants an ack."""
    return {"error": message} | _NOTHING_SEEN.get(event, {})


def detector_events(detector: Detector, state: DetectorState, control: ModelControl) -> dict[str, Handler]:
    """The table of the detector's events.

    Args:
        detector: Finds things.
        state: What is said of it.
        control: Who chooses its model.
    """
    events = _Events(detector, state, control)
    return {
        "detect": events.detect,
        "batch_detect": events.batch_detect,
        "info": events.info,
        "about": events.about,
        "get_model_version": events.get_model_version,
        "soft_reload": events.soft_reload,
        "set_model_version_mode": events.set_model_version_mode,
    }


@frozen
class _Events:
    """The handlers; `None` as data is what clients send that send none."""

    detector: Detector
    state: DetectorState
    control: ModelControl

    async def detect(self, _peer: Peer, data: Value = None) -> Value:
        request = read_object(data)
        image = self._image(request.get("image"), "image")
        detection = await self.detector.detect(image, _order(request))
        return _answer(detection)

    async def batch_detect(self, _peer: Peer, data: Value = None) -> Value:
        request = read_object(data)
        images = request.get("images")
        if not isinstance(images, list):
            raise InputError(f"images: a list of images is needed, not {type(images).__name__}")
        read = [self._image(image, f"images[{index}]") for index, image in enumerate(images)]
        return {"items": [_answer(one) for one in await self.detector.detect_batch(read, _order(request))]}

    def _image(self, image: Value, name: str) -> bytes | Pixels:
        return read_sent_image(image, name, max_pixels=self.detector.max_image_pixels)

    async def info(self, _peer: Peer, _data: Value = None) -> Value:
        model = self.detector.engine.model
        if model is None:
            version = self.state.updating_to
            return {"status": f"Updating model to version {version}" if version else "No model loaded"}
        return model_json(model.information) | {"model_root_path": model.information.model_root_path}

    async def about(self, _peer: Peer, _data: Value = None) -> Value:
        return self.state.about(self.detector.engine.model)

    async def get_model_version(self, _peer: Peer, _data: Value = None) -> Value:
        versions: Value = unstructure(self.state.model_version(self.detector.engine.model))
        return versions

    async def soft_reload(self, _peer: Peer, _data: Value = None) -> Value:
        await self.control.load()
        return {"status": "OK"}

    async def set_model_version_mode(self, _peer: Peer, data: Value = None) -> Value:
        await self.control.set_mode(data if isinstance(data, str) else "")
        return {"status": "OK"}


def _answer(detection: Detection) -> Value:
    answer: Value = unstructure(detection.metadata)
    return answer


def _order(request: Mapping[str, Any]) -> DetectionOrder:
    said = {name: read_text(request, name) for name in ("source", "creation_date", *_CAMERA_KEYS)}
    return DetectionOrder(
        camera_id=next((said[key] for key in _CAMERA_KEYS if said[key]), None),
        tags=read_tags(request),
        source=said["source"],
        creation_date=read_creation_date(said["creation_date"]),
        autoupload=_autoupload(request.get("autoupload", AUTOUPLOAD_MODES[0])),
    )


def _autoupload(mode: object) -> str:
    """Over Socket.IO another word has never cost a robot its detections: it uploads nothing and is logged."""
    if isinstance(mode, str) and mode in AUTOUPLOAD_MODES:
        return mode
    logger.warning("autoupload %s is none of %s; nothing is uploaded", quoted(mode), ", ".join(AUTOUPLOAD_MODES))
    return "disabled"
