"""A robot with python-socketio: connects, loses the node, comes back. Says so on stdout.

Usage: robot.py URL TRANSPORT...
"""

import asyncio
import sys

import socketio


async def main(url: str, transports: list[str]) -> None:
    client = socketio.AsyncClient(reconnection_delay=0.1, reconnection_delay_max=0.2)
    connected, lost = asyncio.Event(), asyncio.Event()
    client.on("connect", connected.set)
    client.on("disconnect", lambda _reason: lost.set())
    await client.connect(url, transports=transports, socketio_path="/ws/socket.io")
    print((await client.call("about"))["operation_mode"], flush=True)
    connected.clear()
    await lost.wait()
    print("lost", flush=True)
    await connected.wait()
    print((await client.call("about"))["operation_mode"], flush=True)
    await client.disconnect()


asyncio.run(main(sys.argv[1], sys.argv[2:]))
