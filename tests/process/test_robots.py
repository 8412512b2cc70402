"""Robots on the real process, over its end and its new start."""

import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

pytestmark = pytest.mark.process

ROBOT = Path(__file__).with_name("robot.py")


async def line_of(stream: trio.abc.ReceiveStream) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        line += await stream.receive_some() or pytest.fail(f"the robot has ended after {line!r}")
    return line


@pytest.mark.parametrize("transports", [["websocket"], ["polling"], ["polling", "websocket"]], ids="-".join)
async def test_a_robot_comes_back_after_a_restart(nodes: Any, transports: list[str]) -> None:
    """A node that stops says no goodbye, after which clients would not look for it again."""
    node = await nodes.start("detector")
    port = node.url.rpartition(":")[2]
    command = [sys.executable, str(ROBOT), node.url, *transports]
    async with trio.open_nursery() as nursery:
        robot = await nursery.start(partial(trio.run_process, command, stdout=subprocess.PIPE))
        assert await line_of(robot.stdout) == b"idle\n"
        with trio.fail_after(5):
            assert await node.stop() == 0
        assert await line_of(robot.stdout) == b"lost\n"
        again = await nodes.start("detector", NODE_PORT=port)
        with trio.fail_after(30):
            assert await line_of(robot.stdout) == b"idle\n"
    assert await again.stop() == 0
