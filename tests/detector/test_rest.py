"""The detector's endpoints as clients of every generation use them, over a real server and a model made of paper."""

import io
from typing import Any

import pytest
import trio
from PIL import Image

from loop_node.detector.state import Download
from loop_node.detector.update_policy import Failure, ModelRef, Quarantined
from loop_node.schemas.detections import ImageMetadata, Point, SegmentationDetection, Shape


def encoded(width: int = 8, height: int = 6, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 10, 10)).save(buffer, kind)
    return buffer.getvalue()


JPEG = encoded()


def files(data: bytes = JPEG, name: str = "file") -> dict[str, Any]:
    return {name: ("x.jpg", data, "image/jpeg")}


async def test_the_answer_is_the_contracts(node: Any) -> None:
    """Generation 6, key by key, with the created date of nobody."""
    answer = await node.client.post("/detect", files=files())
    assert answer.status_code == 200
    assert answer.json() == {
        "box_detections": [
            {
                "category_name": "a",
                "x": 1,
                "y": 2,
                "width": 3,
                "height": 4,
                "model_name": "2.0",
                "confidence": 0.5,
                "category_id": "id-a",
            }
        ],
        "point_detections": [],
        "segmentation_detections": [],
        "classification_detections": [],
        "box_annotations": [],
        "point_annotations": [],
        "classification_annotation": None,
        "tags": [],
        "created": None,
        "source": None,
        "state": None,
    }
    assert node.model.shapes == [(6, 8, 3)]


async def test_polygons_are_flat_in_rest(node: Any) -> None:
    """`shape` is the text `x1,y1,x2,y2`."""
    shape = Shape(points=[Point(x=1, y=2), Point(x=3, y=4)])
    found = SegmentationDetection(category_name="a", shape=shape, model_name="2.0", confidence=1)
    node.model.metadata = ImageMetadata(segmentation_detections=[found])
    answer = await node.client.post("/detect", files=files())
    assert answer.json()["segmentation_detections"][0]["shape"] == "1,2,3,4"


@pytest.mark.parametrize("kind", ["image/jpeg", "image/png"])
async def test_the_image_may_be_the_body(node: Any, kind: str) -> None:
    """Without multipart, as PNG too."""
    body = encoded(kind=kind.removeprefix("image/").upper())
    answer = await node.client.post("/detect", content=body, headers={"content-type": kind})
    assert len(answer.json()["box_detections"]) == 1


async def test_server_timing_names_the_steps(node: Any) -> None:
    """Decode, queue, infer and post, in milliseconds."""
    timing = (await node.client.post("/detect", files=files())).headers["Server-Timing"]
    steps = dict(step.split(";dur=") for step in timing.split(", "))
    assert list(steps) == ["decode", "queue", "infer", "post"]
    assert (float(steps["infer"]), float(steps["post"])) == (1, 2)
    assert float(steps["decode"]) > 0


@pytest.mark.parametrize("date", ["2026-11-23_02:34:25.998", "2026-11-23T02:34:25+01:00", "2026-11-23"])
@pytest.mark.parametrize("spelling", ["creation-date", "creation_date"])
async def test_what_the_client_says_comes_back(node: Any, date: str, spelling: str) -> None:
    """Source, date and tags, by header in both spellings; tags are not trimmed, empty ones are kept."""
    headers = {spelling: date, "source": "robot 7", "tags": "a, b,,c", "camera_id": "front"}
    for where in ({"headers": headers}, {"params": headers}):
        said = (await node.client.post("/detect", files=files(), **where)).json()
        assert (said["created"], said["source"], said["tags"]) == (date, "robot 7", ["a", " b", "", "c"])


async def test_a_header_beats_the_query_and_an_empty_one_is_none(node: Any) -> None:
    """The first that says something counts."""
    said = await node.client.post("/detect", files=files(), headers={"source": "h"}, params={"source": "q"})
    assert said.json()["source"] == "h"
    said = await node.client.post("/detect", files=files(), headers={"source": ""}, params={"source": "q"})
    assert said.json()["source"] == "q"


