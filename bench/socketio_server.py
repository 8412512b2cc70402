"""Our Socket.IO server with a detector that does nothing, served as the node serves it. Prints its port."""

import ctypes
from functools import partial

import trio
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.utils import wrap_app
from quart_trio import QuartTrio

from loop_node.socketio import tuning
from loop_node.socketio.hosting import HOSTED_APP_QUEUE_SIZE, MeteredStream, RendezvousWebsocket
from loop_node.socketio.limits import Limits
from loop_node.socketio.server import max_body_bytes, open_socketio_server
from loop_node.socketio.session import Peer

NOTHING: dict[str, list[object]] = {
    "box_detections": [],
    "point_detections": [],
    "segmentation_detections": [],
    "classification_detections": [],
}


async def detect(_peer: Peer, data: dict[str, object]) -> dict[str, list[object]]:
    """See nothing."""
    image = data["image"]
    assert isinstance(image, dict)
    assert len(image["bytes"]) == 1280 * 720 * 3
    return NOTHING


def keep_freed_memory() -> None:
    """Let glibc keep what large messages free; giving it back and faulting it in again is a third of the time."""
    libc = ctypes.CDLL(None)
    for threshold in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
        libc.mallopt(threshold, 1 << 30)


async def main() -> None:
    """Serve until killed."""
    keep_freed_memory()
    tuning.install()
    limits = Limits()
    app = QuartTrio("bench")
    app.config["MAX_CONTENT_LENGTH"] = max_body_bytes(limits)
    app.asgi_websocket_class = RendezvousWebsocket
    config = Config()
    config.websocket_max_message_size = limits.max_payload_bytes
    config.max_app_queue_size = HOSTED_APP_QUEUE_SIZE
    config.keep_alive_max_requests = 1_000_000
    asgi = wrap_app(app, 0, "asgi")

    async def serve_stream(stream: trio.SocketStream) -> None:
        await TCPServer(asgi, config, WorkerContext(None), {}, MeteredStream(stream, stall_s=limits.stall_s))

    async with open_socketio_server({"detect": detect}) as server, trio.open_nursery() as nursery:
        server.mount(app, "/ws/socket.io")
        listeners = await nursery.start(partial(trio.serve_tcp, serve_stream, 0, host="127.0.0.1"))
        print(listeners[0].socket.getsockname()[1], flush=True)


trio.run(main)
