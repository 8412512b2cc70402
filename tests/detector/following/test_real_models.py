"""The same with OpenVINO: tiny models that are sound, and those that only show their fault once they are compiled."""

import gc
import io
import os
import threading
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

from loop_node.detector.linking import LoopLink
from loop_node.detector.models import build_folder
from loop_node.detector.node import run_detector
from loop_node.errors import LoopUnavailable, SettingsError
from loop_node.inference.openvino import import_openvino
from loop_node.loop.link_state import LinkState
from loop_node.settings import Settings

openvino = import_openvino()
ops = openvino.opset13
PHOTO = Path(__file__).parents[3] / "src/loop_node/bundled/photos/astronaut.jpg"
SETTINGS = Settings(node_host="127.0.0.1", node_port=0, inference_precision="f32", min_free_disk_bytes=0)


def _constant(value: float) -> Any:
    return ops.constant(value, openvino.Type.f32)


def _means(image: Any) -> Any:
    return ops.reduce_mean(image, ops.constant([2, 3]), keep_dims=False)


def _sound(image: Any) -> list[Any]:
    return [_means(image)]


def _nan(image: Any) -> list[Any]:
    return [ops.log(ops.subtract(_means(image), _constant(2.0)))]


def _infinite(image: Any) -> list[Any]:
    return [ops.divide(_constant(1.0), _means(image))]


def _six_answers(image: Any) -> list[Any]:
    return [ops.concat([_means(image), _means(image)], 1)]


@pytest.fixture
def real_zip(tmp_path: Path, paper: Any) -> Callable[..., bytes]:
    """A model zip with an IR that answers as the function says."""

    def make(version: str, answer: Callable[[Any], list[Any]] = _sound, *, cut_weights: bool = False) -> bytes:
        image = ops.parameter(openvino.PartialShape([1, 3, 32, 32]), openvino.Type.f32, name="image")
        graph = openvino.Model([ops.result(output) for output in answer(image)], [image], "built")
        openvino.save_model(graph, tmp_path / "model.xml", compress_to_fp16=False)
        categories = [{"id": name, "name": name, "type": "classification"} for name in ("red", "green", "blue")]
        weights = (tmp_path / "model.bin").read_bytes()
        files = {
            "model.xml": (tmp_path / "model.xml").read_bytes(),
            "model.bin": weights[:4] if cut_weights else weights,
            "model.txt": "",
        }
        return paper.zip(version, files, categories=categories, model_type="Classification")

    return make


def linked(loop: Any) -> Any:
    """A link whose project is `loop`."""

    @asynccontextmanager
    async def open_link(_settings: Settings) -> AsyncIterator[LoopLink | None]:
        yield LoopLink(project=loop, state=LinkState(), uuid="u")

    return open_link


@asynccontextmanager
async def running(settings: Settings, loop: Any) -> AsyncIterator[httpx.AsyncClient]:
    send, receive = trio.open_memory_channel[str](1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: run_detector(settings, open_link=linked(loop), announce=send.send_nowait))
        async with httpx.AsyncClient(base_url=await receive.receive(), timeout=30) as client:
            yield client
        nursery.cancel_scope.cancel()


async def until(client: httpx.AsyncClient, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    with trio.fail_after(40):
        while not condition(said := (await client.get("/about")).json()):
            await trio.sleep(0.01)
    return said


def serves(version: str) -> Callable[[dict[str, Any]], bool]:
    return lambda said: (said["model_info"] or {}).get("version") == version


@asynccontextmanager
async def steady_stream(client: httpx.AsyncClient) -> AsyncIterator[list[int]]:
    """Photos one after another; the list holds the statuses."""
    statuses: list[int] = []
    enough = trio.Event()

    async def stream() -> None:
        while not enough.is_set():
            statuses.append((await client.post("/detect", files={"file": PHOTO.read_bytes()})).status_code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream)
        yield statuses
        enough.set()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (_nan, "answers a black image with NaN or infinity"),
        (_infinite, "answers a black image with NaN or infinity"),
        (_six_answers, "categories"),
        (None, "cannot"),
    ],
)
async def test_a_bad_model_never_stops_detection(
    tmp_path: Path, loop: Any, real_zip: Any, answer: Any, said: str
) -> None:
    """A whole node: every photo is answered with 200, the reason is in /about and at the Loop, the old model serves."""
    loop.publish("1.0", real_zip("1.0"))
    async with running(attrs.evolve(SETTINGS, data_folder=tmp_path / "data", sync_cycles=1), loop) as client:
        await until(client, serves("1.0"))
        async with steady_stream(client) as statuses:
            bad = real_zip("1.1", answer) if answer else real_zip("1.1", _nan, cut_weights=True)
            loop.publish("1.1", bad)
            about = await until(client, lambda said: said["errors"])
            before = len(statuses)
            with trio.fail_after(20):
                while len(statuses) < before + 3 or not loop.reports[-1].errors:
                    await trio.sleep(0.01)
        assert {*statuses} == {200}
        assert said in about["errors"]["model"]
        assert about["model_info"]["version"] == "1.0"
        assert about["held_back"][0]["retry_in_s"] > 500
        assert loop.reports[-1].errors == about["errors"]
        assert (loop.reports[-1].current_model, loop.reports[-1].target_model) == ("1.0", "1.1")
        assert (await client.get("/model_version")).json()["local_versions"] == ["1.0"]


