"""python-socketio's own clients against our server: prints what they saw as JSON.

Usage: python_client.py async|sync URL, or one of the other parts: parallel, flood, idle, strangers.
"""

import asyncio
import json
import sys

import socketio

PATH = "/ws/socket.io"
TRANSPORTS = [["polling"], ["websocket"], ["polling", "websocket"]]
RAW = {"image": {"bytes": bytes(1920 * 1080 * 3), "dtype": "uint8", "shape": (1080, 1920, 3)}, "tags": ["é"]}
JPEG = {"image": b"\xff\xd8" + bytes(range(256)) * 800, "camera_id": "front"}


def answer(number, blob):
    return {"number": number + 1, "blob": blob + b"!"}


async def run_async(url, transports):
    async with _Opened() as client:
        client.on("question", answer)
        await client.connect(url, transports=transports, socketio_path=PATH, wait_timeout=5, headers={"project": "p"})
        if len(transports) == 2:
            while client.transport() != "websocket":  # noqa: ASYNC110 # the upgrade sets no event
                await asyncio.sleep(0.01)
        await client.emit("upload", JPEG)
        return {
            "raw": await client.call("detect", RAW),
            "jpeg": await client.call("detect", JPEG),
            "batch": await client.call("detect", {"images": [b"1", {"bytes": b"22"}], "image": b"333"}),
            "asked": _readable(await client.call("ask_me")),
            "unknown": await client.call("no such event"),
            "nothing": await client.call("nothing"),
            "several": await client.call("several", (1, "two")),
            "transport": client.transport(),
        }


class _Opened:
    async def __aenter__(self):
        self.client = socketio.AsyncClient(reconnection=False)
        return self.client

    async def __aexit__(self, *_):
        await self.client.disconnect()


def run_sync(url, transports):
    client = socketio.Client(reconnection=False)
    client.on("question", answer)
    client.connect(url, transports=transports, socketio_path=PATH, wait_timeout=5, headers={"project": "p"})
    if len(transports) == 2:
        while client.transport() != "websocket":
            client.sleep(0.01)
    client.emit("upload", JPEG)
    seen = {
        "raw": client.call("detect", RAW),
        "jpeg": client.call("detect", JPEG),
        "batch": client.call("detect", {"images": [b"1", {"bytes": b"22"}], "image": b"333"}),
        "asked": _readable(client.call("ask_me")),
        "unknown": client.call("no such event"),
        "nothing": client.call("nothing"),
        "several": client.call("several", (1, "two")),
        "transport": client.transport(),
    }
    client.disconnect()
    return seen


def _readable(value):
    return value | {"blob": value["blob"].decode()}


async def run_parallel(url):
    """Twenty clients at once, by all transports, ten calls each."""

    async def one(number):
        async with _Opened() as client:
            await client.connect(url, transports=TRANSPORTS[number % 3], socketio_path=PATH, wait_timeout=20)
            return [await client.call("several", (number, call)) for call in range(10)]

    return await asyncio.gather(*[one(number) for number in range(20)])


async def run_flood(url):
    """Send large messages until killed."""
    async with _Opened() as client:
        await client.connect(url, transports=["websocket"], socketio_path=PATH)
        while True:
            print(await client.call("detect", RAW), flush=True)


async def run_idle(url, transport):
    """Be there, answering pings, until killed or stopped."""
    async with _Opened() as client:
        await client.connect(url, transports=[transport], socketio_path=PATH)
        print("connected", flush=True)
        await client.wait()


async def run_strangers(url):
    """Ask for a namespace that is not there."""
    async with _Opened() as client:
        try:
            await client.connect(url, transports=["websocket"], socketio_path=PATH, namespaces=["/admin"])
        except socketio.exceptions.ConnectionError as error:
            return str(error)
        return "connected"


def main():
    kind, url, *rest = sys.argv[1:]
    if kind == "sync":
        seen = [run_sync(url, transports) for transports in TRANSPORTS]
    elif kind == "async":
        seen = [asyncio.run(run_async(url, transports)) for transports in TRANSPORTS]
    else:
        runs = {"parallel": run_parallel, "flood": run_flood, "idle": run_idle, "strangers": run_strangers}
        seen = asyncio.run(runs[kind](url, *rest))
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
