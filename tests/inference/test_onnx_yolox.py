"""A YOLOX of somebody else's, as ONNX, against onnxruntime and a decoder written after the paper."""

import importlib.util
import json
import math
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from loop_node.inference.openvino import load_model
from loop_node.inference.preprocessing import ResizeType, fit, prepare
from loop_node.inference.resampling import resample
from loop_node.inference.sources import locate_model

SIDE = 416
DESCRIPTION = {
    "id": "1",
    "organization": "",
    "project": "",
    "version": "0.1",
    "categories": [{"id": "c", "name": "character"}],
    "model_type": "YOLOX",
    "resize_type": "fit_to_window",
    "pad_value": 114,
    "scale_values": [1.0],
    "channel_order": "BGR",
}


@pytest.fixture(scope="module")
def onnx_file() -> Path:
    """`common_det.onnx`, found without importing the package around it."""
    package = importlib.util.find_spec("ddddocr")
    folders = list(package.submodule_search_locations or ()) if package else []
    files = [Path(folder) / "common_det.onnx" for folder in folders]
    assert files, "the test model is missing: pip install --no-deps ddddocr==1.6.1"
    return files[0]


@pytest.fixture(scope="module")
def model(onnx_file, tmp_path_factory, precise):
    """The file in a model folder with a model.json that describes it."""
    folder = tmp_path_factory.mktemp("yolox")
    shutil.copy(onnx_file, folder)
    (folder / "model.json").write_text(json.dumps(DESCRIPTION))
    model = load_model(locate_model(str(folder), folder), precise)
    model.warm_up()
    yield model
    model.close()


@pytest.fixture(scope="module")
def page(photo) -> np.ndarray:
    return photo("page.png")


@pytest.fixture(scope="module")
def reference(onnx_file, page) -> np.ndarray:
    """What onnxruntime answers to the same input, shape (3549, 6)."""
    session = onnxruntime.InferenceSession(onnx_file)
    canvas = np.zeros((SIDE, SIDE, 3), np.uint8)
    geometry = fit(ResizeType.FIT_TO_WINDOW, (page.shape[1], page.shape[0]), (SIDE, SIDE))
    prepare(page, geometry, pad_value=114, resample=resample, out=canvas)
    planes = np.ascontiguousarray(canvas[:, :, ::-1].transpose(2, 0, 1)[None], np.float32)
    return session.run(None, {session.get_inputs()[0].name: planes})[0][0]


def _decoded(rows: np.ndarray, width: int, height: int, threshold: float) -> list[tuple[float, ...]]:
    """Row by row: confidence and corners in image pixels, then the best first without those it overlaps."""
    scale = min(SIDE / width, SIDE / height)
    candidates = []
    index = 0
    for stride in (8, 16, 32):
        for cell_y in range(SIDE // stride):
            for cell_x in range(SIDE // stride):
                x, y, w, h, objectness, score = map(float, rows[index])
                index += 1
                if objectness * score < threshold:
                    continue
                x, y = (x + cell_x) * stride / scale, (y + cell_y) * stride / scale
                w, h = math.exp(w) * stride / scale, math.exp(h) * stride / scale
                candidates.append((objectness * score, x - w / 2, y - h / 2, x + w / 2, y + h / 2))
    assert index == len(rows)
    stays: list[tuple[float, ...]] = []
    for candidate in sorted(candidates, reverse=True):
        if all(_overlap(candidate[1:], other[1:]) <= 0.45 for other in stays):
            stays.append(candidate)
    return stays


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def test_the_raw_output_is_that_of_onnxruntime(model, page, reference, raw):
    """Same preprocessing, same numbers: colours, layout and scaling reach the graph as they should."""
    assert np.abs(raw(model, page)[0] - reference).max() < 1e-3


def test_the_boxes_are_those_of_an_independent_decoder(model, page, reference):
    """In number, order, confidence and place, to the rounding of a pixel."""
    height, width = page.shape[:2]
    found = model.detect(page).metadata.box_detections
    expected = _decoded(reference, width, height, 0.2)
    assert len(found) == len(expected)
    for box, (confidence, left, top, right, bottom) in zip(found, expected, strict=True):
        assert box.confidence == pytest.approx(confidence, abs=1e-3)
        corners = [box.x, box.y, box.x + box.width, box.y + box.height]
        clipped = [max(0, left), max(0, top), min(width, right), min(height, bottom)]
        assert corners == pytest.approx(clipped, abs=1.0)


def test_it_finds_the_characters_of_a_page(model, page):
    """At least 50 of them, at the default thresholds."""
    boxes = model.detect(page).metadata.box_detections
    assert len(boxes) >= 50
    assert {box.category_id for box in boxes} == {"c"}


def _property(key: str, value: str) -> bytes:
    """A metadata_props entry as protobuf writes it; appended to an ONNX file it becomes a part of it."""
    fields = b"".join(bytes([tag, len(text)]) + text.encode() for tag, text in ((0x0A, key), (0x12, value)))
    return bytes([0x72, len(fields)]) + fields


def test_the_metadata_of_an_onnx_file_describes_it(onnx_file, tmp_path, precise):
    """As Ultralytics writes it: names, size, task; and with them RGB in 0..1, letterboxed with grey 114."""
    metadata = {"names": "{0: 'Chinese character'}", "imgsz": "[416, 416]", "task": "detect", "stride": "32"}
    content = onnx_file.read_bytes() + b"".join(_property(key, metadata[key]) for key in metadata)
    (tmp_path / "best.onnx").write_bytes(content)
    (tmp_path / "model.json").write_text(json.dumps(DESCRIPTION | {"categories": [], "resize_type": None}))
    model = load_model(locate_model(str(tmp_path), tmp_path), precise)
    assert [category.name for category in model.information.categories] == ["Chinese character"]
    assert model.description.resize_type is ResizeType.LETTERBOX
    model.close()
