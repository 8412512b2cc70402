import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve

from loop_node.errors import ImageError, ModelError
from loop_node.inference.devices import DeviceOptions
from loop_node.inference.openvino import import_openvino, load_model
from loop_node.inference.sources import LocatedModel, locate_model
from loop_node.schemas.models import CategoryType, ModelInformation

openvino = import_openvino()
ops = openvino.opset13

RED, GREEN, BLUE = np.eye(3) * 255


def _plain(colour, size=(32, 32)) -> np.ndarray:
    return np.full((size[1], size[0], 3), np.asarray(colour), np.uint8)


def _constant(values):
    return ops.constant(np.asarray(values, np.float32))


def _means(image, axes=(2, 3)):
    """The mean of each channel, shape (1, 3): what the model saw, as its answer."""
    return ops.reduce_mean(ops.convert(image, "f32"), ops.constant(np.array(axes)), keep_dims=False)


@pytest.fixture
def seen(raw):
    """What reached the model's input on average, per channel in its own order."""
    return lambda model, image: raw(model, image).reshape(-1).tolist()


@pytest.mark.parametrize(
    ("name", "category", "confidence"),
    [
        ("astronaut.png", "person", 0.74),
        ("chelsea.png", "cat", 0.58),
        ("motorcycle_left.png", "motorcycle", 0.78),
        ("horse.png", "horse", 0.68),
        ("camera.png", "person", 0.88),
    ],
)
def test_the_bundled_model_finds_what_photos_show(coco, photo, name, category, confidence):
    """With the confidences its notice states, within 0.03 at f32."""
    boxes = coco.detect(photo(name)).metadata.box_detections
    assert [box.category_name for box in boxes] == [category]
    assert boxes[0].confidence == pytest.approx(confidence, abs=0.03)
    assert boxes[0].model_name == "1.0"
    known = {known.name: known.id for known in coco.information.categories}
    assert boxes[0].category_id == known[category]


def test_the_bundled_model_sees_no_thing_in_a_rocket(coco, photo):
    """None of its categories is there."""
    assert coco.detect(photo("rocket.jpg")).metadata.box_detections == []


def test_what_runs_and_why_is_said(coco):
    """Device, its full name, precision and reason."""
    assert coco.device.startswith("CPU (")
    assert "), f32 (as set by DEVICE)" in coco.device
    assert coco.max_in_flight >= 1


def test_auto_takes_the_cpu_where_there_is_no_gpu(tmp_path):
    """Said in the device's text; an explicit device that is missing is refused."""
    located = locate_model("coco", tmp_path)
    model = load_model(located, DeviceOptions())
    assert model.device.startswith(("CPU (", "GPU"))
    model.close()
    with pytest.raises(ModelError, match=r"there is no device 'NPU\.7' here; DEVICE must be AUTO or one of .*CPU"):
        load_model(located, DeviceOptions(device="NPU.7"))


def test_what_the_device_refuses_is_said(build, precise):
    """A precision that is none: OpenVINO's words, no traceback."""
    with pytest.raises(ModelError, match=r"OpenVINO cannot compile .*model\.xml: .*f7"):
        build(lambda image: [_means(image)], options=evolve(precise, inference_precision="f7"))


def test_a_classifier_gives_the_softmax_of_its_answer(build):
    """Logits 4 * mean: pure green wins with e^4 / (e^4 + 2)."""
    model = build(
        lambda image: [ops.multiply(_means(image), _constant(4.0))],
        categories=[("red", CategoryType.CLASSIFICATION), ("green", None), ("blue", None)],
    )
    model.warm_up()
    (found,) = model.detect(_plain(GREEN)).metadata.classification_detections
    assert (found.category_name, found.category_id, found.model_name) == ("green", "id-green", "9")
    assert found.confidence == pytest.approx(np.exp(4) / (np.exp(4) + 2), abs=1e-4)


