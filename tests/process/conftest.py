"""A node as a process of its own, on a real port, with its log in a file."""

import importlib.util
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import skimage
import trio
from attrs import Factory, define, frozen
from PIL import Image

import loop_node

PATIENCE_S = 40
"""For whatever must happen at some time; the machine may be slow and busy with other things."""

ROOT = Path(__file__).parents[2]
PHOTOS = Path(skimage.__file__).parent / "data"
INHERITED = ("PATH", "LD_LIBRARY_PATH", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG", "SYSTEMROOT")


@define(eq=False)
class Node:
    """A running node: its process, its log and its address."""

    process: "subprocess.Popen[bytes]"
    log_file: Path
    url: str = ""

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
        announced = re.compile(r"http://[\d.]+:\d+")
        await self.until(lambda: self.process.poll() is not None or announced.search(self.log), "an address")
        found = announced.search(self.log)
        assert found, f"it ended with {self.process.poll()} and said\n{self.log}"
        self.url = found[0]

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
        home = self.folder / f"node{len(self.nodes)}"
        home.mkdir()
        environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
        environment |= {
            "PYTHONPATH": str(Path(loop_node.__file__).parents[1]),
            "HOME": str(home),
            "DATA_FOLDER": str(home / "data"),
            "NODE_HOST": "127.0.0.1",
            "NODE_PORT": "0",
            "INFERENCE_PRECISION": "f32",
        }
        environment |= {name: str(value) for name, value in variables.items()}
        with (home / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "loop_node", *arguments],
                cwd=cwd or home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        node = Node(process, home / "log")
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


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Launcher]:
    """Nodes of one test."""
    launcher = Launcher(tmp_path)
    yield launcher
    launcher.kill_all()


@pytest.fixture(scope="package")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A detector with the bundled model, for all tests that leave it as it is. It must end as well as it began."""
    launcher = Launcher(tmp_path_factory.mktemp("coco"))
    try:
        node = trio.run(partial(launcher.start_ready, "detector", MODEL="coco"))
        yield node
        assert node.process.poll() is None, f"a test ended it:\n{node.log}"
        assert trio.run(node.stop) == 0
        assert not re.search(r" (?:ERROR|CRITICAL) |Exception ignored", node.log)
    finally:
        launcher.kill_all()


@pytest.fixture
async def client(coco: Node) -> AsyncIterator[httpx.AsyncClient]:
    async with coco.client() as client:
        yield client


@pytest.fixture(scope="session")
def load() -> ModuleType:
    """The load generator of the benchmarks."""
    spec = importlib.util.spec_from_file_location("load", ROOT / "bench" / "load.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["load"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def photos() -> Path:
    """The folder of real photos."""
    return PHOTOS


@pytest.fixture(scope="session")
def small_jpeg() -> bytes:
    """A photo of 128 x 128 pixels: cheap to decode."""
    with Image.open(PHOTOS / "astronaut.png") as photo:
        return encode(photo.convert("RGB").resize((128, 128)), "JPEG")


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    return encode


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


@pytest.fixture(scope="session")
def examples() -> Path:
    return ROOT / "examples"


@frozen
class LogicFile:
    """A detector logic in a file of its own; its code finds the folder of that file under the name FOLDER."""

    path: Path

    @property
    def option(self) -> list[str]:
        return ["--logic", f"{self.path}:Factory"]

    def write(self, evaluate: str = "pass", *, attributes: str = "", build: str = "return Logic()") -> list[str]:
        """Write it, and give the option that loads it."""
        self.path.write_text(LOGIC.format(evaluate=evaluate, attributes=attributes, build=build))
        return self.option

    def write_held(self, attributes: str = "") -> list[str]:
        """Each call says that it is inside and waits for `release`."""
        return self.write(HELD, attributes=attributes)

    def inside(self) -> int:
        """How many calls there were."""
        return len(list(self.path.parent.glob("inside-*")))

    def mark(self, name: str) -> None:
        (self.path.parent / name).touch()

    def release(self) -> None:
        self.mark("release")


@pytest.fixture
def logic(tmp_path: Path) -> LogicFile:
    return LogicFile(tmp_path / "some_logic.py")


HELD = """(FOLDER / f"inside-{time.monotonic_ns()}").touch()
        while not (FOLDER / "release").exists():
            time.sleep(0.005)"""

LOGIC = """
import time
from pathlib import Path

from loop_node import BoxDetection, DetectorLogic, ImageMetadata

FOLDER = Path(__file__).parent


class Logic(DetectorLogic):
    {attributes}

    def evaluate(self, image):
        {evaluate}
        return ImageMetadata()


class Factory:
    model_format = "test"

    def build(self, model_info):
        {build}
"""
