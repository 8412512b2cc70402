"""Who is connected to whom in a detector node.

Resources outside, supervised tasks inside::

    nursery "node"
    |- watch_signals        first signal: stop; second: the end at once
    `- listeners, engine, Socket.IO server { per peer: timekeeper, handlers }
       `- supervise
          |- http_server    VITAL       ends when stopped and drained, and all others with it
          `- model_loader   DEGRADABLE  builds the model that was asked for and installs it
"""

import logging
import os
from collections.abc import Callable, Sequence

import trio

from loop_node.images import keep_large_buffers
from loop_node.inference.engine import Engine, open_engine
from loop_node.schemas.status import OperationMode, VersionControl
from loop_node.serving.app import create_app
from loop_node.serving.http_server import HttpLimits, listening_url, open_listeners, serve_node
from loop_node.settings import Settings
from loop_node.socketio import tuning
from loop_node.socketio.limits import Limits
from loop_node.socketio.server import open_socketio_server
from loop_node.supervision import Criticality, Health, Restart, Task, TaskHandle, supervise, watch_signals

from .detection import Detector
from .events import detector_events, error_ack
from .logic import DetectorLogicFactory
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
    announce: Callable[[str], None] = lambda url: logger.info("listening on %s", url),
    change_tasks: ChangeTasks = lambda tasks: tasks,
) -> None:
    """Run a detector until SIGTERM or SIGINT tells it to stop.

    Args:
        settings: The operator's settings.
        factory: A logic to use instead of OpenVINO.
        announce: Called once with the node's address, when its doors are open.
        change_tasks: A seam for tests that make a task fail.

    Raises:
        SettingsError: The address is taken, or the model that was asked for is not there.
        TaskGivenUp: A vital task failed for good.
    """
    tuning.install()
    keep_large_buffers()
    build = prepare_build(settings, factory)
    _tell_what_is_missing(settings, build)
    stop = trio.Event()
    async with (
        open_listeners(settings.node_host, settings.node_port) as listeners,
        open_engine(max_queue=settings.max_queue) as engine,
        trio.open_nursery() as node,
    ):
        await node.start(watch_signals, stop, node.cancel_scope)
        announce(listening_url(listeners))
        await _run_tasks(settings, engine, listeners, build, stop, change_tasks)
        node.cancel_scope.cancel()


async def _run_tasks(
    settings: Settings,
    engine: Engine,
    listeners: list[trio.SocketListener],
    build: ModelBuild | None,
    stop: trio.Event,
    change_tasks: ChangeTasks,
) -> None:
    health = Health()
    state = DetectorState(version_control=VersionControl(settings.version_control_default))
    loader = ModelLoader(engine, state, build)
    detector = Detector(engine, settings.max_image_pixels, trio.CapacityLimiter(os.cpu_count() or 1))
    limits = HttpLimits(connections=settings.max_connections, body_bytes=settings.max_body_bytes)
    tasks = trio.CancelScope()
    async with open_socketio_server(
        detector_events(detector, state, loader.load),
        limits=_socketio_limits(settings),
        allowed_origins=settings.cors_allowed_origins,
        error_ack=error_ack,
    ) as socketio:
        app = create_app(
            settings.node_name,
            detector_endpoints(detector, state),
            health=health,
            not_ready=lambda: [] if engine.model else [engine.why_no_model],
            max_body_bytes=settings.max_body_bytes,
            socketio=socketio,
            allowed_origins=settings.cors_allowed_origins,
        )

        async def http_server(handle: TaskHandle) -> None:
            await serve_node(app, socketio, listeners, stop=stop, limits=limits, ready=handle.ready)
            tasks.cancel()

        async def model_loader(handle: TaskHandle) -> None:
            handle.ready()
            try:
                if build is not None:
                    await loader.load()
            finally:
                state.operation_mode = OperationMode.IDLE

        wanted = change_tasks(
            [
                Task(name="http_server", run=http_server, restart=Restart.ON_ERROR, criticality=Criticality.VITAL),
                Task(name="model_loader", run=model_loader, restart=Restart.NEVER, criticality=Criticality.DEGRADABLE),
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


def _tell_what_is_missing(settings: Settings, build: ModelBuild | None) -> None:
    if build is None:
        logger.warning("no model: set MODEL or --model; `coco` is the bundled one")
    if settings.serves_project:
        logger.warning("this version neither follows a model of the Learning Loop nor uploads images to it")