def test_a_segmentation_model_gives_the_outline_of_what_is_red(build):
    """Its prototype is the image's red channel in cells of 4 pixels, its one box the whole input."""

    def answer(image):
        red = ops.slice(image, _ints(0), _ints(1), _ints(1), _ints(1))
        cells = ops.avg_pool(red, [4, 4], [0, 0], [0, 0], [4, 4], False)
        prototypes = ops.multiply(ops.subtract(cells, _constant(0.5)), _constant(20.0))
        rows = [
            [32.0] + [0] * 20,
            [32.0] + [0] * 20,
            [64.0] + [0] * 20,
            [64.0] + [0] * 20,
            [0.9] + [0] * 20,
            [1.0] + [0] * 20,
        ]
        return [_constant([rows]), prototypes]

    model = build(answer, shape=(1, 3, 64, 64), categories=[("thing", CategoryType.SEGMENTATION)])
    image = _plain((0, 0, 0), (64, 64))
    image[16:48, 8:56] = RED
    (found,) = model.detect(image).metadata.segmentation_detections
    corners = np.array([(point.x, point.y) for point in found.shape.points])
    assert corners.min(axis=0).tolist() == [8, 16]
    assert corners.max(axis=0).tolist() == [56, 48]
    x, y = corners.T
    area = abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2
    assert area == pytest.approx(48 * 32, rel=0.05)
    assert found.confidence == pytest.approx(0.9)


def _ints(*values: int):
    return ops.constant(np.array(values, np.int64))


