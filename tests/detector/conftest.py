"""A detector's HTTP and Socket.IO side over a real server, with a model made of paper behind it."""

import io
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import trio
from attrs import define, field
from numpy.typing import NDArray
from PIL import Image

from loop_node.detector.active_learning import ActiveLearning
from loop_node.detector.detection import Detector
from loop_node.detector.events import detector_events, error_ack
from loop_node.detector.outbox import Limits, Outbox, OutboxMode, open_outbox
from loop_node.detector.outbox_doors import OutboxDoors
from loop_node.detector.relevance import RelevanceFilter
from loop_node.detector.rest import detector_endpoints
from loop_node.detector.state import DetectorState
from loop_node.detector.uploading import UploadReader
from loop_node.errors import InputError
from loop_node.inference.engine import Detected, Engine, open_engine
from loop_node.schemas.detections import BoxDetection, ImageMetadata
from loop_node.schemas.models import Category, ModelInformation
from loop_node.schemas.status import OperationMode
from loop_node.serving.app import create_app
from loop_node.serving.http_server import HttpLimits, open_listeners, serve_http
from loop_node.socketio import tuning
from loop_node.socketio.limits import Limits as PeerLimits
from loop_node.socketio.server import open_socketio_server
from loop_node.supervision import Health

tuning.install()

BOX = BoxDetection(category_name="a", x=1, y=2, width=3, height=4, model_name="2.0", confidence=0.5, category_id="id-a")


def encoded(width: int = 8, height: int = 6, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 10, 10)).save(buffer, kind)
    return buffer.getvalue()


INFORMATION = ModelInformation(
    id="1", organization="o", project="p", version="2.0", categories=[Category(id="id-a", name="a")]
)


@define
class PaperModel:
    """Finds what it was told, always the same object; remembers the images' shapes."""

    metadata: ImageMetadata
    shapes: list[tuple[int, ...]] = field(factory=list)
    max_in_flight: int = 1
    device: str = "paper"
    information: ModelInformation = INFORMATION

    fault: Exception | None = None

    def detect(self, image: NDArray[np.uint8]) -> Detected:
        self.shapes.append(image.shape)
        if self.fault is not None:
            raise self.fault
        return Detected(metadata=self.metadata, infer_s=0.001, post_s=0.002)

    def close(self) -> None: ...


@define
class PaperControl:
    """Takes down what it is told; takes no version but 1.0."""

    state: DetectorState
    told: list[str] = field(factory=list)
    fault: Exception | None = None

    async def load(self) -> None:
        await trio.lowlevel.checkpoint()
        self.told.append("load")
        if self.fault is not None:
            raise self.fault

    async def set_mode(self, text: str) -> None:
        await trio.lowlevel.checkpoint()
        if text not in ("follow_loop", "pause", "previous", "1.0"):
            raise InputError("Invalid version number")
        self.told.append(text)

    def set_operation_mode(self, mode: OperationMode) -> None:
        self.state.operation_mode = mode

    async def reset(self) -> None:
        await trio.lowlevel.checkpoint()
        self.told.append("reset")


class PaperHandle:
    """What a task tells nobody."""

    def ready(self) -> None: ...

    @contextmanager
    def waiting(self, reason: str) -> Iterator[None]:
        yield


@define
class Node:
    """A detector's HTTP side, a client for it, and what lies behind."""

    client: httpx.AsyncClient
    engine: Engine
    state: DetectorState
    model: PaperModel
    control: PaperControl
    outbox: Outbox
    learning: ActiveLearning
    handle: "PaperHandle"


@pytest.fixture
def jpeg() -> bytes:
    """8 pixels wide, 6 high."""
    return encoded()


@pytest.fixture
def encode() -> Any:
    return encoded


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    state = DetectorState(operation_mode=OperationMode.IDLE)
    model = PaperModel(ImageMetadata(box_detections=[BOX]))
    control = PaperControl(state)
    async with (
        open_engine(max_queue=4) as engine,
        open_listeners("127.0.0.1", 0) as listeners,
        open_outbox(tmp_path / "outbox", Limits(normal_images=5, free_bytes=0)) as outbox,
    ):
        learning = ActiveLearning(
            keeper=outbox,
            relevance=RelevanceFilter(0.3, 0.6),
            max_pixels=10_000,
            encoders=trio.CapacityLimiter(1),
        )
        detector = Detector(engine, 10_000, trio.CapacityLimiter(2), learning.consider)
        reader = UploadReader(10_000, trio.CapacityLimiter(2))
        doors = OutboxDoors(outbox=outbox, reader=reader, engine=engine)
        await engine.install(model)
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with (
            open_socketio_server(
                detector_events(detector, state, control) | doors.events(),
                limits=PeerLimits(max_payload_bytes=1_000_000),
                error_ack=error_ack,
            ) as socketio,
            trio.open_nursery() as nursery,
            httpx.AsyncClient(base_url=url) as client,
        ):
            app = create_app(
                "t",
                [*detector_endpoints(detector, state, control, has_backdoor=True), *doors.endpoints()],
                health=Health(),
                not_ready=list,
                max_body_bytes=100_000,
                socketio=socketio,
            )
            limits = HttpLimits(body_bytes=1_000_000)
            nursery.start_soon(lambda: serve_http(app, listeners, stop=trio.Event(), limits=limits, ready=lambda: None))
            handle = PaperHandle()
            nursery.start_soon(outbox.run_writer, handle)
            nursery.start_soon(learning.run_encoder, handle)
            await outbox.set_mode(OutboxMode.STOPPED)
            yield Node(client, engine, state, model, control, outbox, learning, handle)
            nursery.cancel_scope.cancel()