async def test_a_node_that_comes_up_without_a_network(tmp_path: Path, loop: Any, real_zip: Any) -> None:
    """The last good model serves; the doors say what is wrong."""
    settings = attrs.evolve(SETTINGS, data_folder=tmp_path / "data")
    loop.publish("1.0", real_zip("1.0"))
    async with running(settings, loop) as client:
        await until(client, serves("1.0"))
    loop.fault = LoopUnavailable("no route to host")
    async with running(settings, loop) as client:
        said = await until(client, serves("1.0"))
        assert said["errors"]["deployment_target"] == "no route to host"
        assert (await client.put("/model_version", content="2.0")).json() == {
            "detail": "Failed to load models from learning loop"
        }
        assert (await client.put("/model_version", content="pause")).text == '"OK"'
        tasks = (await client.get("/healthz")).json()["tasks"]
        assert tasks["model_watcher"]["state"] == "waiting"
        assert (await client.get("/readyz")).status_code == 200


async def test_the_loops_format_is_the_logics(tmp_path: Path, loop: Any, paper: Any) -> None:
    """A logic builds what it asked for, and is told where it lies; the working directory stays the process's own."""
    from loop_node import DetectorLogic, DetectorLogicFactory, ImageMetadata, ModelInformation  # as users

    class Says(DetectorLogic):
        def __init__(self, said: str) -> None:
            self.said = said

        def evaluate(self, _image: Any) -> ImageMetadata:
            return ImageMetadata(source=self.said)

    class Reads(DetectorLogicFactory):
        model_format = "words"

        def build(self, model_info: ModelInformation) -> Says:
            built_in.append(Path.cwd())
            return Says((Path(model_info.model_root_path or "") / "model.txt").read_text())

    built_in: list[Path] = []
    before = Path.cwd()
    loop.publish("1.0", paper.zip("1.0", {"model.txt": "hello"}))
    settings = attrs.evolve(SETTINGS, data_folder=tmp_path / "data")
    send, receive = trio.open_memory_channel[str](1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            lambda: run_detector(settings, factory=Reads(), open_link=linked(loop), announce=send.send_nowait)
        )
        async with httpx.AsyncClient(base_url=await receive.receive(), timeout=30) as client:
            await until(client, serves("1.0"))
            assert (await client.post("/detect", files={"file": PHOTO.read_bytes()})).json()["source"] == "hello"
            await client.put("/model_version", content="1.0")
        assert loop.asked_formats == ["words"]
        assert built_in
        assert {*built_in, Path.cwd()} == {before}
        assert loop.reports[0].model_format == "words"
        nursery.cancel_scope.cancel()


async def test_a_data_folder_that_cannot_be_used_is_a_settings_fault(tmp_path: Path, loop: Any) -> None:
    """Found before the doors open."""
    (tmp_path / "data").write_text("a file")
    settings = attrs.evolve(SETTINGS, data_folder=tmp_path / "data")
    with pytest.raises(SettingsError, match=r"DATA_FOLDER=.*no models can be kept there"):
        await run_detector(settings, open_link=linked(loop), announce=lambda url: pytest.fail(f"announced {url}"))


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _open_files() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


async def test_exchanges_under_load_leave_nothing_behind(machines: Any, loop: Any, real_zip: Any) -> None:
    """Memory, files, threads and tasks are after many exchanges what they were after the first ones."""
    settings = attrs.evolve(SETTINGS, device="CPU")
    exchanges = int(os.environ.get("EXCHANGES", "30"))
    before: tuple[int, ...] = ()
    loop.publish("1.0", real_zip("1.0"))
    async with machines.start(build=partial(build_folder, settings, None)) as machine:
        await machine.settle()
        async with machine.streaming():
            for number in range(1, exchanges + 11):
                loop.publish(f"1.{number}", real_zip(f"1.{number}"))
                await machine.settle()
                assert machine.version == f"1.{number}"
                if number == 10:
                    gc.collect()
                    before = _resident_bytes(), _open_files(), threading.active_count()
        gc.collect()
        grown = _resident_bytes() - before[0]
        assert machine.failed == []
        assert grown < 30e6, f"{exchanges} exchanges, {len(machine.detected)} images"
        assert _open_files() <= before[1] + 2
        assert threading.active_count() <= before[2] + 2


def test_the_zips_of_these_tests_are_sound(real_zip: Any) -> None:
    """What is bad about a bad one is its answers."""
    with zipfile.ZipFile(io.BytesIO(real_zip("1.0"))) as archive:
        assert {"model.json", "model.xml", "model.bin"} <= {*archive.namelist()}
