"""Who is connected to whom in a detector node.

Resources outside, supervised tasks inside::

    nursery "node"
    |- watch_signals          first signal: stop; second: the end at once
    `- listeners, engine, link to the Learning Loop, outbox, Socket.IO server { per peer: timekeeper, handlers }
       `- supervise
          |- http_server      VITAL       ends when stopped and drained, and all others with it
          |- outbox_writer    VITAL       images -> disk; detections never wait for it
          |- jpeg_encoder     DEGRADABLE  chosen images that are no JPEG yet -> outbox_writer
          |- model_loader     DEGRADABLE  alone: builds the model that was asked for and installs it
          |- model_watcher    DEGRADABLE  with a Learning Loop: target -> download -> build -> probe -> exchange
          |- status_reporter  DEGRADABLE  with a Learning Loop: tells it how the detector is
          `- outbox_drainer   DEGRADABLE  with a Learning Loop: disk -> Learning Loop
"""

import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio
from attrs import define

from loop_node.images import keep_large_buffers
from loop_node.inference.engine import Engine, open_engine
from loop_node.schemas.status import VersionControl
from loop_node.serving.app import create_app
from loop_node.serving.http_server import HttpLimits, listening_url, open_listeners, serve_node
from loop_node.settings import Settings
from loop_node.socketio import tuning
from loop_node.socketio.limits import Limits
from loop_node.socketio.server import open_socketio_server
from loop_node.socketio.session import bare_exception
from loop_node.supervision import Criticality, Health, Restart, Task, TaskHandle, supervise, watch_signals

from . import outbox as outbox_room
from .active_learning import ActiveLearning
from .detection import Detector
from .events import detector_events, error_ack
from .figures import DetectorFigures
from .following import Models, models_alone, models_of_loop
from .linking import LoopLink, open_loop_link
from .logic import DetectorLogicFactory
from .models import ModelBuild, prepare_build
from .outbox import Outbox, open_outbox
from .outbox_doors import OutboxDoors
from .relevance import RelevanceFilter
from .rest import detector_endpoints
from .state import DetectorState
from .talking import Talk
from .uploading import UploadReader

__all__ = ["run_detector", "serve_detector"]

logger = logging.getLogger(__name__)

ChangeTasks = Callable[[Sequence[Task]], Sequence[Task]]
Announce = Callable[[str], None]
OpenLink = Callable[[Settings], AbstractAsyncContextManager[LoopLink | None]]


def _log_address(url: str) -> None:
    logger.info("listening on %s", url)


async def run_detector(
    settings: Settings,
    *,
    factory: DetectorLogicFactory | None = None,
    announce: Announce = _log_address,
    open_link: OpenLink = open_loop_link,
    change_tasks: ChangeTasks = lambda tasks: tasks,
) -> None:
    """Run a detector until SIGTERM or SIGINT tells it to stop.

    Args:
        settings: The operator's settings.
        factory: A logic to use instead of OpenVINO.
        announce: Called once with the node's address, when its doors are open.
        open_link: A seam for tests that are the Learning Loop.
        change_tasks: A seam for tests that make a task fail.

    Raises:
        SettingsError: The address is taken, the model that was asked for is not there, or models cannot be kept.
        TaskGivenUp: A vital task failed for good.
    """
    stop = trio.Event()
    with bare_exception():
        async with trio.open_nursery() as node:
            await node.start(watch_signals, stop, node.cancel_scope)
            await serve_detector(
                settings, stop, factory=factory, announce=announce, open_link=open_link, change_tasks=change_tasks
            )
            node.cancel_scope.cancel()


async def serve_detector(
    settings: Settings,
    stop: trio.Event,
    *,
    factory: DetectorLogicFactory | None = None,
    announce: Announce = _log_address,
    open_link: OpenLink = open_loop_link,
    change_tasks: ChangeTasks = lambda tasks: tasks,
) -> None:
    """Serve until `stop` is set and the requests in flight are answered; otherwise as `run_detector`."""
    tuning.install()
    keep_large_buffers()
    build = prepare_build(settings, factory)
    async with (
        open_listeners(settings.node_host, settings.node_port) as listeners,
        _open_parts(settings, build, factory, open_link) as parts,
    ):
        announce(listening_url(listeners))
        await _run_tasks(settings, parts, listeners, stop, change_tasks)


@define(kw_only=True)
class _Parts:
    """What the doors and the tasks share; `link` is None for a detector that stands alone."""

    engine: Engine
    state: DetectorState
    models: Models
    outbox: Outbox
    learning: ActiveLearning
    link: LoopLink | None
    talk: Talk
    decoders: trio.CapacityLimiter
    upload_workers: trio.CapacityLimiter

    def tasks(self) -> list[Task]:
        """All but the web server."""
        link, degradable = self.link, Criticality.DEGRADABLE
        tasks = [
            Task(name="outbox_writer", run=self.outbox.run_writer, criticality=Criticality.VITAL),
            Task(name="jpeg_encoder", run=self.learning.run_encoder, criticality=degradable),
            *self.models.tasks,
        ]
        if link is not None:
            send = link.send

            async def outbox_drainer(handle: TaskHandle) -> None:
                await self.outbox.run_drainer(send, handle)

            tasks.append(Task(name="outbox_drainer", run=outbox_drainer, criticality=degradable))
        return tasks


