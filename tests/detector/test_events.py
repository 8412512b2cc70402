"""The detector's events as robots of every generation send them, over real websockets and long-polling."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import trio

from loop_node.errors import ModelError
from loop_node.schemas.detections import ImageMetadata, Point, SegmentationDetection, Shape
from loop_node.socketio.client import open_socketio
from loop_node.socketio.session import Peer

RGB = np.zeros((6, 8, 3), np.uint8)
RAW = {"bytes": RGB.tobytes(), "dtype": "uint8", "shape": [6, 8, 3]}
LISTS = ("box_detections", "point_detections", "segmentation_detections", "classification_detections")


@pytest.fixture
async def robot(node: Any) -> AsyncIterator[Peer]:
    async with open_socketio(str(node.client.base_url)) as peer:
        yield peer


async def answer(robot: Peer, event: str, *data: Any) -> dict[str, Any]:
    ack = await robot.call(event, *data)
    assert isinstance(ack, dict)
    return ack


@pytest.mark.parametrize("form", ["bytes", "jpeg", "raw", "raw tuple"])
async def test_an_image_comes_in_any_of_its_forms(node: Any, robot: Peer, jpeg: bytes, form: str) -> None:
    """Encoded as the first generations send it, encoded in an object, or as an array taken apart."""
    image = {
        "bytes": jpeg,
        "jpeg": {"format": "jpeg", "bytes": jpeg},
        "raw": RAW | {"format": "raw"},
        "raw tuple": RAW | {"shape": (6, 8, 3)},
    }[form]
    found = await answer(robot, "detect", {"image": image})
    assert found["box_detections"][0]["category_id"] == "id-a"
    assert found["created"] is None
    assert node.model.shapes == [(6, 8, 3)]


@pytest.mark.parametrize("key", ["camera_id", "camera-id", "mac"])
async def test_what_a_robot_says_comes_back(robot: Peer, key: str) -> None:
    """Tags, source and date; the camera under any of its keys; keys nobody knows are ignored."""
    request = {
        "image": RAW,
        key: "front",
        "tags": ["a", " b"],
        "source": "robot",
        "creation_date": "2026-11-23",
        "autoupload": "disabled",
        "uuid": 7,
    }
    found = await answer(robot, "detect", request)
    assert (found["tags"], found["source"], found["created"]) == (["a", " b"], "robot", "2026-11-23")


@pytest.mark.parametrize("word", [None, "sometimes", 3])
async def test_another_word_for_autoupload_costs_no_detections(
    robot: Peer, word: object, caplog: pytest.LogCaptureFixture
) -> None:
    """Over Socket.IO it is logged, and nothing is uploaded."""
    found = await answer(robot, "detect", {"image": RAW, "autoupload": word})
    assert len(found["box_detections"]) == 1
    assert "nothing is uploaded" in caplog.text


async def test_numbers_beside_the_image_cost_no_detections(robot: Peer) -> None:
    """A number for a name is that name; a date that is none is dropped."""
    request = {"image": RAW, "camera_id": 3, "source": 7, "creation_date": 1700000000.5}
    found = await answer(robot, "detect", request)
    assert (found["source"], found["created"], len(found["box_detections"])) == ("7", None, 1)


@pytest.mark.parametrize("channels", [1, 4])
async def test_grey_and_rgba_arrays_are_seen_as_rgb(node: Any, robot: Peer, channels: int) -> None:
    """Made so in a thread, like a decoded image."""
    raw = {"bytes": bytes(6 * 8 * channels), "dtype": "uint8", "shape": [6, 8, channels]}
    assert len((await answer(robot, "detect", {"image": raw}))["box_detections"]) == 1
    assert node.model.shapes == [(6, 8, 3)]


async def test_no_tags_may_be_null(robot: Peer) -> None:
    """As some clients send it."""
    assert (await answer(robot, "detect", {"image": RAW, "tags": None}))["tags"] == []


async def test_polygons_go_out_as_points(node: Any, robot: Peer) -> None:
    """Robots cannot read the flat form."""
    shape = Shape(points=[Point(x=1, y=2), Point(x=3, y=4)])
    found = SegmentationDetection(category_name="a", shape=shape, model_name="2.0", confidence=1)
    node.model.metadata = ImageMetadata(segmentation_detections=[found])
    segments = (await answer(robot, "detect", {"image": RAW}))["segmentation_detections"]
    assert segments[0]["shape"] == {"points": [{"x": 1, "y": 2}, {"x": 3, "y": 4}]}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ((), "an object with the request's fields is needed, not null"),
        ((5,), "not int"),
        (({},), "image: an encoded image or an object with its bytes is needed, not null"),
        (({"image": "text"},), "not str"),
        (({"image": b"no image"},), "JPEG"),
        (({"image": {"format": "jpeg", "bytes": b"\xff\xd8no"}},), "damaged"),
        (({"image": {"format": "tiff", "bytes": b"x"}},), "'tiff'"),
        (({"image": {"format": "jpeg"}},), "'jpeg' with its bytes is needed"),
        (({"image": RAW | {"dtype": "object"}},), "image: dtype"),
        (({"image": RAW | {"shape": [60, 80, 3]}},), "needs 14400 bytes, 144 came"),
        (({"image": RAW | {"shape": [-6, -8, 3]}},), "image: shape"),
        (({"image": RAW | {"shape": [10**9, 10**9, 3]}},), "MAX_IMAGE_PIXELS"),
        (({"image": RAW, "tags": "a,b"},), "tags: a list of texts"),
        (({"image": RAW, "source": [3]},), "source: a text is needed, not list"),
        (({"image": RAW}, 2, 3), "event detect"),
    ],
)
async def test_an_error_does_not_look_like_an_empty_scene(robot: Peer, data: tuple[Any, ...], said: str) -> None:
    """The four lists are null beside `error`, so that a client that does not look at it fails."""
    refused = await answer(robot, "detect", *data)
    assert said in refused["error"]
    assert [refused[name] for name in LISTS] == [None] * 4
    assert len((await answer(robot, "detect", {"image": RAW}))["box_detections"]) == 1


async def test_a_broken_model_is_an_error_too(node: Any, robot: Peer, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is raised: null lists, a traceback in the log, a peer that lives."""
    node.model.fault = ZeroDivisionError()
    refused = await answer(robot, "detect", {"image": RAW})
    assert "ZeroDivisionError" in refused["error"]
    assert refused["box_detections"] is None
    assert "Traceback" in caplog.text
    assert robot.connected


