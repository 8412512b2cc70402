"""A Learning Loop made of paper, and a detector on a real disk that follows it with models made of paper."""

import io
import json
import threading
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import numpy as np
import pytest
import trio
from attrs import define, field, frozen
from numpy.typing import NDArray

from loop_node.detector.model_exchange import ModelExchange
from loop_node.detector.model_store import ModelStore, open_store
from loop_node.detector.model_watcher import ModelWatcher
from loop_node.detector.models import ModelBuild
from loop_node.detector.state import DetectorState
from loop_node.detector.update_policy import Delays, ModelRef
from loop_node.errors import ModelError
from loop_node.inference.engine import Detected, Engine, open_engine
from loop_node.inference.sources import read_model_folder
from loop_node.schemas.detections import ImageMetadata
from loop_node.schemas.models import ModelInformation
from loop_node.schemas.status import DetectorStatus
from loop_node.supervision import Criticality, Health, Restart, Task, supervise

PATIENCE_S = 20
IMAGE = np.zeros((4, 4, 3), np.uint8)


def uuid_of(version: str, project: str = "p") -> str:
    return str(uuid5(UUID(int=1), f"{project} {version}"))


def ref(version: str, project: str = "p") -> ModelRef:
    return ModelRef(uuid_of(version, project), version)


@frozen
class PaperTarget:
    model_uuid: str
    version: str


@frozen
class PaperRow:
    id: str
    version: str
    formats: tuple[str, ...] = ("openvino",)


def model_zip(version: str, files: dict[str, bytes | str] | None = None, **model_json: Any) -> bytes:
    """A zip with `model.json` and `files`; an empty `model.json` is left out."""
    said = {"id": uuid_of(version), "organization": "o", "project": "p", "version": version} | model_json
    content: dict[str, bytes | str] = {"model.json": json.dumps(said), "model.txt": "good"} | (files or {})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in content.items():
            if data:
                archive.writestr(name, data)
    return buffer.getvalue()


