"""Models with known weights, built on the spot: what they must answer follows from arithmetic."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from loop_node.inference.devices import DeviceOptions
from loop_node.inference.openvino import OpenVinoModel, import_openvino, load_model
from loop_node.inference.sources import LocatedModel, locate_model
from loop_node.schemas.models import Category, ModelInformation

openvino = import_openvino()
ops = openvino.opset13

PHOTOS = Path(skimage.__file__).parent / "data"


@pytest.fixture(scope="session")
def photo() -> Callable[[str], np.ndarray]:
    """A real photo that comes inside scikit-image's wheel, as RGB."""

    def read(name: str) -> np.ndarray:
        return np.asarray(Image.open(PHOTOS / name).convert("RGB"))

    return read


@pytest.fixture(scope="session")
def precise() -> DeviceOptions:
    """The CPU at full precision, so that numbers are the same on every machine."""
    return DeviceOptions(device="CPU", inference_precision="f32")


@pytest.fixture(scope="session")
def coco(tmp_path_factory, precise):
    """The bundled model, compiled once."""
    model = load_model(locate_model("coco", tmp_path_factory.mktemp("unpacked")), precise)
    model.warm_up()
    yield model
    model.close()


@pytest.fixture
def build(tmp_path, precise):
    """Build, save, read back and compile a model: `answer` makes its outputs from its input node."""
    loaded = []

    def make(
        answer: Callable[..., list],
        *,
        shape=(1, 3, 32, 32),
        element_type="f32",
        categories=(),
        rt_info=None,
        options=None,
        **model_json,
    ) -> OpenVinoModel:
        image = ops.parameter(openvino.PartialShape(list(shape)), getattr(openvino.Type, element_type), name="image")
        graph = openvino.Model([ops.result(output) for output in answer(image)], [image], "built")
        for key, value in (rt_info or {}).items():
            graph.set_rt_info(value, ["model_info", key])
        openvino.save_model(graph, tmp_path / "model.xml", compress_to_fp16=False)
        named = [Category(id=f"id-{name}", name=name, type=kind) for name, kind in categories]
        information = ModelInformation(id="1", organization="", project="", version="9", categories=named, **model_json)
        located = LocatedModel(file=tmp_path / "model.xml", root=tmp_path, information=information)
        loaded.append(load_model(located, options or precise))
        return loaded[-1]

    yield make
    for model in loaded:
        model.close()


@pytest.fixture(scope="session")
def raw() -> Callable[[OpenVinoModel, np.ndarray], np.ndarray]:
    """The first output of a model as it answers to an image, before it is decoded."""

    def look(model: OpenVinoModel, image: np.ndarray) -> np.ndarray:
        slots = [model._take() for _ in range(model.max_in_flight)]
        model._idle.put(slots[0])  # the only one that is left is the one it takes
        model.detect(image)
        for slot in slots[1:]:
            model._idle.put(slot)
        return slots[0].request.output_tensors[0].data.copy()

    return look
