"""An app behind the real server, on a real port of this machine."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import trio
from attrs import define

from loop_node.serving.http_server import HttpLimits, open_listeners, serve_http


@define
class Served:
    """A running server, how to reach it, and how to stop it."""

    port: int
    stop: trio.Event
    ended: trio.Event

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)


@pytest.fixture
def serve() -> Callable[..., AbstractAsyncContextManager[Served]]:
    @asynccontextmanager
    async def serving(app: Any, **limits: Any) -> AsyncIterator[Served]:
        async with open_listeners("127.0.0.1", 0) as listeners, trio.open_nursery() as nursery:
            served = Served(listeners[0].socket.getsockname()[1], trio.Event(), trio.Event())
            ready = trio.Event()

            async def run() -> None:
                await serve_http(app, listeners, stop=served.stop, limits=HttpLimits(**limits), ready=ready.set)
                served.ended.set()

            nursery.start_soon(run)
            await ready.wait()
            yield served
            nursery.cancel_scope.cancel()

    return serving