@define(eq=False)
class PaperLoop:
    """One project; all faults are the test's to set."""

    target: PaperTarget | None = None
    zips: dict[str, bytes] = field(factory=dict)
    rows: list[PaperRow] = field(factory=list)
    fault: Exception | None = None
    is_silent: bool = False
    pause: trio.Event | None = None
    download_fault: Exception | None = None
    cut_at: int | None = None
    stall: trio.Event | None = None
    stalled: trio.Event = field(factory=trio.Event)
    downloads: list[str] = field(factory=list)
    reports: list[DetectorStatus] = field(factory=list)
    asked_formats: list[str | None] = field(factory=list)
    reported: trio.Event = field(factory=trio.Event)

    def publish(self, version: str, content: bytes | None = None, *, model_id: str = "", deploy: bool = True) -> None:
        """Put a model into the project and, usually, make it the target."""
        model_id = model_id or uuid_of(version)
        self.zips[model_id] = model_zip(version, id=model_id) if content is None else content
        self.rows.append(PaperRow(model_id, version))
        if deploy:
            self.target = PaperTarget(model_id, version)

    async def deployment_target(self) -> PaperTarget | None:
        await self._answer()
        return self.target

    async def models(self, format: str | None = None) -> list[PaperRow]:  # noqa: A002  # the contract's word
        await self._answer()
        self.asked_formats.append(format)
        return self.rows

    async def download_model(
        self,
        model_id: str,
        format: str,  # noqa: A002  # the contract's word
        to: Path,
        *,
        max_bytes: int,
        on_progress: Callable[[int, int | None], None],
    ) -> object:
        await self._answer()
        self.downloads.append(model_id)
        content = self.zips[model_id]
        on_progress(0, len(content))
        await trio.Path(to).write_bytes(content[: self.cut_at])
        on_progress(len(content[: self.cut_at]), len(content))
        if self.stall is not None:
            self.stalled.set()
            await self.stall.wait()
        if self.download_fault is not None:
            raise self.download_fault
        return None

    async def report_detector(self, status: DetectorStatus) -> None:
        await self._answer()
        self.reports.append(status)
        self.reported.set()
        self.reported = trio.Event()

    async def _answer(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.pause is not None:
            await self.pause.wait()
        if self.is_silent:
            await trio.sleep_forever()
        if self.fault is not None:
            raise self.fault


@define
class Paper:
    """A model that says its version."""

    information: ModelInformation
    max_in_flight: int = 1
    device: str = "paper"
    closed: bool = False

    def detect(self, _image: NDArray[np.uint8]) -> Detected:
        assert not self.closed
        return Detected(metadata=ImageMetadata(source=self.information.version), infer_s=0, post_s=0)

    def close(self) -> None:
        self.closed = True


@define(eq=False)
class Paperwork:
    """Builds models as their `model.txt` says: good, refuses, raises, hangs, kills."""

    built: list[Paper] = field(factory=list)
    tried: list[str] = field(factory=list)
    go_on: threading.Event = field(factory=threading.Event)
    hanging: threading.Event = field(factory=threading.Event)
    broken: set[str] = field(factory=set)

    def build(self, folder: Path) -> Paper:
        information = read_model_folder(str(folder), folder)
        how = (folder / "model.txt").read_text()
        self.tried.append(information.version)
        if how == "refuses" or information.version in self.broken:
            raise ModelError("the model has 3 inputs; it must have one, an image")
        if how == "raises":
            raise ZeroDivisionError("somewhere inside")
        if how == "hangs":
            self.hanging.set()
            self.go_on.wait(PATIENCE_S)
        self.built.append(Paper(information))
        return self.built[-1]


@define(eq=False)
class Machine:
    """A detector that runs; `stream` counts what its clients hear meanwhile."""

    loop: PaperLoop
    paperwork: Paperwork
    store: ModelStore
    engine: Engine
    state: DetectorState
    watcher: ModelWatcher
    health: Health
    detected: list[str] = field(factory=list)
    failed: list[str] = field(factory=list)

    @property
    def version(self) -> str | None:
        return self.engine.model and self.engine.model.information.version

    @property
    def disk(self) -> list[str]:
        return self.store.versions()

    async def settle(self) -> None:
        """The target as it is now, and all that follows from it, done."""
        with trio.fail_after(PATIENCE_S):
            await self.watcher.read_target()
            await self.watcher.wait_idle()

    async def until(self, condition: Callable[[], object]) -> None:
        with trio.fail_after(PATIENCE_S):
            while not condition():
                await trio.sleep(0.001)

    async def stream(self) -> None:
        """One client that never rests."""
        while True:
            try:
                with self.engine.admit() as admission:
                    self.detected.append((await admission.detect(IMAGE)).metadata.source or "")
            except Exception as error:  # noqa: BLE001  # whatever it is, the client has heard it
                self.failed.append(str(error))
                await trio.sleep(0.001)

    @asynccontextmanager
    async def streaming(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.stream)
            before = len(self.detected)
            await self.until(lambda: len(self.detected) > before)
            yield
            before = len(self.detected)
            await self.until(lambda: len(self.detected) > before)
            nursery.cancel_scope.cancel()


@frozen
class Machines:
    """Starts detectors, one after another, over the same disk."""

    folder: Path
    loop: PaperLoop
    paperwork: Paperwork

    @asynccontextmanager
    async def start(
        self,
        *,
        build: Any = None,
        local: str = "",
        delays: Delays | None = None,
        build_timeout_s: float = 30,
        keep: int = 3,
        **how: Any,
    ) -> AsyncIterator[Machine]:
        store = open_store(self.folder, keep=keep, max_bytes=1_000_000)
        state = DetectorState()
        health = Health()
        async with open_engine(max_queue=64) as engine, trio.open_nursery() as nursery:
            exchange = ModelExchange(
                source=self.loop,
                store=store,
                engine=engine,
                state=state,
                build_folder=build or self.paperwork.build,
                local=ModelBuild(local, lambda: self._local(local)) if local else None,
                build_timeout_s=build_timeout_s,
            )
            watcher = ModelWatcher(exchange=exchange, cycle_s=3600, delays=delays or Delays(), dice=lambda: 0.5, **how)
            task = Task(
                name="model_watcher", run=watcher.run, criticality=Criticality.DEGRADABLE, restart=Restart.NEVER
            )
            await nursery.start(partial(supervise, [task], health=health))
            yield Machine(self.loop, self.paperwork, store, engine, state, watcher, health)
            assert health.tasks["model_watcher"].last_error == ""
            nursery.cancel_scope.cancel()

    def _local(self, name: str) -> Paper:
        self.paperwork.tried.append(name)
        if name in self.paperwork.broken:
            raise ModelError("no such file")
        return Paper(ModelInformation(id="local", organization="", project="", version=name))


@pytest.fixture
def loop() -> PaperLoop:
    return PaperLoop()


@pytest.fixture
def paperwork() -> Iterator[Paperwork]:
    paperwork = Paperwork()
    yield paperwork
    paperwork.go_on.set()


@pytest.fixture
def machines(tmp_path: Path, loop: PaperLoop, paperwork: Paperwork) -> Machines:
    return Machines(tmp_path / "data", loop, paperwork)


@pytest.fixture
def paper() -> Any:
    """The names of this file that tests use."""
    return type("names", (), {"zip": staticmethod(model_zip), "uuid": staticmethod(uuid_of), "ref": staticmethod(ref)})