@asynccontextmanager
async def _open_parts(
    settings: Settings, build: ModelBuild | None, factory: DetectorLogicFactory | None, open_link: OpenLink
) -> AsyncIterator[_Parts]:
    limits = outbox_room.Limits(
        normal_images=settings.max_outbox_size,
        total_bytes=settings.max_outbox_bytes,
        free_bytes=settings.min_free_disk_bytes,
    )
    upload_workers = trio.CapacityLimiter(os.cpu_count() or 1)  # not detection's own: a large upload would hold it up
    state = DetectorState(version_control=VersionControl(settings.version_control_default))
    talk = Talk(is_on=not settings.skip_repeat_on_start)
    async with (
        open_engine(max_queue=settings.max_queue) as engine,
        open_link(settings) as link,
        open_outbox(settings.data_folder / "outbox", limits) as outbox,
    ):
        if link is None:
            _tell_what_is_missing(build)
            models = models_alone(engine, state, build)
        else:
            state.describe_link = link.state.snapshot
            models = models_of_loop(settings, link, engine=engine, state=state, local=build, factory=factory, talk=talk)
        yield _Parts(
            engine=engine,
            state=state,
            models=models,
            outbox=outbox,
            learning=ActiveLearning(
                keeper=outbox,
                relevance=RelevanceFilter(settings.min_uncertain_threshold, settings.max_uncertain_threshold),
                max_pixels=settings.max_image_pixels,
                encoders=upload_workers,
                is_on=link is not None,
            ),
            link=link,
            talk=talk,
            decoders=trio.CapacityLimiter(os.cpu_count() or 1),
            upload_workers=upload_workers,
        )


async def _run_tasks(
    settings: Settings,
    parts: _Parts,
    listeners: list[trio.SocketListener],
    stop: trio.Event,
    change_tasks: ChangeTasks,
) -> None:
    health, engine, state, models = Health(), parts.engine, parts.state, parts.models
    detector = Detector(engine, settings.max_image_pixels, parts.decoders, parts.learning.consider)
    reader = UploadReader(settings.max_image_pixels, parts.upload_workers)
    doors = OutboxDoors(outbox=parts.outbox, reader=reader, engine=engine)
    limits = HttpLimits(connections=settings.max_connections, body_bytes=settings.max_body_bytes)
    tasks = trio.CancelScope()
    async with open_socketio_server(
        detector_events(detector, state, models.control) | doors.events(),
        limits=_socketio_limits(settings),
        allowed_origins=settings.cors_allowed_origins,
        error_ack=error_ack,
    ) as socketio:
        endpoints = detector_endpoints(detector, state, models.control, has_backdoor=settings.use_backdoor_controls)
        backdoor = [parts.talk.endpoint()] if settings.use_backdoor_controls else []
        link = parts.link.state if parts.link is not None else None
        app = create_app(
            settings.node_name,
            [*endpoints, *doors.endpoints(), *backdoor],
            health=health,
            not_ready=lambda: [] if engine.model else [engine.why_no_model],
            max_body_bytes=settings.max_body_bytes,
            socketio=socketio,
            allowed_origins=settings.cors_allowed_origins,
            figures=[DetectorFigures(engine=engine, outbox=parts.outbox, learning=parts.learning, link=link)],
        )

        async def http_server(handle: TaskHandle) -> None:
            await serve_node(app, socketio, listeners, stop=stop, limits=limits, ready=handle.ready)
            tasks.cancel()

        server = Task(name="http_server", run=http_server, restart=Restart.ON_ERROR, criticality=Criticality.VITAL)
        with tasks:
            await supervise(change_tasks([server, *parts.tasks()]), health=health)


def _socketio_limits(settings: Settings) -> Limits:
    """At most half of the connections, so that there is always a way in for health checks and operators."""
    two_messages = max(128 << 20, 2 * settings.max_body_bytes)
    return Limits(
        max_payload_bytes=settings.max_body_bytes,
        max_packet_bytes=two_messages,
        max_handler_bytes=two_messages,
        max_peers=min(64, max(1, settings.max_connections // 2)),
    )


def _tell_what_is_missing(build: ModelBuild | None) -> None:
    if build is None:
        logger.warning("no model: set MODEL or --model; `coco` is the bundled one")
    logger.info("this detector stands alone: images are kept for a Learning Loop only if clients hand them in")
