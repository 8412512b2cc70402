"""A detector and its Learning Loop, both as processes: it follows the target, survives bad models, and sends what it keeps."""

import io
import json
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import trio
from attrs import Factory, define
from openvino import opset13 as ops

import loop_node
from launching import PATIENCE_S, Node
from learning_loops import FakeLoop, RealLoop, model_answer, zipped
from scripted import Reply, reply

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

BUNDLED = Path(loop_node.__file__).parent / "bundled"
Detectors = Callable[..., Any]


async def version(node: Node) -> dict[str, Any]:
    async with node.client() as client:
        said: dict[str, Any] = (await client.get("/model_version")).json()
        return said


async def until_serving(node: Node, wanted: str) -> None:
    with trio.move_on_after(PATIENCE_S):
        while (await version(node))["current_version"] != wanted:
            await trio.sleep(0.05)
        return
    pytest.fail(f"model {wanted} does not serve; the log says\n{node.log}")


async def put(node: Node, path: str, text: str) -> tuple[int, Any]:
    async with node.client() as client:
        answer = await client.put(path, content=text)
        return answer.status_code, answer.json()


@define
class Stream:
    """Detections one after another, and what came of them."""

    answered: int = 0
    failed: list[str] = Factory(list)
    ends: bool = False

    @asynccontextmanager
    async def on(self, node: Node, jpeg: bytes) -> AsyncIterator[None]:
        """All the while; at least one is answered."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run, node, jpeg)
            yield
            before = self.answered
            await node.until(lambda: self.answered > before, "a detection")
            self.ends = True

    async def _run(self, node: Node, jpeg: bytes) -> None:
        async with node.client() as client:
            while not self.ends:
                answer = await client.post("/detect", files={"file": jpeg}, headers={"autoupload": "disabled"})
                self.answered += 1
                if answer.status_code != 200:
                    self.failed.append(answer.text)


async def test_it_follows_the_target_and_who_says_otherwise(loop: RealLoop, detector: Detectors) -> None:
    """Registered, on the target and its changes; paused, on a version, back, and with the contract's words for a no."""
    first, second = [await loop.upload_model(zipped(weights__bin=text)) for text in ("one", "two")]
    await loop.choose(first)
    node = await detector(loop.node.url, LOOP_USERNAME="admin", LOOP_PASSWORD="admin")
    await until_serving(node, first)

    async def known(**wanted: Any) -> None:
        with trio.move_on_after(PATIENCE_S):
            while not (told := await loop.nodes()) or told[0]["status"] | wanted != told[0]["status"]:
                await trio.sleep(0.05)
            assert (len(told), told[0]["kind"], told[0]["name"], told[0]["project"]) == (1, "detector", "eye", "p")
            return
        pytest.fail(f"the Loop knows {await loop.nodes()}, not {wanted}")

    await known(current_model=first, target_model=first, state="idle", model_format="mocked", errors={})
    await loop.choose(second)
    await until_serving(node, second)
    await known(current_model=second, target_model=second)

    assert await put(node, "/model_version", "pause") == (200, "OK")
    await loop.choose(first)
    with trio.fail_after(PATIENCE_S):
        while (said := await version(node))["loop_version"] != first:
            await trio.sleep(0.05)
    assert said == {
        "current_version": second,
        "target_version": second,
        "loop_version": first,
        "local_versions": said["local_versions"],
        "version_control": "pause",
    }
    assert sorted(said["local_versions"]) == sorted([first, second])
    for asked, expected in ((first, first), ("previous", second), ("previous", first)):
        assert await put(node, "/model_version", asked) == (200, "OK")
        await until_serving(node, expected)
        assert (await version(node))["version_control"] == "specific_version"
    for asked, detail in (("newest", "Invalid version number"), ("9.9", "No Model with version 9.9")):
        assert await put(node, "/model_version", asked) == (400, {"detail": detail})
    await loop.choose(second)
    assert await put(node, "/model_version", "follow_loop") == (200, "OK")
    await until_serving(node, second)

    assert await loop.node.stop() == 0
    assert await put(node, "/model_version", first) == (400, {"detail": "Failed to load models from learning loop"})
    assert (await version(node))["version_control"] == "follow_loop"
    assert await node.stop() == 0
    node = await detector(loop.node.url)
    await until_serving(node, second)
    assert "Traceback" not in node.log
    assert await node.stop() == 0