async def test_without_a_model_it_says_so(node: Any, robot: Peer) -> None:
    """The contract's words, and no empty scene."""
    await node.engine.install(None)
    refused = await answer(robot, "detect", {"image": RAW})
    assert refused["error"].startswith("detector not yet initialized")
    assert refused["box_detections"] is None
    assert await answer(robot, "info") == {"status": "No model loaded"}
    assert (await answer(robot, "about"))["model_info"] is None


async def test_a_batch_is_answered_in_its_order(node: Any, robot: Peer, jpeg: bytes, encode: Any) -> None:
    """One order for all images, one answer each, the forms mixed."""
    images = [jpeg, RAW, {"format": "jpeg", "bytes": encode(4, 2)}]
    items = (await answer(robot, "batch_detect", {"images": images, "tags": ["t"]}))["items"]
    assert [item["tags"] for item in items] == [["t"]] * 3
    assert sorted(node.model.shapes) == [(2, 4, 3), (6, 8, 3), (6, 8, 3)]


async def test_an_empty_batch_has_no_items(robot: Peer) -> None:
    """Nothing asked, nothing seen."""
    assert await answer(robot, "batch_detect", {"images": []}) == {"items": []}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"images": RAW}, "images: a list of images is needed, not dict"),
        ({}, "not NoneType"),
        ({"images": [RAW, b"no image"]}, "images[1]"),
        ({"images": [RAW, None]}, "images[1]: an encoded image"),
        ({"images": [RAW] * 6}, "6 images at once are too many: at most 5"),
    ],
)
async def test_a_batch_that_cannot_be_used_has_null_items(robot: Peer, data: dict[str, Any], said: str) -> None:
    """Which image it was, or what is missing."""
    refused = await answer(robot, "batch_detect", data)
    assert said in refused["error"]
    assert refused["items"] is None


async def test_info_is_the_models_json(robot: Peer) -> None:
    """With the folder on this machine, as robots of all generations read it."""
    info = await answer(robot, "info")
    assert (info["version"], info["categories"][0]["name"]) == ("2.0", "a")
    assert "model_root_path" in info


async def test_about_and_versions_are_those_of_rest(node: Any, robot: Peer) -> None:
    """One detector, two doors."""
    assert await answer(robot, "about") == (await node.client.get("/about")).json()
    assert await answer(robot, "get_model_version") == (await node.client.get("/model_version")).json()


async def test_soft_reload_builds_the_model_anew(node: Any, robot: Peer) -> None:
    """Robots have always called it, and nobody answered."""
    assert await answer(robot, "soft_reload") == {"status": "OK"}
    assert node.control.told == ["load"]
    node.control.fault = ModelError("the file has gone")
    assert await answer(robot, "soft_reload") == {"error": "the file has gone"}


async def test_an_unknown_event_is_said_to_be_unknown(robot: Peer) -> None:
    """An error ack, where clients used to wait for nothing."""
    assert list(await answer(robot, "fly", None)) == ["error"]


async def test_a_dead_letter_is_only_logged(robot: Peer, caplog: pytest.LogCaptureFixture) -> None:
    """`emit('upload')` asks for no ack; the log tells what became of it."""
    caplog.set_level(logging.INFO)
    await robot.emit("upload", {"image": b"x"})
    with trio.fail_after(10):
        while "'upload' refused" not in caplog.text:
            await trio.lowlevel.checkpoint()
    assert (await answer(robot, "about"))["operation_mode"] == "idle"
