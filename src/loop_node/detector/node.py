"""Who is connected to whom in a detector node.

Resources outside, supervised tasks inside::

    nursery "node"
    |- watch_signals        first signal: stop; second: the end at once
    `- listeners, engine, Socket.IO server { per peer: timekeeper, handlers }
       `- supervise
          |- http_server    VITAL       ends when stopped and drained, and all others with it
          |- model_loader   DEGRADABLE  alone: builds the model that was asked for and installs it
          |- model_watcher  DEGRADABLE  with a Learning Loop: target -> download -> build -> probe -> exchange
          `- status_reporter DEGRADABLE with a Learning Loop: tells it how the detector is
"""

import logging
import os
from collections.abc import Callable, Sequence

import trio
from attrs import frozen

from loop_node.images import keep_large_buffers
from loop_node.inference.engine import Engine, open_engine
from loop_node.schemas.status import OperationMode, VersionControl
from loop_node.serving.app import create_app
from loop_node.serving.http_server import HttpLimits, open_listeners, serve_http
from loop_node.settings import Settings
from loop_node.socketio import tuning
from loop_node.socketio.limits import Limits
from loop_node.socketio.server import SocketIoServer, open_socketio_server
from loop_node.supervision import Criticality, Health, Restart, Task, TaskHandle, supervise, watch_signals

from .detection import Detector
from .events import detector_events, error_ack
from .following import prepare_following
from .logic import DetectorLogicFactory
from .model_control import ModelControl
from .model_source import ModelSource
from .models import ModelBuild, ModelLoader, prepare_build
from .rest import detector_endpoints
from .state import DetectorState

__all__ = ["run_detector"]

logger = logging.getLogger(__name__)

ChangeTasks = Callable[[Sequence[Task]], Sequence[Task]]


async def run_detector(
    settings: Settings,
    *,
    factory: DetectorLogicFactory | None = None,
    source: ModelSource | None = None,
    node_uuid: str = "",
    announce: Callable[[str], None] = lambda url: logger.info("listening on %s", url),
    change_tasks: ChangeTasks = lambda tasks: tasks,
) -> None:
    """Run a detector until SIGTERM or SIGINT tells it to stop.

    Args:
        settings: The operator's settings.
        factory: A logic to use instead of OpenVINO.
        source: The Learning Loop's project that it follows; None stands alone.
        node_uuid: By which the Learning Loop knows this node.
        announce: Called once with the node's address, when its doors are open.
        change_tasks: A seam for tests that make a task fail.

    Raises:
        SettingsError: The address is taken, the model that was asked for is not there, or models cannot be kept.
        TaskGivenUp: A vital task failed for good.
    """
    tuning.install()
    keep_large_buffers()
    build = prepare_build(settings, factory)
    _tell_what_is_missing(settings, build, source)
    stop = trio.Event()
    async with (
        open_listeners(settings.node_host, settings.node_port) as listeners,
        open_engine(max_queue=settings.max_queue) as engine,
        trio.open_nursery() as node,
    ):
        state = DetectorState(version_control=VersionControl(settings.version_control_default))
        models = _alone(engine, state, build)
        if source is not None:
            following = prepare_following(
                settings, source, node_uuid=node_uuid, engine=engine, state=state, local=build, factory=factory
            )
            models = _Models(following.watcher, following.tasks())
        await node.start(watch_signals, stop, node.cancel_scope)
        announce(_url(listeners))
        await _run_tasks(settings, engine, state, listeners, models, stop, change_tasks)
        node.cancel_scope.cancel()


@frozen
class _Models:
    """Who chooses the model, and the tasks that see to it."""

    control: ModelControl
    tasks: list[Task]


def _alone(engine: Engine, state: DetectorState, build: ModelBuild | None) -> _Models:
    loader = ModelLoader(engine, state, build)

    async def model_loader(handle: TaskHandle) -> None:
        handle.ready()
        try:
            if build is not None:
                await loader.load()
        finally:
            if state.operation_mode is OperationMode.STARTUP:
                state.operation_mode = OperationMode.IDLE

    task = Task(name="model_loader", run=model_loader, restart=Restart.NEVER, criticality=Criticality.DEGRADABLE)
    return _Models(loader, [task])


async def _run_tasks(
    settings: Settings,
    engine: Engine,
    state: DetectorState,
    listeners: list[trio.SocketListener],
    models: _Models,
    stop: trio.Event,
    change_tasks: ChangeTasks,
) -> None:
    health = Health()
    detector = Detector(engine, settings.max_image_pixels, trio.CapacityLimiter(os.cpu_count() or 1))
    limits = HttpLimits(connections=settings.max_connections, body_bytes=settings.max_body_bytes)
    tasks = trio.CancelScope()
    async with open_socketio_server(
        detector_events(detector, state, models.control),
        limits=_socketio_limits(settings),
        allowed_origins=settings.cors_allowed_origins,
        error_ack=error_ack,
    ) as socketio:
        app = create_app(
            settings.node_name,
            detector_endpoints(detector, state, models.control, has_backdoor=settings.use_backdoor_controls),
            health=health,
            not_ready=lambda: [] if engine.model else [engine.why_no_model],
            max_body_bytes=settings.max_body_bytes,
            socketio=socketio,
            allowed_origins=settings.cors_allowed_origins,
        )

        async def http_server(handle: TaskHandle) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_part_from_peers, stop, socketio)
                await serve_http(app, listeners, stop=stop, limits=limits, ready=handle.ready)
                nursery.cancel_scope.cancel()
            tasks.cancel()

        wanted = change_tasks(
            [
                Task(name="http_server", run=http_server, restart=Restart.ON_ERROR, criticality=Criticality.VITAL),
                *models.tasks,
            ]
        )
        with tasks:
            await supervise(wanted, health=health)


def _socketio_limits(settings: Settings) -> Limits:
    """At most half of the connections, so that there is always a way in for health checks and operators."""
    two_messages = max(128 << 20, 2 * settings.max_body_bytes)
    return Limits(
        max_payload_bytes=settings.max_body_bytes,
        max_packet_bytes=two_messages,
        max_handler_bytes=two_messages,
        max_peers=min(64, max(1, settings.max_connections // 2)),
    )


async def _part_from_peers(stop: trio.Event, socketio: SocketIoServer) -> None:
    await stop.wait()
    await socketio.finish()


def _tell_what_is_missing(settings: Settings, build: ModelBuild | None, source: ModelSource | None) -> None:
    if source is not None:
        return
    if build is None:
        logger.warning("no model: set MODEL or --model; `coco` is the bundled one")
    if settings.serves_project:
        logger.warning("this version neither follows a model of the Learning Loop nor uploads images to it")


def _url(listeners: list[trio.SocketListener]) -> str:
    host, port = listeners[0].socket.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