async def test_a_date_that_is_none_costs_no_detections(node: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It is dropped with a warning."""
    said = await node.client.post("/detect", files=files(), headers={"creation-date": "yesterday"})
    assert said.json()["created"] is None
    assert len(said.json()["box_detections"]) == 1
    assert "creation_date 'yesterday'" in caplog.text


async def test_answers_do_not_gather_tags(node: Any) -> None:
    """A logic may return the same object for ever; what one client says stays in that client's answer."""
    for tag in ("one", "two"):
        said = await node.client.post("/detect", files=files(), headers={"tags": tag})
        assert said.json()["tags"] == [tag]
    assert node.model.metadata.tags == []


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        ({"files": files(name="image")}, 422, "field 'file' is missing"),
        ({"files": [*files().items(), *files().items()]}, 422, "2 images came"),
        ({"files": files(b"")}, 422, "file"),
        ({"files": files(b"no image")}, 422, "JPEG"),
        ({"files": files(JPEG[: len(JPEG) // 2])}, 422, "image"),
        ({"files": files(encoded(200, 51))}, 422, "MAX_IMAGE_PIXELS"),
        ({}, 422, "no image"),
        ({"content": b"", "headers": {"content-type": "image/jpeg"}}, 422, ""),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 422, "multipart body is broken"),
        ({"content": b"{}", "headers": {"content-type": "application/json"}}, 422, "application/json"),
        ({"files": files(), "headers": {"autoupload": "some"}}, 422, "autoupload: one of filtered, all, disabled"),
        ({"files": files(bytes(200_000))}, 413, "larger than 100000 bytes"),
    ],
)
async def test_what_cannot_be_used_is_named(node: Any, how: dict[str, Any], status: int, said: str) -> None:
    """A client's fault is a 4xx with words, in one shape."""
    answer = await node.client.post("/detect", **how)
    assert answer.status_code == status
    assert said in answer.json()["detail"]
    assert node.model.shapes == []


async def test_without_a_model_it_is_a_503(node: Any) -> None:
    """With the reason and a time to come back."""
    await node.engine.install(None)
    answer = await node.client.post("/detect", files=files())
    assert answer.status_code == 503
    assert answer.json()["detail"].startswith("detector not yet initialized")
    assert int(answer.headers["Retry-After"]) > 0


async def test_about_tells_of_model_and_device(node: Any) -> None:
    """The contract's keys, and ours beside them."""
    said = (await node.client.get("/about")).json()
    assert said["operation_mode"] == "idle"
    assert said["version_control"] == "follow_loop"
    assert said["model_info"]["categories"][0]["name"] == "a"
    assert (said["state"], said["target_model"], said["device"]) == (None, None, "paper")
    await node.engine.install(None)
    assert (await node.client.get("/about")).json()["model_info"] is None


async def test_model_version_has_all_five_keys(node: Any) -> None:
    """What is not known is the text `None`."""
    said = (await node.client.get("/model_version")).json()
    assert said == {
        "current_version": "2.0",
        "target_version": "None",
        "loop_version": "None",
        "local_versions": ["2.0"],
        "version_control": "follow_loop",
    }


async def test_operation_mode_is_plain_text(node: Any) -> None:
    """No JSON here."""
    answer = await node.client.get("/operation_mode")
    assert (answer.text, answer.headers["content-type"]) == ("idle", "text/plain; charset=utf-8")


@pytest.mark.parametrize("mode", ["follow_loop", "pause", "previous", "1.0", " 1.0\n"])
async def test_the_model_version_is_put_as_plain_text(node: Any, mode: str) -> None:
    """The answer is JSON, with its quotes."""
    answer = await node.client.put("/model_version", content=mode)
    assert (answer.status_code, answer.text) == (200, '"OK"')
    assert node.control.told == [mode.strip()]


@pytest.mark.parametrize("mode", ["", "newest", "\xff", "1" * 200])
async def test_a_model_version_that_is_none_is_a_400(node: Any, mode: str) -> None:
    """With the contract's text."""
    answer = await node.client.put("/model_version", content=mode)
    assert (answer.status_code, answer.json()) == (400, {"detail": "Invalid version number"})
    assert node.control.told == []


async def test_operation_mode_can_be_put(node: Any) -> None:
    """One of three words; also when it is the same."""
    for mode in ("detecting", "detecting", "idle", "startup"):
        answer = await node.client.put("/operation_mode", content=mode)
        assert (answer.status_code, answer.text) == (200, '"OK"')
        assert (await node.client.get("/operation_mode")).text == mode
    answer = await node.client.put("/operation_mode", content="check_for_updates")
    assert answer.status_code == 422
    assert "startup, idle, detecting" in answer.json()["detail"]


async def test_the_backdoor_resets(node: Any) -> None:
    """`true`, as JSON."""
    answer = await node.client.post("/reset")
    assert (answer.status_code, answer.text, node.control.told) == (200, "true", ["reset"])


async def test_about_tells_of_downloads_and_models_held_back(node: Any) -> None:
    """Beside the contract's keys."""
    model = ModelRef("id", "1.3")
    held = Quarantined(
        model=model, failure=Failure.BUILD, reason="NaN", failures=1, retry_at_s=trio.current_time() + 60
    )
    node.state.download = Download(version="1.4", received_bytes=5, total_bytes=10)
    node.state.held_back = {"id": held}
    node.state.note_fault("deployment_target", "unreachable")
    node.state.model_error = "model 1.3: NaN"
    said = (await node.client.get("/about")).json()
    assert said["download"] == {"version": "1.4", "received_bytes": 5, "total_bytes": 10}
    assert said["held_back"][0].pop("retry_in_s") == pytest.approx(60, abs=5)
    assert said["held_back"] == [{"version": "1.3", "failed_at": "build", "reason": "NaN", "failures": 1}]
    assert said["errors"] == {"model": "model 1.3: NaN", "deployment_target": "unreachable"}
