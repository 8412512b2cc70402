import re

import pytest
from attrs import evolve

from loop_node.errors import ModelError
from loop_node.inference.description import ChannelOrder, Declarations, declared_resolution, describe
from loop_node.inference.layouts import Layout
from loop_node.inference.preprocessing import ResizeType
from loop_node.schemas.models import Category, CategoryType, ModelInformation

MODEL = ModelInformation(id="m", organization="o", project="p", version="1.2")
HEAD = ((1, 6, 3549),)  # YOLOv8, two categories
ULTRALYTICS = {"names": "{0: 'traffic light', 1: 'car'}", "imgsz": "[320, 640]", "task": "detect", "stride": "32"}


def _describe(model: ModelInformation | None = None, *, shapes=HEAD, uint8=False, **declared):
    declarations = Declarations(information=model, **declared)
    return describe(declarations, input_size=(416, 416), output_shapes=shapes, input_is_uint8=uint8)


def test_the_operator_wins_then_model_json_then_rt_info_then_the_default():
    """Thresholds: what is set beats what the model says, and 0.2 and 0.45 are for those who say nothing."""
    rt_info = {"confidence_threshold": "0.5", "iou_threshold": 0.6}
    model = evolve(MODEL, conf_threshold=0.3, iou_threshold=0.7)

    def thresholds(*args, **kwargs):
        description = _describe(*args, **kwargs)
        return description.conf_threshold, description.iou_threshold

    assert thresholds(model, model_info=rt_info, conf_threshold=0.0, iou_threshold=1.0) == (0.0, 1.0)
    assert thresholds(model, model_info=rt_info, iou_threshold=0.9) == (0.3, 0.9)
    assert thresholds(MODEL, model_info=rt_info) == (0.5, 0.6)
    assert thresholds(MODEL) == (0.2, 0.45)


def test_model_json_wins_over_rt_info_in_everything():
    """Categories and preprocessing too."""
    model = evolve(
        MODEL,
        categories=[Category(id="a", name="A"), Category(id="b", name="B", type=CategoryType.POINT)],
        model_type="yolo11",
        resize_type="crop",
        pad_value=7,
        mean_values=[1.0, 2.0, 3.0],
        scale_values=[4.0],
        channel_order="BGR",
    )
    rt_info = {
        "labels": "x y z",
        "model_type": "ssd",
        "resize_type": "standard",
        "pad_value": "9",
        "mean_values": "5 5 5",
        "scale_values": "6",
        "reverse_input_channels": "False",
    }
    description = _describe(model, model_info=rt_info)
    assert [category.id for category in description.categories] == ["a", "b"]
    assert description.output.layout is Layout.YOLOV8
    assert description.resize_type is ResizeType.CROP
    assert description.pad_value == 7
    assert description.mean_values == (1, 2, 3)
    assert description.scale_values == (4, 4, 4)
    assert description.channel_order is ChannelOrder.BGR


def test_empty_properties_say_nothing():
    """As exporters write them for nothing: the next source is asked."""
    model = evolve(MODEL, mean_values=[], scale_values=[])
    description = _describe(model, model_info={"scale_values": "2", "mean_values": "", "pad_value": ""})
    assert (description.mean_values, description.scale_values, description.pad_value) == ((), (2, 2, 2), 114)


@pytest.mark.parametrize("labels", ["traffic_light car", ["traffic_light", "car"]])
def test_rt_info_speaks_for_a_bare_model(labels):
    """Labels with underscores for spaces, as one string or a list; lists of numbers likewise."""
    description = _describe(
        model_info={
            "labels": labels,
            "model_type": "YOLOv8",
            "resize_type": "fit_to_window",
            "pad_value": "0",
            "mean_values": "123.675 116.28 103.53",
            "scale_values": [58.395, 57.12, 57.375],
            "reverse_input_channels": "True",
        }
    )
    assert [category.name for category in description.categories] == ["traffic light", "car"]
    assert description.resize_type is ResizeType.FIT_TO_WINDOW
    assert description.pad_value == 0
    assert description.mean_values == (123.675, 116.28, 103.53)
    assert description.scale_values == (58.395, 57.12, 57.375)
    assert description.channel_order is ChannelOrder.BGR


def test_ultralytics_metadata_speaks_for_a_bare_onnx_file():
    """RGB, 0..1, centred letterbox with grey 114, and its own names."""
    description = _describe(onnx_metadata=ULTRALYTICS)
    assert [category.name for category in description.categories] == ["traffic light", "car"]
    assert (description.resize_type, description.pad_value) == (ResizeType.LETTERBOX, 114)
    assert (description.scale_values, description.mean_values) == ((255, 255, 255), ())
    assert description.channel_order is ChannelOrder.RGB


