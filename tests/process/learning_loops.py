"""Learning Loops for tests of detectors: the embedded one as a person uses it, and one of raw sockets for what it never does."""

import email
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import trio
import trustme
from attrs import Factory, define, field, frozen

from launching import PATIENCE_S, Node
from scripted import Behaviour, Reply, Request, ScriptedServer, reply, start_serving

PROJECT = {"LOOP_ORGANIZATION": "o", "LOOP_PROJECT": "p"}
PATH = "/api/o/projects/p"
LOGIN = {"username": "admin", "password": "admin"}


def zipped(**entries: bytes | str | dict[str, Any]) -> bytes:
    """A zip; `__` in a name stands for a dot, an object goes as JSON."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            text = json.dumps(content) if isinstance(content, dict) else content
            archive.writestr(name.replace("__", "."), text)
    return buffer.getvalue()


@frozen
class RealLoop:
    """The project o/p of an embedded Learning Loop, and a person who is logged in."""

    node: Node
    person: httpx.AsyncClient

    async def prepare(self) -> None:
        """Log in and make the project."""
        await self.person.post("/api/login", data=LOGIN)
        await self.person.post("/api/local/projects", json={"organization": "o", "project": "p"})

    async def upload_model(self, content: bytes, model_format: str = "mocked") -> str:
        """Its version."""
        answer = await self.person.post(f"{PATH}/{model_format}", files={"files": ("model.zip", content)})
        assert answer.status_code == 200, answer.text
        version: str = answer.json()["version"]
        return version

    async def choose(self, version: str) -> None:
        """Let detectors follow this version."""
        answer = await self.person.put("/api/local/o/p/deployment/target", json={"version": version})
        assert answer.status_code == 200, answer.text

    async def nodes(self) -> list[dict[str, Any]]:
        """What has told of itself."""
        found: list[dict[str, Any]] = (await self.person.get("/api/local/nodes")).json()["nodes"]
        return found

    async def images(self) -> list[dict[str, Any]]:
        """The records of all images."""
        ids = (await self.person.get(f"{PATH}/data")).json()["image_ids"]
        found: list[dict[str, Any]] = []
        for start in range(0, len(ids), 100):
            params = {"ids": ",".join(ids[start : start + 100])}
            found += (await self.person.get(f"{PATH}/images", params=params)).json()["images"]
        return found


@frozen
class Arrival:
    """An image that a fake Learning Loop was sent."""

    name: str
    metadata: dict[str, Any]

    @property
    def source(self) -> str:
        return str(self.metadata["source"])


Judge = Callable[[Sequence[Arrival]], Reply | None]


def accept(_images: Sequence[Arrival]) -> None:
    """Take all of them."""


@define
class FakeLoop:
    """A project that knows what it is told here, as long as nothing else is served in its place.

    Attributes:
        judge: What a request with images is answered; None is the usual 200. They are kept anyway.
        models: Version to id and zip.
        requests: The images of each request.
        statuses: What detectors told of themselves.
    """

    judge: Judge = accept
    models: dict[str, tuple[str, Reply]] = Factory(dict)
    target: str | None = None
    requests: list[list[Arrival]] = Factory(list)
    statuses: list[dict[str, Any]] = Factory(list)
    port: int = 0
    scheme: str = "http"
    _serving: trio.CancelScope = field(factory=trio.CancelScope)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    async def serve(
        self,
        nursery: trio.Nursery,
        behaviour: Behaviour | None = None,
        certificate: trustme.LeafCert | None = None,
    ) -> None:
        """From now on, at the same port, in the place of what was there; connections of before end.

        Args:
            nursery: Where it lives.
            behaviour: Has the connections instead of this project.
            certificate: Speaks TLS with it.
        """
        self._serving.cancel()
        self._serving = trio.CancelScope()
        self.scheme = "https" if certificate else "http"
        await nursery.start(self._serve, behaviour or ScriptedServer(self.answer).serve, certificate, self._serving)

    async def _serve(
        self,
        behaviour: Behaviour,
        certificate: trustme.LeafCert | None,
        scope: trio.CancelScope,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                self.port = await start_serving(nursery, behaviour, certificate, port=self.port)
                task_status.started()

    @property
    def arrived(self) -> list[Arrival]:
        """All images, as often as they came."""
        return [image for images in self.requests for image in images]

    def sources(self) -> set[str]:
        return {image.source for image in self.arrived}

    def answer(self, request: Request) -> Reply:
        """As the wire contract says."""
        path = request.target.partition("?")[0].removeprefix(PATH)
        match request.method, path.split("/")[1:]:
            case "POST", ["api", "login"]:
                return reply(200, {}, Set_Cookie="session=1")
            case "POST", ["detectors"]:
                self.statuses.append(json.loads(request.body))
                return reply(200, {})
            case "POST", ["images"]:
                return self._take(request)
            case "GET", ["deployment", "target"] if self.target:
                return reply(200, {"model_uuid": self.models[self.target][0], "version": self.target})
            case "GET", ["models"]:
                rows = [{"id": one, "version": version} for version, (one, _) in self.models.items()]
                return reply(200, {"models": rows})
            case "GET", ["models", model_id, _, "file"]:
                return next(content for one, content in self.models.values() if one == model_id)
        return reply(404, {"detail": "Not Found"})

    def _take(self, request: Request) -> Reply:
        images = _arrivals(request)
        verdict = self.judge(images)
        self.requests.append(images)
        return reply(200, {}) if verdict is None else verdict

    async def until(self, condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
        with trio.move_on_after(patience_s):
            while not condition():
                await trio.sleep(0.02)
            return
        raise AssertionError(f"{what}: not within {patience_s} s")


def model_answer(content: bytes) -> bytes:
    """A zip as a Learning Loop answers it."""
    return reply(200, content, Content_Type="application/zip", Content_Disposition='attachment; filename="model.zip"')


def _arrivals(request: Request) -> list[Arrival]:
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    form = email.message_from_bytes(head + request.body)
    parts = [part for part in form.walk() if not part.is_multipart()]
    metadata = [part for part in parts if (part.get_filename() or "").endswith(".json")]
    assert len(parts) == 2 * len(metadata)
    found = [
        Arrival(str(part.get_filename()).removesuffix(".json"), json.loads(part.get_payload(decode=True)))  # type: ignore[arg-type]  # bytes, as it has no parts
        for part in metadata
    ]
    assert len({image.name for image in found}) == len(found)
    return found
