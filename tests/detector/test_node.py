"""The whole node in this process: tasks that fail next to tasks that do not notice."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

from loop_node.detector.node import run_detector
from loop_node.errors import SettingsError, TaskGivenUp
from loop_node.settings import Settings
from loop_node.supervision import Backoff, Task, TaskHandle

SETTINGS = Settings(node_host="127.0.0.1", node_port=0, inference_precision="f32")
PHOTO = Path(__file__).parents[2] / "src/loop_node/bundled/photos/astronaut.jpg"

ChangeTasks = Callable[[Sequence[Task]], Sequence[Task]]


@asynccontextmanager
async def running(settings: Settings, **how: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A node with its doors open; cancelled at the end of the block."""
    send, receive = trio.open_memory_channel[str](1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: run_detector(settings, announce=send.send_nowait, **how))
        async with httpx.AsyncClient(base_url=await receive.receive(), timeout=30) as client:
            yield client
        nursery.cancel_scope.cancel()


async def until_ready(client: httpx.AsyncClient) -> None:
    with trio.fail_after(30):
        while (await client.get("/readyz")).status_code != 200:
            await trio.lowlevel.checkpoint()


def replace(name: str, run: Callable[[TaskHandle], Any], **more: Any) -> ChangeTasks:
    def change(tasks: Sequence[Task]) -> Sequence[Task]:
        assert name in {task.name for task in tasks}
        return [attrs.evolve(task, run=run, **more) if task.name == name else task for task in tasks]

    return change


async def raise_at_once(_: TaskHandle) -> None:
    raise ZeroDivisionError("made to fail")


async def return_at_once(_: TaskHandle) -> None: ...


async def hang(_: TaskHandle) -> None:
    await trio.sleep_forever()


async def test_a_detector_detects(tmp_path: Path) -> None:
    """From settings to a person in a photo."""
    settings = attrs.evolve(SETTINGS, model="coco", data_folder=tmp_path)
    async with running(settings) as client:
        await until_ready(client)
        found = (await client.post("/detect", files={"file": PHOTO.read_bytes()})).json()["box_detections"]
        assert [one["category_name"] for one in found] == ["person"]
        assert (await client.get("/operation_mode")).text == "idle"


@pytest.mark.parametrize("behaviour", [raise_at_once, return_at_once, hang])
async def test_the_doors_do_not_notice_what_the_loader_does(tmp_path: Path, behaviour: Any) -> None:
    """Without a model the node still answers, and says what is missing."""
    settings = attrs.evolve(SETTINGS, model="coco", data_folder=tmp_path)
    async with running(settings, change_tasks=replace("model_loader", behaviour)) as client:
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.post("/detect", files={"file": PHOTO.read_bytes()})).status_code == 503


async def test_the_http_server_comes_back_on_the_same_port(tmp_path: Path) -> None:
    """A crash of the server is a short pause for clients, and nothing at all for the model."""
    crash = trio.Event()

    def change(tasks: Sequence[Task]) -> Sequence[Task]:
        server = next(task for task in tasks if task.name == "http_server")

        async def fragile(handle: TaskHandle) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.run, handle)
                if not crash.is_set():
                    await crash.wait()
                    raise ZeroDivisionError("made to fail")

        return replace("http_server", fragile, backoff=Backoff(first_s=0.01))(tasks)

    settings = attrs.evolve(SETTINGS, model="coco", data_folder=tmp_path)
    async with running(settings, change_tasks=change) as client:
        await until_ready(client)
        crash.set()
        with trio.fail_after(5):
            restarts = 0
            while not restarts:
                try:
                    tasks = (await client.get("/healthz")).json()["tasks"]
                    restarts = tasks["http_server"]["restarts"]
                except httpx.TransportError:
                    continue
        assert tasks["model_loader"]["restarts"] == 0
        assert (await client.get("/readyz")).status_code == 200


