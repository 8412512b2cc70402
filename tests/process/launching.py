"""A node as a process of its own, on a real port, with its log in a file."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from attrs import Factory, define, frozen

import loop_node

PATIENCE_S = 40
"""For whatever must happen at some time; the machine may be slow and busy with other things."""


INHERITED = ("PATH", "LD_LIBRARY_PATH", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG", "SYSTEMROOT")


@define(eq=False)
class Node:
    """A running node: its process, its log and its address."""

    process: "subprocess.Popen[bytes]"
    log_file: Path
    url: str = ""
    announcement: str = ""
    """What the log says before the address, where it names others too."""

    @property
    def log(self) -> str:
        return self.log_file.read_text("utf-8", "replace")

    @property
    def address(self) -> tuple[str, int]:
        url = httpx.URL(self.url)
        return url.host, url.port or 80

    def status(self, name: str) -> int:
        """A figure of /proc/PID/status: VmRSS and VmHWM in KiB, Threads."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE)
        assert found, f"{name} is not in\n{text}"
        return int(found[1])

    def client(self, **options: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=PATIENCE_S, trust_env=False, **options)

    async def until(self, condition: Callable[[], object], what: str) -> None:
        with trio.move_on_after(PATIENCE_S):
            while not condition():
                await trio.sleep(0.01)
            return
        pytest.fail(f"{what}: not within {PATIENCE_S} s; the log says\n{self.log}")

    async def until_listening(self) -> None:
        announced = re.compile(rf"{self.announcement}(http://[\d.]+:\d+)")
        await self.until(lambda: self.process.poll() is not None or announced.search(self.log), "an address")
        found = announced.search(self.log)
        assert found, f"it ended with {self.process.poll()} and said\n{self.log}"
        self.url = found[1]

    async def until_ready(self) -> None:
        async with self.client() as client:
            with trio.move_on_after(PATIENCE_S):
                while (await client.get("/readyz")).status_code != 200:
                    await trio.sleep(0.01)
                return
        pytest.fail(f"not ready within {PATIENCE_S} s; the log says\n{self.log}")

    async def ended(self) -> int:
        """The exit code; the process has ended by then, and no child of it is left."""
        await self.until(lambda: self.process.poll() is not None, "the end")
        with pytest.raises(ProcessLookupError):
            os.killpg(self.process.pid, 0)
        return self.process.wait()

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return await self.ended()


@frozen
class Launcher:
    """Starts nodes, each with a folder of its own below `folder`, and sees to it that none is left."""

    folder: Path
    nodes: list[Node] = Factory(list)

    def launch(self, *arguments: str, cwd: Path | None = None, **variables: object) -> Node:
        """`loop-node ARGUMENTS` with these variables and hardly any others."""
        ours = {"PYTHONPATH": str(Path(loop_node.__file__).parents[1]), "INFERENCE_PRECISION": "f32"}
        return self.launch_program([sys.executable, "-m", "loop_node", *arguments], cwd=cwd, **(ours | variables))

    def launch_program(
        self, command: Sequence[str], *, cwd: Path | None = None, announcement: str = "", **variables: object
    ) -> Node:
        """Any program that reads the variables of a node."""
        home = self.folder / f"node{len(self.nodes)}"
        home.mkdir()
        environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
        environment |= {
            "HOME": str(home),
            "DATA_FOLDER": str(home / "data"),
            "NODE_HOST": "127.0.0.1",
            "NODE_PORT": "0",
        }
        environment |= {name: str(value) for name, value in variables.items()}
        with (home / "log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=cwd or home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        node = Node(process, home / "log", announcement=announcement)
        self.nodes.append(node)
        return node

    async def start(self, *arguments: str, **variables: Any) -> Node:
        """The same, and wait until it listens."""
        node = self.launch(*arguments, **variables)
        await node.until_listening()
        return node

    async def start_ready(self, *arguments: str, **variables: Any) -> Node:
        """The same, and wait until its model serves."""
        node = await self.start(*arguments, **variables)
        await node.until_ready()
        return node

    def kill_all(self) -> None:
        for node in self.nodes:
            if node.process.poll() is None:
                node.process.kill()
                node.process.wait()