def test_an_ssd_model_gives_boxes_in_fractions_of_the_image(build):
    """Its confidence is the mean of the green channel: stretched to 32x16, the box is that part of the image."""

    def answer(image):
        green = ops.slice(_means(image), _ints(1), _ints(2), _ints(1), _ints(1))
        confidence = ops.divide(ops.reshape(green, _ints(1, 1, 1, 1), False), _constant(255.0))
        before, after = _constant([[[[0, 1]]]]), _constant([[[[0.25, 0.5, 0.75, 1.0]]]])
        return [ops.concat([before, confidence, after], 3)]

    model = build(answer, shape=(1, 3, 16, 32), categories=[("a", None), ("b", None)], model_type="ssd")
    (found,) = model.detect(_plain((0, 204, 0), (200, 100))).metadata.box_detections
    assert (found.category_name, found.x, found.y, found.width, found.height) == ("b", 50, 50, 100, 50)
    assert found.confidence == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize("element_type", ["f32", "f16", "u8"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_every_kind_of_input_sees_the_same_image(build, seen, element_type, layout):
    """Channel order, element type and layout of the graph are met; here without scaling, in the order RGB."""
    nchw = layout == "NCHW"
    model = build(
        lambda image: [_means(image, (2, 3) if nchw else (1, 2))],
        shape=(1, 3, 24, 32) if nchw else (1, 24, 32, 3),
        element_type=element_type,
        scale_values=[1.0],
    )
    assert seen(model, _plain((10, 20, 30), (32, 24))) == pytest.approx([10, 20, 30], abs=0.1)


def test_mean_and_scale_are_in_the_order_of_the_model(build, seen):
    """BGR: the blue channel comes first, and so does its mean."""
    model = build(
        lambda image: [_means(image)], channel_order="BGR", mean_values=[1.0, 2.0, 3.0], scale_values=[2.0, 4.0, 8.0]
    )
    assert seen(model, _plain((11, 22, 33))) == pytest.approx([(33 - 1) / 2, (22 - 2) / 4, (11 - 3) / 8])


def test_rt_info_is_read_from_the_model_itself(build, seen):
    """Labels, thresholds and preprocessing of a model without a word in model.json; here it wants BGR."""
    model = build(
        lambda image: [_means(image)],
        rt_info={
            "model_type": "Classification",
            "labels": ["traffic_light", "car", "dog"],
            "reverse_input_channels": True,
            "scale_values": [255.0],
            "confidence_threshold": 0.5,
        },
    )
    assert [category.name for category in model.information.categories] == ["traffic light", "car", "dog"]
    assert model.description.conf_threshold == 0.5
    assert seen(model, _plain(RED)) == pytest.approx([0, 0, 1])


def test_the_operators_thresholds_win(build, precise):
    """Over those of the model."""
    options = evolve(precise, conf_threshold=0.7, iou_threshold=0.1)
    description = build(lambda image: [_means(image)], options=options, conf_threshold=0.3).description
    assert (description.conf_threshold, description.iou_threshold) == (0.7, 0.1)


def test_a_dynamic_model_takes_its_resolution_from_model_json(build):
    """Batch and sides are fixed by it; without it the error names the cure."""
    model = build(lambda image: [_means(image)], shape=(-1, 3, -1, -1), resolution_x=40, resolution_y=24)
    assert model.description.input_size == (40, 24)
    assert model.detect(_plain(RED)).metadata.classification_detections[0].category_name == "0"
    with pytest.raises(ModelError, match=r"any size \[\?,3,\?,\?\]: say which in model\.json, as resolution"):
        build(lambda image: [_means(image)], shape=(-1, 3, -1, -1))


@pytest.mark.parametrize(
    ("shape", "element_type", "problem"),
    [
        ((1, 1, 32, 32), "f32", r"the model's input is \[1,1,32,32\]; it must be an image"),
        ((1, 3, 32), "f32", r"the model's input is \[1,3,32\]"),
        ((1, 3, 32, 32), "i32", "of type i32; it must be one of f32, f16, u8"),
    ],
)
def test_an_input_that_is_no_image_is_refused(build, shape, element_type, problem):
    """The error says what it is and what it should be."""
    with pytest.raises(ModelError, match=problem):
        build(lambda image: [ops.reshape(image, _ints(1, -1), False)], shape=shape, element_type=element_type)


def test_a_wrong_number_of_categories_is_refused(build):
    """Both numbers are in the error."""
    with pytest.raises(ModelError, match=r"2 categories are given, but the output \[1,3\] has 3"):
        build(lambda image: [_means(image)], categories=[("a", None), ("b", None)])


@pytest.mark.parametrize("offset", [2.0, 0.0])
def test_a_model_that_answers_no_numbers_is_refused(build, offset):
    """NaN, the logarithm of less than 0, or infinity, that of 0."""
    model = build(lambda image: [ops.log(ops.subtract(_means(image), _constant(offset)))])
    model.warm_up()
    with pytest.raises(ModelError, match="model 9 answers a black image with NaN or infinity"):
        model.probe()


def test_a_model_that_fails_on_white_alone_is_refused(build):
    """One kind of image is not enough to know."""
    model = build(lambda image: [ops.log(ops.subtract(_constant(0.9), _means(image)))])
    with pytest.raises(ModelError, match="answers a white image with NaN or infinity"):
        model.probe()


def test_a_sound_model_passes_the_probe(coco):
    """And gives its infer request back."""
    for _ in range(2 * coco.max_in_flight):
        coco.probe()


def test_a_model_that_answers_nan_later_finds_nothing(build):
    """What is no number is no confidence."""
    model = build(lambda image: [ops.log(ops.subtract(_means(image), _constant(2.0)))])
    assert model.detect(_plain(RED)).metadata.classification_detections == []


@pytest.mark.parametrize(
    "content", [b"", b"<net/>", b"<?xml version='1.0'?><net name='x' version='11'><layers/></net>", b"\x00" * 100]
)
@pytest.mark.parametrize("suffix", [".xml", ".onnx", ".tflite"])
def test_a_file_that_is_no_model_is_refused(tmp_path, precise, suffix, content):
    """OpenVINO's errors become one readable line."""
    file = tmp_path / f"model{suffix}"
    file.write_bytes(content)
    file.with_suffix(".bin").touch()
    with pytest.raises(ModelError) as refused:
        load_model(locate_model(str(file), tmp_path / "unpacked"), precise)
    assert "\n" not in str(refused.value)
    assert "src/" not in str(refused.value)


@pytest.mark.parametrize("suffix", [".xml", ".bin"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_half_a_model_is_refused(build, tmp_path, precise, suffix, part):
    """What a broken download leaves: no crash, no model."""
    build(lambda image: [ops.matmul(_means(image), _constant(np.ones((3, 9))), False, False)])
    half = tmp_path / "half"
    half.mkdir()
    for name in ("model.xml", "model.bin"):
        content = (tmp_path / name).read_bytes()
        (half / name).write_bytes(content[: int(len(content) * part)] if name.endswith(suffix) else content)
    with pytest.raises(ModelError, match="OpenVINO cannot read"):
        load_model(locate_model(str(half), half), precise)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3))],
)
def test_only_rgb_bytes_are_images(coco, image):
    """The error says what came."""
    with pytest.raises(ImageError, match="an image must be uint8 of shape"):
        coco.detect(image)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (37, 211), (3000, 40)])
def test_odd_sizes_are_images_too(coco, size):
    """Down to one pixel, and long strips."""
    metadata = coco.detect(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)).metadata
    for box in metadata.box_detections:
        assert 0 <= box.x < box.x + box.width <= size[0]
        assert 0 <= box.y < box.y + box.height <= size[1]


