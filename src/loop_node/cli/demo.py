"""`loop-node demo`: a Learning Loop with the COCO model and a detector that follows it, in one process."""

from collections.abc import Callable

import attrs
import trio

from loop_node.detector.node import serve_detector
from loop_node.local_loop.accounts import DEFAULT_USER
from loop_node.local_loop.coco_project import COCO_ORGANIZATION, COCO_PROJECT, fill_with_coco
from loop_node.local_loop.node import serve_loop
from loop_node.settings import Settings
from loop_node.socketio.session import bare_exception
from loop_node.supervision import watch_signals

__all__ = ["run_demo"]


async def run_demo(settings: Settings, *, announce: Callable[[str, str], None]) -> None:
    """Run both until SIGTERM or SIGINT tells them to stop; whatever ends one of them ends both.

    Args:
        settings: The operator's settings; the Loop listens on LOCAL_LOOP_PORT.
        announce: Called once with the addresses of the Loop and of the detector, when all doors are open.

    Raises:
        SettingsError: An address is taken, or a folder cannot be used.
        TaskGivenUp: A vital task failed for good.
    """
    stop = trio.Event()
    with bare_exception():
        async with trio.open_nursery() as node:
            await node.start(watch_signals, stop, node.cancel_scope)
            with bare_exception():
                async with trio.open_nursery() as parts:
                    loop_url = await parts.start(_serve_loop, settings, stop)
                    await serve_detector(
                        _followed(settings, loop_url), stop, announce=lambda url: announce(loop_url, url)
                    )
            node.cancel_scope.cancel()


async def _serve_loop(  # noqa: ASYNC128  # it hands `started` on
    settings: Settings, stop: trio.Event, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    own = attrs.evolve(settings, node_port=settings.local_loop_port, node_name=f"{settings.node_name}-loop")
    await serve_loop(own, stop, announce=task_status.started, fill=fill_with_coco)


def _followed(settings: Settings, loop_url: str) -> Settings:
    username, password = settings.loop_username, settings.loop_password
    if username is None:
        username, password = DEFAULT_USER
    return attrs.evolve(
        settings,
        loop_host=loop_url,
        loop_username=username,
        loop_password=password,
        loop_organization=COCO_ORGANIZATION,
        loop_project=COCO_PROJECT,
    )