async def test_a_server_that_never_comes_up_ends_the_node(tmp_path: Path) -> None:
    """A node without doors is no node: it gives up, loudly."""
    settings = attrs.evolve(SETTINGS, data_folder=tmp_path)
    change = replace("http_server", raise_at_once, backoff=Backoff(first_s=0.001, cap_s=0.001))
    with pytest.RaisesGroup(pytest.RaisesExc(TaskGivenUp, match="http_server"), flatten_subgroups=True):
        async with running(settings, change_tasks=change):
            await trio.sleep_forever()


async def test_a_model_that_does_not_build_is_named_everywhere(tmp_path: Path) -> None:
    """In readiness, in /about, in the answer to clients; the node stays up."""
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    settings = attrs.evolve(SETTINGS, model=str(tmp_path / "broken.onnx"), data_folder=tmp_path)
    async with running(settings) as client:
        with trio.fail_after(20):
            while not (await client.get("/about")).json()["errors"]:
                await trio.lowlevel.checkpoint()
        assert "broken.onnx" in (await client.get("/about")).json()["errors"]["model"]
        assert "broken.onnx" in (await client.get("/readyz")).json()["failing"][0]
        answer = await client.post("/detect", files={"file": PHOTO.read_bytes()})
        assert answer.status_code == 503
        assert "broken.onnx" in answer.json()["detail"]


async def test_a_model_that_is_not_there_is_a_settings_fault(tmp_path: Path) -> None:
    """Found before the doors open."""
    settings = attrs.evolve(SETTINGS, model=str(tmp_path / "none.onnx"), data_folder=tmp_path)
    with pytest.raises(SettingsError, match=r"MODEL=.*none\.onnx: there is no such file"):
        await run_detector(settings)


async def test_a_logic_takes_a_model_folder_of_any_format(tmp_path: Path) -> None:
    """Only `model.json` is read; the rest is the logic's."""
    from loop_node import DetectorLogic, DetectorLogicFactory, ImageMetadata, ModelInformation  # as users

    class Says(DetectorLogic):
        def __init__(self, said: str) -> None:
            self.said = said

        def evaluate(self, _image: Any) -> ImageMetadata:
            return ImageMetadata(source=self.said)

    class Reads(DetectorLogicFactory):
        model_format = "words"

        def build(self, model_info: ModelInformation) -> Says:
            return Says((Path(model_info.model_root_path or "") / "words.txt").read_text())

    (tmp_path / "model.json").write_text('{"id": "1", "organization": "o", "project": "p", "version": "7.0"}')
    (tmp_path / "words.txt").write_text("hello")
    settings = attrs.evolve(SETTINGS, model=str(tmp_path), data_folder=tmp_path)
    async with running(settings, factory=Reads()) as client:
        await until_ready(client)
        assert (await client.post("/detect", files={"file": PHOTO.read_bytes()})).json()["source"] == "hello"
        assert (await client.get("/model_version")).json()["current_version"] == "7.0"


async def test_a_detector_that_stands_alone_has_no_versions_to_choose_from(tmp_path: Path) -> None:
    """Modes can be set; a version cannot be looked up anywhere."""
    async with running(attrs.evolve(SETTINGS, data_folder=tmp_path)) as client:
        assert (await client.put("/model_version", content="pause")).text == '"OK"'
        assert (await client.get("/model_version")).json()["version_control"] == "pause"
        for text, said in (("1.0", "Failed to load models from learning loop"), ("x", "Invalid version number")):
            answer = await client.put("/model_version", content=text)
            assert (answer.status_code, answer.json()["detail"]) == (400, said)
        assert (await client.put("/operation_mode", content="detecting")).text == '"OK"'
        assert (await client.get("/operation_mode")).text == "detecting"
        assert (await client.post("/reset")).status_code == 404


async def test_the_backdoor_is_there_where_it_is_wanted(tmp_path: Path) -> None:
    """USE_BACKDOOR_CONTROLS."""
    settings = attrs.evolve(SETTINGS, data_folder=tmp_path, use_backdoor_controls=True)
    async with running(settings) as client:
        assert (await client.post("/reset")).text == "true"