@pytest.mark.parametrize("hint", ["LATENCY", "THROUGHPUT"])
def test_threads_do_not_mix_up_their_images(build, precise, hint):
    """More threads than infer requests, each with its plain grey, each with its own answer."""
    model = build(
        lambda image: [ops.concat([_means(image), _constant([[0.5]])], 1)],
        categories=[(name, None) for name in "rgbx"],
        options=evolve(precise, performance_hint=hint, conf_threshold=0.0),
        shape=(1, 3, 64, 64),
    )
    images = [_plain(np.roll([level, 0, 0], level % 3), (64, 64)) for level in range(0, 256, 5)]
    alone = [model.detect(image).metadata for image in images]
    with ThreadPoolExecutor(2 * model.max_in_flight + 1) as pool:
        together = list(pool.map(lambda image: model.detect(image).metadata, images * 4))
    assert together == alone * 4
    assert {metadata.classification_detections[0].category_name for metadata in alone} == set("rgbx")


def test_a_closed_model_says_so(build):
    """Closing twice is harmless; detecting afterwards is an error, not a hang."""
    model = build(lambda image: [_means(image)])
    model.close()
    model.close()
    for _ in range(2):
        with pytest.raises(ModelError, match="model 9 is closed"):
            model.detect(_plain(RED))


def test_closing_waits_for_the_images_in_flight(build):
    """An infer request that is out comes back first."""
    model = build(lambda image: [_means(image)])
    slot = model._take()
    closer = threading.Thread(target=model.close)
    closer.start()
    assert closer.is_alive()
    model._idle.put(slot)
    closer.join(10)
    assert not closer.is_alive()


def test_the_cache_folder_is_used(build, tmp_path, precise):
    """A second start finds the compiled model there."""
    build(lambda image: [_means(image)], options=evolve(precise, cache=tmp_path / "cache"))
    assert list((tmp_path / "cache").glob("*.blob"))


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_memory_stays_flat_over_model_exchanges(tmp_path, precise):
    """20 times load, warm up, close: after three of them nothing more than 4 MB is added."""
    located = locate_model("coco", tmp_path)
    sizes = []
    for _ in range(20):
        model = load_model(located, precise)
        model.warm_up()
        model.close()
        sizes.append(_resident_bytes())
    assert sizes[-1] - max(sizes[:5]) < 4 * 2**20


def _python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_room_is_cheap_to_enter():
    """Importing it does not import openvino, which takes most of a second on a small machine."""
    imports = "import loop_node.inference, loop_node.inference.openvino, loop_node.inference.sources, sys"
    assert _python(f"{imports}\nprint('openvino' in sys.modules)") == "False\n"


def test_openvino_reports_to_nobody(tmp_path):
    """Its import, read and compile start no telemetry, although the package that does it may be installed."""
    program = f"""
import sys
from pathlib import Path
from loop_node.inference.devices import DeviceOptions
from loop_node.inference.openvino import import_openvino, load_model
from loop_node.inference.sources import locate_model
load_model(locate_model("coco", Path({str(tmp_path)!r})), DeviceOptions(device="CPU")).close()
print(sys.modules["openvino_telemetry"], [name for name in sys.modules if name.startswith("openvino_telemetry.")])
"""
    assert _python(program) == "None []\n"


def test_numbers_and_defaults_serve_a_bare_model(build, tmp_path, precise):
    """No model.json, no rt_info: the file's name is its version, categories are numbered, thresholds the defaults."""
    build(lambda image: [_means(image)])
    located = locate_model(str(tmp_path / "model.xml"), tmp_path)
    model = load_model(located, precise)
    assert model.information.version == "model"
    assert [category.name for category in model.information.categories] == ["0", "1", "2"]
    assert (model.description.conf_threshold, model.description.iou_threshold) == (0.2, 0.45)
    model.close()


def test_a_model_with_two_inputs_is_refused(tmp_path, precise):
    """The error names them."""
    first = ops.parameter([1, 3, 8, 8], np.float32, name="first")
    second = ops.parameter([1, 3, 8, 8], np.float32, name="second")
    first.output(0).set_names({"first"})
    second.output(0).set_names({"second"})
    graph = openvino.Model([ops.add(first, second)], [first, second])
    openvino.save_model(graph, tmp_path / "model.xml")
    information = ModelInformation(id="1", organization="", project="", version="1")
    with pytest.raises(ModelError, match=r"2 inputs \(first, second\); it must have one, an image"):
        load_model(LocatedModel(file=tmp_path / "model.xml", root=tmp_path, information=information), precise)
