import logging
from contextlib import asynccontextmanager
from functools import partial

import hypercorn.trio.tcp_server
import hypercorn.utils
import pytest
import trio
from attrs import evolve, frozen
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from quart_trio import QuartTrio

from loop_node.socketio import tuning
from loop_node.socketio.hosting import HOSTED_APP_QUEUE_SIZE, MeteredStream, RendezvousWebsocket
from loop_node.socketio.limits import Limits
from loop_node.socketio.server import max_body_bytes, open_socketio_server

PATH = "/ws/socket.io"

tuning.install()


@frozen
class Served:
    """A Socket.IO server on a port of this host."""

    server: object
    port: int

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def open_served(handlers, *, limits=None, stall_s=30.0, **options):
    """Serve handlers as the node does: hypercorn's TCPServer over metered streams, quart-trio, no compression."""
    limits = limits or Limits()
    app = QuartTrio("test")
    app.config["MAX_CONTENT_LENGTH"] = max_body_bytes(limits)
    app.asgi_websocket_class = RendezvousWebsocket
    config = Config()
    config.websocket_max_message_size = limits.max_payload_bytes
    config.max_app_queue_size = HOSTED_APP_QUEUE_SIZE
    config.errorlog = logging.getLogger("hypercorn.error")
    asgi = hypercorn.utils.wrap_app(app, 0, "asgi")

    async def serve_stream(stream):
        metered = MeteredStream(stream, stall_s=stall_s)
        await hypercorn.trio.tcp_server.TCPServer(asgi, config, WorkerContext(None), {}, metered)

    async with open_socketio_server(handlers, limits=limits, **options) as server, trio.open_nursery() as nursery:
        server.mount(app, PATH)
        listeners = await nursery.start(partial(trio.serve_tcp, serve_stream, 0, host="127.0.0.1"))
        yield Served(server, listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


@pytest.fixture
def serve():
    """Serve handlers: `async with serve({"event": handler}) as served`."""
    return open_served


@pytest.fixture
def until():
    """Wait until a condition holds that depends on another process or a socket."""

    async def wait(condition, timeout_s=10):
        with trio.fail_after(timeout_s):
            while not condition():  # noqa: ASYNC110 # what it waits for sets no event
                await trio.sleep(0.01)

    return wait


@pytest.fixture
def quick_limits():
    """Limits with periods a test can wait for."""
    return evolve(
        Limits(), ping_interval_s=0.2, ping_timeout_s=0.3, connect_timeout_s=1, linger_s=0.5, handler_grace_s=0.5
    )
