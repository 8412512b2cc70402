"""Starts that cannot succeed, and what the operator reads."""

import socket
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops

pytestmark = pytest.mark.process

CONFIGURATION = 78


async def test_two_wrong_settings_are_both_named(nodes: Any) -> None:
    """All faults at once, each with its variable and its value; no traceback."""
    node = nodes.launch("detector", MAX_QUEUE="many", LOG_LEVEL="LOUD")
    assert await node.ended() == CONFIGURATION
    for word in ("MAX_QUEUE", "many", "LOG_LEVEL", "LOUD"):
        assert word in node.log
    assert "Traceback" not in node.log


async def test_a_busy_port_is_named(nodes: Any) -> None:
    """The operator reads which setting to change."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        node = nodes.launch("detector", NODE_PORT=port, MODEL="coco")
        assert await node.ended() == CONFIGURATION
    assert f"NODE_PORT={port}" in node.log
    assert "Traceback" not in node.log


@pytest.mark.parametrize("model", ["nowhere", "nowhere.onnx"])
async def test_a_model_that_is_not_there_is_named(nodes: Any, tmp_path: Path, model: str) -> None:
    """A wrong path is a wrong setting, not a reason to serve nothing."""
    node = nodes.launch("detector", MODEL=tmp_path / model)
    assert await node.ended() == CONFIGURATION
    assert f"MODEL={tmp_path / model}" in node.log
    assert "Traceback" not in node.log


@pytest.mark.parametrize("where", ["nowhere.py:Factory", "{}:Nobody", "{}:Logic"])
async def test_a_logic_that_is_none_is_named(nodes: Any, logic: Any, where: str) -> None:
    """No file, no such name, or no factory."""
    logic.write()
    node = nodes.launch("detector", "--logic", where.format(logic.path))
    assert await node.ended() == CONFIGURATION
    assert "--logic" in node.log
    assert "Traceback" not in node.log


async def test_an_unknown_verb_is_a_usage_error(nodes: Any) -> None:
    """Usage has an exit code of its own."""
    assert await nodes.launch("detect").ended() == 2


def broken_xml(folder: Path) -> Path:
    path = folder / "model.xml"
    path.write_text("<net name='broken'><layers>")
    (folder / "model.bin").write_bytes(bytes(10))
    return path


def broken_onnx(folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(bytes(range(256)) * 10)
    return path


def ambiguous(folder: Path) -> Path:
    """A model whose output fits no layout we know."""
    image = ops.parameter([1, 3, 8, 8], np.float32, name="images")
    path = folder / "model.xml"
    ov.save_model(ov.Model([ops.reduce_mean(image, [1], keep_dims=False)], [image]), path)
    return path


@pytest.mark.parametrize("broken", [broken_xml, broken_onnx, ambiguous])
async def test_a_broken_model_leaves_the_node_up(nodes: Any, tmp_path: Path, small_jpeg: bytes, broken: Any) -> None:
    """It serves everything but detections and says why, until somebody gives it a good model."""
    folder = tmp_path / "model"
    folder.mkdir()
    node = await nodes.start("detector", MODEL=broken(folder))
    async with node.client() as client:
        await node.until(lambda: "given up" in node.log, "the model's end")
        ready = await client.get("/readyz")
        assert ready.status_code == 503
        assert "model" in ready.json()["failing"][0]
        refused = await client.post("/detect", files={"file": small_jpeg})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert "model" in refused.json()["detail"]
        about = (await client.get("/about")).json()
        assert about["errors"]["model"] == refused.json()["detail"]
        assert about["model_info"] is None
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/model_version")).json()["current_version"] == "None"
    assert "Traceback" not in node.log
    assert await node.stop() == 0


@pytest.mark.parametrize("absolute", [True, False])
async def test_an_archive_cannot_write_outside(nodes: Any, tmp_path: Path, absolute: bool) -> None:
    """Members with paths that lead out of their folder are refused."""
    evil, path = tmp_path / "evil.xml", tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(str(evil) if absolute else "../evil.xml", "x")
        archive.writestr("model.xml", "<net/>")
    node = await nodes.start("detector", MODEL=path)
    await node.until(lambda: "given up" in node.log, "the model's end")
    assert "evil.xml" in node.log
    assert not evil.is_file()
    assert "Traceback" not in node.log
    assert await node.stop() == 0


async def test_a_logic_that_fails_to_build_leaves_the_node_up(nodes: Any, logic: Any, small_jpeg: bytes) -> None:
    """Foreign code that raises costs the detections, not the node."""
    node = await nodes.start("detector", *logic.write(build="raise OSError('no licence')"))
    async with node.client() as client:
        await node.until(lambda: "given up" in node.log, "the logic's end")
        refused = await client.post("/detect", files={"file": small_jpeg})
        assert refused.status_code == 503
        assert "OSError: no licence" in refused.json()["detail"]
    assert await node.stop() == 0


async def test_a_logic_that_fails_to_detect_fails_alone(nodes: Any, logic: Any, small_jpeg: bytes) -> None:
    """An exception of foreign code is this request's 500 in the shape of all errors; the next one is served."""
    body = """if (FOLDER / "bad").exists():
            (FOLDER / "bad").unlink()
            raise ZeroDivisionError"""
    node = await nodes.start_ready("detector", *logic.write(body))
    logic.mark("bad")
    async with node.client() as client:
        failed = await client.post("/detect", files={"file": small_jpeg})
        assert failed.status_code == 500
        assert list(failed.json()) == ["detail"]
        assert (await client.post("/detect", files={"file": small_jpeg})).status_code == 200
    assert "ZeroDivisionError" in node.log
    assert await node.stop() == 0