def coco_zip() -> bytes:
    """The bundled model as a Learning Loop has it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("model.json", "model.xml", "model.bin"):
            archive.write(BUNDLED / "coco" / name, name)
    return buffer.getvalue()


def openvino_zip(folder: Path, answer: Callable[[Any], Any]) -> bytes:
    """A model whose output `answer` makes of its image."""
    image = ops.parameter([1, 3, 64, 64], np.float32, name="images")
    ov.save_model(ov.Model([answer(image)], [image]), folder / "model.xml")
    categories = [{"id": "a", "name": "a", "type": "box"}]
    return zipped(
        model__xml=(folder / "model.xml").read_bytes(),
        model__bin=(folder / "model.bin").read_bytes(),
        model__json={"categories": categories, "resolution": 64},
    )


def not_a_number(image: Any) -> Any:
    """(1, 6, 3): what a detector of one category could answer, were they numbers."""
    mean = ops.reduce_mean(image, ops.constant([2, 3]), keep_dims=False)
    nan = ops.log(ops.subtract(mean, ops.constant(2.0, ov.Type.f32)))
    return ops.concat([ops.unsqueeze(nan, ops.constant(1))] * 6, 1)


async def test_a_bad_model_never_costs_a_detection(
    loop: RealLoop, detector: Detectors, small_jpeg: bytes, tmp_path: Path
) -> None:
    """With OpenVINO and the bundled model: one bad target after another, 0 failed detections, the reasons told."""
    good = await loop.upload_model(coco_zip(), "openvino")
    await loop.choose(good)
    node = await detector(loop.node.url, logic="", MODEL_FORMAT="openvino")
    await until_serving(node, good)
    async with node.client() as client:
        photo = (BUNDLED / "photos" / "astronaut.jpg").read_bytes()
        seen = (await client.post("/detect", files={"file": photo})).json()
    assert "person" in {one["category_name"] for one in seen["box_detections"]}
    garbage = zipped(model__xml="<net name='broken'><layers>", model__bin=bytes(10))
    nothing = zipped(readme__txt="no model here")
    shape = openvino_zip(tmp_path, lambda image: ops.reduce_mean(image, [1], keep_dims=False))
    stream = Stream()
    async with stream.on(node, small_jpeg):
        for content in (garbage, nothing, shape, openvino_zip(tmp_path, not_a_number)):
            bad = await loop.upload_model(content, "openvino")
            await loop.choose(bad)
            await until_reported(node, bad, loop)
            assert (await version(node))["current_version"] == good
        better = await loop.upload_model(coco_zip(), "openvino")
        await loop.choose(better)
        await until_serving(node, better)
        async with node.client() as client:
            assert (await client.get("/about")).json()["errors"] == {}
    assert stream.failed == []
    assert "Traceback" not in node.log
    assert await node.stop() == 0


async def until_reported(node: Node, bad: str, loop: RealLoop) -> None:
    """Until `/about` and the Learning Loop say why this model does not serve."""
    async with node.client() as client:
        with trio.move_on_after(PATIENCE_S):
            reason = ""
            while f"model {bad}" not in reason:
                reason = (await client.get("/about")).json()["errors"].get("model", "")
                await trio.sleep(0.05)
            while (await loop.nodes())[0]["status"]["errors"].get("model") != reason:
                await trio.sleep(0.05)
            return
    pytest.fail(f"model {bad} is not reported; the log says\n{node.log}")


GOOD_ID, BAD_ID = (f"{digit * 8}-0000-0000-0000-000000000000" for digit in "ab")


def description(model_id: str, number: str) -> dict[str, Any]:
    """What a Learning Loop writes into model.json."""
    return {"id": model_id, "host": None, "organization": "o", "project": "p", "version": number, "format": "mocked"}


async def cut_off(stream: trio.abc.Stream) -> None:
    whole = model_answer(zipped(weights__bin="x" * 1000, model__json=description(BAD_ID, "2.0")))
    await stream.send_all(whole[:-50])


def bad_zips() -> dict[str, Reply]:
    """Answers to the request for model 2.0, each bad in its own way."""
    sound = zipped(weights__bin="x", model__json=description(BAD_ID, "2.0"))
    evil = io.BytesIO()
    with zipfile.ZipFile(evil, "w") as archive:
        archive.writestr("../evil.txt", "x")
        archive.writestr("model.json", json.dumps(description(BAD_ID, "2.0")))
    return {
        "no zip": model_answer(b"this is no zip" * 100),
        "half a zip": model_answer(sound[: len(sound) // 2]),
        "flipped bits": model_answer(sound.replace(b"weights.bin", b"weights.bi\xff", 1)),
        "leads outside": model_answer(evil.getvalue()),
        "bomb": model_answer(zipped(weights__bin=bytes(40_000_000), model__json=description(BAD_ID, "2.0"))),
        "too large": reply(200, b"", Content_Length=10**12, Content_Type="application/zip"),
        "no description": model_answer(zipped(weights__bin="x")),
        "broken description": model_answer(zipped(model__json="{")),
        "page": reply(200, b"<!DOCTYPE html><html>Log in</html>", Content_Type="text/html"),
        "gone": reply(404, {"detail": "no such model"}),
        "cut off": cut_off,
    }


async def test_whatever_comes_instead_of_a_model_costs_no_detection(
    nursery: trio.Nursery, fake: FakeLoop, detector: Detectors, small_jpeg: bytes, tmp_path: Path
) -> None:
    """A dozen broken downloads under a steady stream: none fails, each reason is told here and at the Loop."""
    good = model_answer(zipped(weights__bin="x", model__json=description(GOOD_ID, "1.0")))
    fake.models["1.0"], fake.target = (GOOD_ID, good), "1.0"
    node = await detector(fake.url, MODEL_MAX_BYTES=20_000_000)
    await until_serving(node, "1.0")
    stream, reasons = Stream(), {}
    async with stream.on(node, small_jpeg), node.client() as client:
        for number, (name, answer) in enumerate(bad_zips().items()):
            bad = f"2.{number}"
            fake.models[bad] = f"{number:08x}-0000-0000-0000-000000000000", answer
            if number == 0:
                fake.target = bad  # the others are asked for by name, which goes faster
            else:
                assert await put(node, "/model_version", bad) == (200, "OK")
            with trio.move_on_after(PATIENCE_S) as patience:
                while f"model {bad}" not in (reason := (await client.get("/about")).json()["errors"].get("model", "")):
                    await trio.sleep(0.02)
            assert not patience.cancelled_caught, f"{name}: {node.log}"
            reasons[name] = reason
            await fake.until(
                lambda: fake.statuses[-1]["errors"].get("model") == reason, f"{name} at the Loop"
            )  # awaited here
            assert (await version(node))["current_version"] == "1.0"
    assert stream.failed == []
    assert len(set(reasons.values())) == len(reasons)
    assert not list(tmp_path.rglob("evil.txt"))
    assert "Traceback" not in node.log
    assert await node.stop() == 0
    nursery.cancel_scope.cancel()
    node = await detector(fake.url)
    await until_serving(node, "1.0")
