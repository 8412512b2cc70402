"""Our Learning Loop as a process, its management API, and existing nodes as processes beside it."""

import io
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from attrs import frozen
from PIL import Image

from launching import PATIENCE_S, Launcher, Node

PROGRAMS = Path(__file__).with_name("programs")
LOGIN = {"username": "admin", "password": "admin"}


@frozen
class Loop:
    """A running Learning Loop, somebody who is logged in there, and the project the test is about."""

    node: Node
    client: httpx.AsyncClient
    project: str = "interop"

    @property
    def api(self) -> str:
        return f"/api/zauberzeug/projects/{self.project}"

    @property
    def local(self) -> str:
        return f"/api/local/zauberzeug/{self.project}"

    async def ask(self, method: str, path: str, **options: Any) -> Any:
        """The JSON of an answer that must be a good one."""
        response = await self.client.request(method, path, **options)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text}"
        return response.json()

    async def log_in(self) -> None:
        await self.ask("POST", "/api/login", data=LOGIN)

    async def create(self, *types: str) -> dict[str, dict[str, Any]]:
        """The project, with one category of each of these types; gives the categories by type."""
        categories = [{"name": f"some {kind}", "type": kind} for kind in types]
        order = {"organization": "zauberzeug", "project": self.project, "categories": categories}
        await self.ask("POST", "/api/local/projects", json=order)
        return {category["type"]: category for category in await self.categories()}

    async def generate(self, **order: Any) -> None:
        """The project, with synthetic images."""
        await self.ask("POST", "/api/zauberzeug/projects/generator", json={"project_name": self.project, **order})

    async def categories(self) -> list[dict[str, Any]]:
        return (await self.ask("GET", f"{self.api}/data"))["categories"]

    async def images(self, state: str) -> list[dict[str, Any]]:
        """The records of all images in a state."""
        ids = (await self.ask("GET", f"{self.api}/data", params={"state": state}))["image_ids"]
        if not ids:
            return []
        return (await self.ask("GET", f"{self.api}/images", params={"ids": ",".join(ids)}))["images"]

    async def nodes(self, kind: str) -> list[dict[str, Any]]:
        """The nodes of a kind that the Loop knows; Socket.IO nodes only while they are connected."""
        found = (await self.ask("GET", "/api/local/nodes"))["nodes"]
        return [node for node in found if node["kind"] == kind and (kind == "detector" or node["connected"])]


@frozen
class Existing:
    """Starts existing nodes that talk to a Learning Loop."""

    launcher: Launcher
    loop: Loop
    python: str

    async def start(self, program: str, **variables: Any) -> Node:
        host, port = self.loop.node.address
        node = self.launcher.launch_program(
            [self.python, "-u", str(PROGRAMS / f"{program}.py")],
            announcement="Uvicorn running on ",
            LOOP_HOST=f"{host}:{port}",
            LOOP_USERNAME=LOGIN["username"],
            LOOP_PASSWORD=LOGIN["password"],
            **variables,
        )
        await node.until_listening()
        return node


@pytest.fixture
async def loop(nodes: Launcher) -> AsyncIterator[Loop]:
    node = await nodes.start("loop")
    async with node.client() as client:
        loop = Loop(node, client)
        await loop.log_in()
        yield loop


@pytest.fixture
def existing(nodes: Launcher, loop: Loop) -> Existing:
    python = os.environ.get("INTEROP_PYTHON")
    if not python:
        pytest.fail("INTEROP_PYTHON must name the Python of the existing nodes; `nox -s interop` sees to it")
    return Existing(nodes, loop, python)


@pytest.fixture
def until(nodes: Launcher) -> Callable[..., Awaitable[Any]]:
    """Ask again until the answer is truthy; tells what all processes said if it never is."""

    async def until(question: Callable[[], Awaitable[Any]], what: str) -> Any:
        with trio.move_on_after(PATIENCE_S):
            while not (answer := await question()):
                await trio.sleep(0.05)
            return answer
        logs = "\n".join(f"{node.process.args}\n{node.log}" for node in nodes.nodes)
        pytest.fail(f"{what}: not within {PATIENCE_S} s\n{logs}")

    return until


@pytest.fixture
def jpeg() -> bytes:
    """An image of 128 x 96 pixels."""
    file = io.BytesIO()
    Image.effect_noise((128, 96), 64).convert("RGB").save(file, "JPEG")
    return file.getvalue()
