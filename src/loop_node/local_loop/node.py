"""Who is connected to whom in the embedded Learning Loop.

Resources outside, supervised tasks inside::

    nursery "node"
    |- watch_signals        first signal: stop; second: the end at once
    `- listeners, store { worker threads }, Socket.IO server { per node: timekeeper, handlers }
       `- supervise
          `- http_server    VITAL       ends when stopped and drained
"""

import ipaddress
import logging
from collections.abc import Callable, Collection
from typing import Protocol

import trio
from quart import Quart

from loop_node.serving.app import create_app
from loop_node.serving.http_server import HttpLimits, listening_url, open_listeners, serve_node
from loop_node.settings import Settings
from loop_node.socketio import tuning
from loop_node.socketio.limits import Limits
from loop_node.socketio.server import SocketIoServer, open_socketio_server
from loop_node.socketio.session import bare_exception
from loop_node.supervision import Criticality, Health, Restart, Task, TaskHandle, supervise, watch_signals

from .contract import contract_endpoints
from .demo import fill_with_demo
from .loop import LocalLoop, open_local_loop
from .management import management_endpoints
from .page import page_endpoints
from .requests import Guard
from .sockets import LoopSockets, refused

__all__ = ["run_loop", "serve_loop"]

logger = logging.getLogger(__name__)


class Fill(Protocol):
    """Puts something into a store."""

    async def __call__(self, loop: LocalLoop, /, *, host: str) -> None:
        """`host` is the Loop's address, which models tell."""
        ...


_WHOLE_BODY_BYTES = 32 << 20
"""Of bodies that are read whole: JSON. Images and models are streamed to disk, and have bounds of their own."""
_MESSAGE_BYTES = 64 << 20
"""Of a Socket.IO message, as nodes are used to."""


async def run_loop(
    settings: Settings, *, announce: Callable[[str], None] = lambda url: logger.info("listening on %s", url)
) -> None:
    """Run the embedded Learning Loop until SIGTERM or SIGINT tells it to stop.

    Args:
        settings: The operator's settings.
        announce: Called once with the Loop's address, when its doors are open.

    Raises:
        SettingsError: The address is taken, the folder cannot be used, or the default password would let others in.
        TaskGivenUp: A vital task failed for good.
    """
    stop = trio.Event()
    with bare_exception():
        async with trio.open_nursery() as node:
            await node.start(watch_signals, stop, node.cancel_scope)
            await serve_loop(settings, stop, announce=announce)
            node.cancel_scope.cancel()


async def serve_loop(
    settings: Settings, stop: trio.Event, *, announce: Callable[[str], None], fill: Fill | None = None
) -> None:
    """Serve until `stop` is set and the requests in flight are answered; otherwise as `run_loop`.

    `fill` puts something into the store before it is served.
    """
    tuning.install()
    async with (
        open_listeners(settings.node_host, settings.node_port) as listeners,
        open_local_loop(
            settings.local_loop_folder,
            username=settings.loop_username,
            password=settings.loop_password,
            is_loopback=is_loopback(settings.node_host),
            max_image_pixels=settings.max_image_pixels,
            max_batch_bytes=settings.max_body_bytes,
            max_model_bytes=settings.model_max_bytes,
            max_uploads_per_minute=settings.max_uploads_per_minute,
            min_free_bytes=settings.min_free_disk_bytes,
        ) as loop,
    ):
        for each in (fill_with_demo if settings.local_loop_demo else None, fill):
            if each is not None:
                await each(loop, host=listening_url(listeners))
        announce(listening_url(listeners))
        logger.info("the Learning Loop keeps everything in %s", settings.local_loop_folder)
        await _serve(settings, loop, listeners, stop)


async def _serve(settings: Settings, loop: LocalLoop, listeners: list[trio.SocketListener], stop: trio.Event) -> None:
    health = Health()
    sockets = LoopSockets(loop)
    limits = HttpLimits(connections=settings.max_connections, body_bytes=_MESSAGE_BYTES)
    peers = Limits(max_payload_bytes=_MESSAGE_BYTES, max_peers=max(1, settings.max_connections // 2))
    async with open_socketio_server(
        sockets.events(),
        limits=peers,
        allowed_origins=settings.cors_allowed_origins,
        on_connect=sockets.let_in,
        on_disconnect=sockets.let_go,
        error_ack=refused,
    ) as socketio:
        app = loop_app(
            settings.node_name,
            loop,
            health,
            socketio,
            max_body_bytes=min(_WHOLE_BODY_BYTES, settings.max_body_bytes),
            allowed_origins=settings.cors_allowed_origins,
        )

        async def http_server(handle: TaskHandle) -> None:
            await serve_node(app, socketio, listeners, stop=stop, limits=limits, ready=handle.ready)

        task = Task(name="http_server", run=http_server, restart=Restart.ON_ERROR, criticality=Criticality.VITAL)
        await supervise([task], health=health)


def loop_app(
    name: str,
    loop: LocalLoop,
    health: Health,
    socketio: SocketIoServer,
    *,
    max_body_bytes: int,
    allowed_origins: Collection[str] = (),
) -> Quart:
    """The Loop's HTTP side: the contract, the management API, the pages."""
    table = [*contract_endpoints(loop), *management_endpoints(loop)]
    return create_app(
        name,
        [*map(Guard(loop.accounts), table), *page_endpoints(loop)],
        health=health,
        not_ready=list,
        max_body_bytes=max_body_bytes,
        socketio=socketio,
        allowed_origins=allowed_origins,
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on this address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
