"""The clients that robots use, in processes of their own, against our server on a real port."""

import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio
from attrs import evolve

from loop_node.socketio.client import open_socketio

HERE = Path(__file__).parent
PYTHON_CLIENT = [sys.executable, str(HERE / "programs" / "python_client.py")]
NODE_CLIENT = ["node", str(HERE / "js" / "client.mjs")]

EXPECTED = {
    "raw": {"sizes": [6_220_800], "shape": [1080, 1920, 3]},
    "jpeg": {"sizes": [204_802], "shape": None},
    "batch": {"sizes": [3, 1, 2], "shape": None},
    "asked": {"number": 42, "blob": "blob!"},
    "unknown": {"error": "unknown event no such event"},
    "nothing": None,
    "several": [1, "two"],
}


async def detect(_peer, data):
    """Tell the sizes of what arrived."""
    images = [data["image"], *data.get("images", [])]
    arrays = [image["bytes"] if isinstance(image, dict) else image for image in images]
    shape = images[0].get("shape") if isinstance(images[0], dict) else None
    return {"sizes": [len(array) for array in arrays], "shape": shape}


async def ask_me(peer):
    return await peer.call("question", 41, b"blob")


async def nothing(_peer):
    return None


async def several(_peer, *args):
    return args


def handlers(uploads):
    async def upload(peer, data):
        uploads.append((peer.headers["project"], len(data["image"])))

    return {"detect": detect, "ask_me": ask_me, "nothing": nothing, "several": several, "upload": upload}


async def run_client(command, served, *args):
    result = await trio.run_process([*command, *args[:1], served.url, *args[1:]], capture_stdout=True)
    return json.loads(result.stdout)


@pytest.mark.process
@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_python_socketio_clients(serve, kind):
    """python-socketio's AsyncClient and Client: polling, websocket and upgrade, binary and acks both ways."""
    uploads = []
    async with serve(handlers(uploads)) as served:
        seen = await run_client(PYTHON_CLIENT, served, kind)
    assert [run.pop("transport") for run in seen] == ["polling", "websocket", "websocket"]
    assert seen == [EXPECTED] * 3
    assert uploads == [("p", 204_802)] * 3


@pytest.mark.process
@pytest.mark.node
async def test_node_client(serve):
    """npm's socket.io-client: the same, and a namespace that is refused politely."""
    uploads = []
    async with serve(handlers(uploads)) as served:
        seen = await run_client(NODE_CLIENT, served)
    assert [run.pop("transport") for run in seen] == ["polling", "websocket", "websocket"]
    assert [run.pop("reason") for run in seen] == ["io client disconnect"] * 3
    assert all("no namespace /admin" in run.pop("refusal") for run in seen)
    assert seen == [EXPECTED] * 3
    assert uploads == [("p", 204_802)] * 3


@pytest.mark.process
async def test_twenty_clients_in_parallel(serve):
    """Every one of twenty clients gets its own answers."""
    async with serve(handlers([])) as served:
        seen = await run_client(PYTHON_CLIENT, served, "parallel")
    assert seen == [[[number, call] for call in range(10)] for number in range(20)]


@pytest.mark.process
async def test_other_namespaces_are_refused(serve):
    """A client that wants another namespace learns at once that it cannot have it."""
    async with serve({}) as served:
        assert "failed to connect: /admin" in await run_client(PYTHON_CLIENT, served, "strangers")


async def start_client(nursery, served, kind, *args):
    """Start a client that runs until it is killed, and wait for its first line."""
    command = [*PYTHON_CLIENT, kind, served.url, *args]
    process = await nursery.start(partial(trio.run_process, command, stdout=subprocess.PIPE, check=False))
    with trio.fail_after(20):
        await process.stdout.receive_some(1000)
    return process


@pytest.mark.process
async def test_a_client_killed_mid_message(serve, until):
    """Its peer goes, nobody else's does, and what it was sending is forgotten."""
    async with serve(handlers([])) as served, open_socketio(served.url) as other, trio.open_nursery() as nursery:
        process = await start_client(nursery, served, "flood")
        assert len(served.server.peers) == 2
        process.kill()
        await until(lambda: len(served.server.peers) == 1)
        assert await other.call("several", 1) == 1


@pytest.mark.process
@pytest.mark.parametrize("transport", ["polling", "websocket"])
async def test_a_client_that_stops_answering_pings(serve, until, quick_limits, transport):
    """A stopped process is dropped after pingInterval + pingTimeout; a living one stays."""
    limits = evolve(quick_limits, ping_interval_s=0.5, ping_timeout_s=1)
    async with serve(handlers([]), limits=limits) as served, open_socketio(served.url), trio.open_nursery() as nursery:
        process = await start_client(nursery, served, "idle", transport)
        await trio.sleep(1.8)
        assert len(served.server.peers) == 2
        process.send_signal(signal.SIGSTOP)
        await until(lambda: len(served.server.peers) == 1)
        process.kill()
