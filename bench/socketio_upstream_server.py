"""The stack of the existing nodes: python-socketio's AsyncServer under uvicorn, as fast as it goes. Prints its port."""

import socket

import uvicorn

import socketio

sio = socketio.AsyncServer(async_mode="asgi", max_http_buffer_size=2**27)


@sio.event
async def detect(_sid: str, data: dict[str, object]) -> dict[str, list[object]]:
    """See nothing."""
    image = data["image"]
    assert isinstance(image, dict)
    assert len(image["bytes"]) == 1280 * 720 * 3
    return {
        "box_detections": [],
        "point_detections": [],
        "segmentation_detections": [],
        "classification_detections": [],
    }


listening = socket.create_server(("127.0.0.1", 0))
print(listening.getsockname()[1], flush=True)
app = socketio.ASGIApp(sio, socketio_path="/ws/socket.io")
config = uvicorn.Config(app, log_level="warning", ws_max_size=2**27, loop="uvloop", http="httptools", ws="websockets")
uvicorn.Server(config).run(sockets=[listening])