def test_ultralytics_tasks_choose_the_layout():
    """segment and classify are read, pose and obb are refused."""
    segment = _describe(shapes=((1, 38, 3549), (1, 32, 104, 104)), onnx_metadata=ULTRALYTICS | {"task": "segment"})
    assert segment.output.layout is Layout.YOLOV8_SEG
    classify = _describe(shapes=((1, 2),), onnx_metadata=ULTRALYTICS | {"task": "classify"})
    assert classify.output.layout is Layout.CLASSIFICATION
    assert classify.resize_type is ResizeType.CROP
    with pytest.raises(ModelError, match="'pose' is not supported; supported are detect, segment, classify"):
        _describe(onnx_metadata=ULTRALYTICS | {"task": "pose"})


def test_unnamed_categories_are_numbered_with_lasting_ids():
    """The same names and ids at every start, and the type of the layout."""
    first, again = _describe().categories, _describe().categories
    assert [category.name for category in first] == ["0", "1"]
    assert first == again
    assert first[0].id != first[1].id
    assert first[0].type is CategoryType.BOX
    assert _describe(shapes=((1, 3),)).categories[0].type is CategoryType.CLASSIFICATION


def test_a_layout_has_habits_where_nobody_says():
    """YOLOX: BGR, 0..255, top left, grey 114. SSD: stretched, 0..255."""
    yolox = _describe(evolve(MODEL, model_type="YOLOX"), shapes=((1, 3549, 6),))
    assert (yolox.resize_type, yolox.pad_value) == (ResizeType.FIT_TO_WINDOW, 114)
    assert (yolox.scale_values, yolox.channel_order) == ((1, 1, 1), ChannelOrder.BGR)
    ssd = _describe(shapes=((1, 1, 9, 7),))
    assert (ssd.resize_type, ssd.scale_values) == (ResizeType.STANDARD, (1, 1, 1))


def test_a_graph_that_takes_bytes_scales_them_itself():
    """Unless somebody says otherwise."""
    assert _describe(uint8=True).scale_values == ()
    assert _describe(uint8=True, model_info={"scale_values": "2"}).scale_values == (2, 2, 2)


@pytest.mark.parametrize(
    ("model_info", "problem"),
    [
        ({"confidence_threshold": "1.5"}, "confidence_threshold in rt_info is '1.5'; it must be a number from 0 to 1"),
        ({"iou_threshold": "high"}, "iou_threshold in rt_info is 'high'; it must be a number"),
        ({"pad_value": 300}, "pad_value in rt_info is 300; it must be a grey level from 0 to 255"),
        (
            {"resize_type": "squash"},
            "'squash'; it must be one of standard, fit_to_window, fit_to_window_letterbox, crop",
        ),
        ({"mean_values": "1 2"}, "mean_values in rt_info is '1 2'; it must be one number, or three"),
        ({"scale_values": "nan"}, "scale_values in rt_info is 'nan'"),
        ({"scale_values": "1 0 1"}, "nothing can be divided by 0"),
        ({"model_type": "fancy"}, "model_type 'fancy' is unknown"),
        ({"labels": "a b c"}, "3 categories are given, but the output [1,6,3549] has 2"),
    ],
)
def test_useless_properties_are_named_with_what_is_accepted(model_info, problem):
    """The error names the property, its value and where it stands."""
    with pytest.raises(ModelError, match=re.escape(problem)):
        _describe(model_info=model_info)


@pytest.mark.parametrize("names", ["{0: 'a', 2: 'b'}", "{'a': 1}", "7", "{0: 'a'", "__import__('os')", "(" * 10000])
def test_useless_onnx_names_are_refused(names):
    """They are read as literals, never run."""
    with pytest.raises(ModelError, match="names in the ONNX metadata"):
        _describe(onnx_metadata=ULTRALYTICS | {"names": names})


@pytest.mark.parametrize(
    ("model", "metadata", "size"),
    [
        (evolve(MODEL, resolution=320), ULTRALYTICS, (320, 320)),
        (evolve(MODEL, resolution_x=640, resolution_y=480), {}, (640, 480)),
        (evolve(MODEL, resolutions=[[640, 384], 320]), {}, (640, 384)),
        (evolve(MODEL, resolutions=[512]), {}, (512, 512)),
        (MODEL, ULTRALYTICS, (640, 320)),  # imgsz is height, width
        (None, {"imgsz": "416"}, (416, 416)),
        (MODEL, {}, None),
    ],
)
def test_the_resolution_is_found_wherever_it_stands(model, metadata, size):
    """In model.json as one side, two sides or a list; in ONNX metadata as imgsz."""
    assert declared_resolution(Declarations(information=model, onnx_metadata=metadata)) == size


@pytest.mark.parametrize("imgsz", ["[0, 5]", "'big'", "[640, 640, 3]", "[1e9, 2]", "None"])
def test_a_resolution_that_is_none_is_refused(imgsz):
    """The error names it."""
    with pytest.raises(ModelError, match="imgsz"):
        declared_resolution(Declarations(onnx_metadata={"imgsz": imgsz}))
