"""The detector's REST side: the contract's endpoints, bodies and statuses, generation 6."""

import logging
from typing import Any, Final

from attrs import frozen
from quart import Response, request

from loop_node.errors import ImageError, InputError
from loop_node.schemas.detections import ImageMetadata
from loop_node.schemas.status import AboutResponse, ModelVersionResponse, OperationMode
from loop_node.schemas.wire import unstructure_flat
from loop_node.serving.app import json_answer, text_answer
from loop_node.serving.openapi import Endpoint
from loop_node.serving.uploads import read_body, read_image

from .detection import AUTOUPLOAD_MODES, Detection, DetectionOrder, Detector, read_autoupload, read_creation_date
from .model_control import ModelControl
from .state import DetectorState
from .words import CREATION_DATE, SOURCE, Word, parameters

__all__ = ["detector_endpoints"]

logger = logging.getLogger(__name__)

_CAMERA_ID: Final = Word(("camera-id", "camera_id", "mac"), "Groups images for submission.")
_TAGS: Final = Word(("tags",), "Separated by commas.")
_AUTOUPLOAD: Final = Word(
    ("autoupload",),
    "Which images go to the Learning Loop.",
    {"type": "string", "enum": list(AUTOUPLOAD_MODES), "default": AUTOUPLOAD_MODES[0]},
)

_OK: Final[dict[str, Any]] = {"type": "string", "enum": ["OK"]}


def detector_endpoints(
    detector: Detector, state: DetectorState, control: ModelControl, *, has_backdoor: bool = False
) -> list[Endpoint]:
    """The detector's own endpoints.

    Args:
        detector: Finds things.
        state: What is said of it.
        control: Who chooses its model.
        has_backdoor: USE_BACKDOOR_CONTROLS.
    """
    rest = _Rest(detector, state, control)
    backdoor = Endpoint(
        method="POST",
        path="/reset",
        handle=rest.reset,
        summary="Forget models and modes; images that were not uploaded yet stay.",
        answer={"type": "boolean"},
    )
    return [
        *([backdoor] if has_backdoor else []),
        Endpoint(
            method="POST",
            path="/detect",
            handle=rest.detect,
            summary="Find things in an image.",
            image_field="file",
            parameters=parameters((_CAMERA_ID, _TAGS, SOURCE, _AUTOUPLOAD, CREATION_DATE)),
            answer=ImageMetadata,
            faults=(413, 422, 503),
        ),
        Endpoint(
            method="GET", path="/about", handle=rest.about, summary="The detector and its model.", answer=AboutResponse
        ),
        Endpoint(
            method="GET",
            path="/model_version",
            handle=rest.model_version,
            summary="Which model serves, and who chooses it.",
            answer=ModelVersionResponse,
        ),
        Endpoint(
            method="PUT",
            path="/model_version",
            handle=rest.put_model_version,
            summary="Follow the Learning Loop, stay as it is, go back, or serve a certain version.",
            text_pattern=r"^(follow_loop|pause|previous|[0-9]+(\.[0-9]+)*)$",
            answer=_OK,
            faults=(400,),
        ),
        Endpoint(
            method="GET",
            path="/operation_mode",
            handle=rest.operation_mode,
            summary="What the detector is doing.",
            text_answer=tuple(OperationMode),
        ),
        Endpoint(
            method="PUT",
            path="/operation_mode",
            handle=rest.put_operation_mode,
            summary="Say what the detector is doing; while `detecting` its model is not exchanged.",
            text_body=tuple(OperationMode),
            answer=_OK,
            faults=(422,),
        ),
    ]


@frozen
class _Rest:
    """The handlers of the endpoints."""

    detector: Detector
    state: DetectorState
    control: ModelControl

    async def detect(self) -> Response:
        image, order = await read_image(request, field="file"), _order()
        try:
            detection = await self.detector.detect(image, order)
        except ImageError as error:
            raise ImageError(f"field 'file': {error}") from error
        answer = json_answer(unstructure_flat(detection.metadata))
        answer.headers["Server-Timing"] = _server_timing(detection)
        return answer

    async def about(self) -> Response:
        return json_answer(self.state.about(self.detector.engine.model))

    async def model_version(self) -> Response:
        return json_answer(unstructure_flat(self.state.model_version(self.detector.engine.model)))

    async def put_model_version(self) -> Response:
        try:
            await self.control.set_mode(await _body_text())
        except InputError as error:
            return json_answer({"detail": str(error)}, 400)
        return json_answer("OK")

    async def operation_mode(self) -> Response:
        return text_answer(self.state.operation_mode)

    async def put_operation_mode(self) -> Response:
        text = await _body_text()
        if text not in list(OperationMode):
            raise InputError(f"operation_mode: one of {', '.join(OperationMode)} is needed, not {text[:40]!r}")
        self.control.set_operation_mode(OperationMode(text))
        return json_answer("OK")

    async def reset(self) -> Response:
        await self.control.reset()
        return json_answer(True)


async def _body_text() -> str:
    return (await read_body(request)).decode("utf-8", "replace").strip()


def _order() -> DetectionOrder:
    tags = _TAGS.read(request)
    return DetectionOrder(
        camera_id=_CAMERA_ID.read(request),
        tags=tags.split(",") if tags else [],
        source=SOURCE.read(request),
        autoupload=read_autoupload(_AUTOUPLOAD.read(request)),
        creation_date=read_creation_date(CREATION_DATE.read(request)),
    )


def _server_timing(detection: Detection) -> str:
    steps = {
        "decode": detection.decode_s,
        "queue": detection.queue_s,
        "infer": detection.infer_s,
        "post": detection.post_s,
    }
    return ", ".join(f"{name};dur={seconds * 1000:.2f}" for name, seconds in steps.items())
