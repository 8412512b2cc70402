"""What the tests of whole processes share: a detector with the bundled model, photos, logics."""

import importlib.util
import io
import re
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
from attrs import frozen
from PIL import Image

from launching import Launcher, Node
from learning_loops import PROJECT, FakeLoop, RealLoop

ROOT = Path(__file__).parents[2]
PHOTOS = Path(skimage.__file__).parent / "data"


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


@pytest.fixture
async def fake(nursery: trio.Nursery) -> AsyncIterator[FakeLoop]:
    """A Learning Loop of raw sockets, in the test's own process."""
    fake = FakeLoop()
    await fake.serve(nursery)
    yield fake
    nursery.cancel_scope.cancel()


@pytest.fixture
async def loop(nodes: Launcher) -> AsyncIterator[RealLoop]:
    """An embedded Learning Loop with the project o/p."""
    node = await nodes.start("loop")
    async with node.client() as person:
        real = RealLoop(node, person)
        await real.prepare()
        yield real


@pytest.fixture
def detector(nodes: Launcher, tmp_path: Path, examples: Path) -> Callable[..., Any]:
    """`await detector(url, logic=...)`: one with the mock logic, always the same data folder and the project o/p of that Loop."""

    mock = f"{examples / 'mock_detector' / 'mock_detector.py'}:MockDetectorFactory"

    async def start(url: str, logic: str = mock, **variables: Any) -> Node:
        settings = PROJECT | {"LOOP_HOST": url, "DATA_FOLDER": tmp_path / "data", "NODE_NAME": "eye"} | variables
        return await nodes.start("detector", *(["--logic", logic] if logic else []), **settings)

    return start


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
