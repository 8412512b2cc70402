"""python-socketio's AsyncServer under uvicorn, for our client to talk to. Usage: upstream_server.py [PORT]; prints the port."""

import asyncio
import socket
import sys

import uvicorn

import socketio

sio = socketio.AsyncServer(async_mode="asgi", max_http_buffer_size=2**26, ping_interval=1, ping_timeout=1)


@sio.event
async def connect(sid, environ, auth):
    if auth and auth.get("refuse"):
        raise socketio.exceptions.ConnectionRefusedError("not you")
    await sio.save_session(
        sid, {"organization": environ.get("HTTP_ORGANIZATION"), "cookie": environ.get("HTTP_COOKIE")}
    )


@sio.event
async def who_am_i(sid):
    return await sio.get_session(sid)


@sio.event
async def echo(_sid, *args):
    return args


@sio.event
async def ask_me(sid, data):
    return await sio.call("question", data, to=sid)


@sio.event
async def tell_me(sid, data):
    for number in range(3):
        await sio.emit("news", (number, data), to=sid)


@sio.event
async def never(_sid):
    print("never", flush=True)
    await asyncio.sleep(3600)


@sio.event
async def drop_me(sid):
    await sio.disconnect(sid)


def main():
    listening = socket.create_server(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0))
    print(listening.getsockname()[1], flush=True)
    app = socketio.ASGIApp(sio, socketio_path="/ws/socket.io")
    config = uvicorn.Config(app, log_level="warning", ws_max_size=2**27, ws_ping_interval=None)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
