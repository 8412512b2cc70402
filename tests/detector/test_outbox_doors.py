"""What comes in through the doors of the outbox, and what detections leave there: a real disk behind a real server."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from loop_node.detector.outbox.inspection import list_images
from loop_node.detector.outbox.item import unpack
from loop_node.images import decode_image
from loop_node.schemas.detections import ImageMetadata
from loop_node.socketio.client import open_socketio
from loop_node.socketio.session import Peer


def kept(tmp_path: Path) -> list[tuple[str, bytes, dict[str, Any]]]:
    """Queue, image and metadata of what is on the disk, in the order it is sent."""
    outbox = tmp_path / "outbox"
    found = []
    for image in list_images(outbox):
        (file,) = (outbox / image.queue.value).glob(f"{image.id}-*.jpg")
        content = unpack(file.read_bytes())
        found.append((image.queue.value, content.jpeg, json.loads(content.metadata)))
    return found


@pytest.fixture
async def robot(node: Any) -> AsyncIterator[Peer]:
    async with open_socketio(str(node.client.base_url)) as robot:
        yield robot


async def until_stored(node: Any, images: int) -> None:
    with trio.fail_after(10):
        while node.outbox.stats().stored < images:
            await trio.lowlevel.checkpoint()


async def call(robot: Peer, event: str, data: Any = None) -> Any:
    with trio.fail_after(10):
        return await robot.call(event, data)


async def test_an_upload_is_on_disk_when_it_is_answered(node: Any, tmp_path: Path, jpeg: bytes) -> None:
    """Byte for byte, with its words, its tag and a date, in the queue it was meant for."""
    answer = await node.client.post(
        "/upload",
        files=[("files", ("a.jpg", jpeg)), ("files", ("b.jpg", jpeg))],
        params={"source": "hand", "upload_priority": "true"},
    )
    assert (answer.status_code, answer.json()) == (200, [200, "OK"])
    found = kept(tmp_path)
    assert [(queue, image) for queue, image, _ in found] == [("priority", jpeg)] * 2
    for _, _, metadata in found:
        assert (metadata["source"], metadata["tags"]) == ("hand", ["picked_by_system"])
        assert metadata["created"]


async def test_an_upload_with_one_bad_file_keeps_none(node: Any, tmp_path: Path, jpeg: bytes) -> None:
    """422 with its name."""
    files = [("files", ("good.jpg", jpeg)), ("files", ("bad.jpg", b"no image"))]
    answer = await node.client.post("/upload", files=files)
    assert answer.status_code == 422
    assert "'bad.jpg'" in answer.json()["detail"]
    assert kept(tmp_path) == []


async def test_an_upload_that_finds_no_room_is_a_507(node: Any, tmp_path: Path, jpeg: bytes) -> None:
    """When only priority images are left to drop, and they are not."""
    node.outbox._store.backlog.limits = type(node.outbox._store.backlog.limits)(
        normal_images=5, total_bytes=3 * len(jpeg), free_bytes=0
    )
    statuses = [
        (await node.client.post("/upload", files={"files": jpeg}, params={"upload_priority": "1"})).status_code
        for _ in range(6)
    ]
    assert statuses[0] == 200
    assert statuses[-1] == 507
    assert len(kept(tmp_path)) == statuses.count(200)
    assert (await node.client.post("/detect", files={"file": jpeg})).status_code == 200


async def test_a_robots_upload_of_every_generation_is_kept(robot: Peer, tmp_path: Path, jpeg: bytes) -> None:
    """Bytes with detections, an object with metadata, a raw array; points of outlines as robots send them."""
    outline = {"points": [{"x": 1.4, "y": 2.0}, {"x": 3.0, "y": 4.6}, {"x": 0, "y": 0}]}
    detection = {"category_name": "a", "shape": outline, "model_name": "2.0", "confidence": 0.5, "uuid": "u"}
    array = np.zeros((6, 8, 3), np.uint8)
    raw = {"bytes": array.tobytes(), "dtype": "uint8", "shape": [6, 8, 3]}
    for data in (
        {"image": jpeg, "tags": ["t"], "detections": {"segmentation_detections": [detection]}, "source": "s"},
        {"image": {"format": "jpeg", "bytes": jpeg}, "metadata": {"creation_date": "2026-11-23T10:00:00"}},
        {"image": raw, "metadata": {"tags": ["raw"]}, "upload_priority": True},
    ):
        assert await call(robot, "upload", data) == {"status": "OK"}
    by_tag = {tuple(metadata["tags"]): (image, metadata) for _, image, metadata in kept(tmp_path)}
    image, metadata = by_tag["t", "picked_by_system"]
    assert (image, metadata["source"]) == (jpeg, "s")
    assert metadata["segmentation_detections"][0]["shape"] == "1,2,3,5,0,0"
    assert metadata["segmentation_detections"][0]["category_id"] == "id-a"
    assert by_tag["picked_by_system",][1]["created"] == "2026-11-23T10:00:00"
    image, _ = by_tag["raw", "picked_by_system"]
    assert decode_image(image, max_pixels=100).shape == (6, 8, 3)
    assert "error" in await call(robot, "upload", {"image": b"no image"})


async def test_the_mode_is_the_same_through_both_doors(node: Any, robot: Peer) -> None:
    """Set by one, read by the other; another word is named and changes nothing."""
    assert (await node.client.get("/outbox_mode")).text == "stopped"
    answer = await node.client.put("/outbox_mode", content="continuous_upload")
    assert (answer.status_code, answer.json()) == (200, "OK")
    assert await call(robot, "get_outbox_mode") == {"outbox_mode": "continuous_upload"}
    assert await call(robot, "set_outbox_mode", "stopped") == {"status": "OK"}
    assert (await node.client.get("/outbox_mode")).text == "stopped"
    answer = await node.client.put("/outbox_mode", content="sometimes")
    assert answer.status_code == 422
    assert "continuous_upload, stopped" in answer.json()["detail"]
    assert "error" in await call(robot, "set_outbox_mode", 7)
    assert (await node.client.get("/outbox_mode")).text == "stopped"


@pytest.mark.parametrize(
    ("autoupload", "images", "tags"),
    [("all", 3, ["x"]), ("filtered", 1, ["x", "uncertain"]), ("disabled", 0, [])],
)
async def test_detections_leave_their_images(
    node: Any, tmp_path: Path, jpeg: bytes, autoupload: str, images: int, tags: list[str]
) -> None:
    """As the client wants it; the causes are tags there, and the answer does not know of them."""
    headers = {"autoupload": autoupload, "tags": "x", "camera-id": "front"}
    for _ in range(3):
        answer = await node.client.post("/detect", files={"file": jpeg}, headers=headers)
        assert (answer.json()["tags"], answer.json()["created"]) == (["x"], None)
    await until_stored(node, images)
    found = kept(tmp_path)
    assert [metadata["tags"] for _, _, metadata in found] == [tags] * images
    assert all(image == jpeg and metadata["created"] for _, image, metadata in found)
    assert node.learning.counts()["uncertain"] == (autoupload == "filtered")


async def test_what_is_no_jpeg_is_kept_as_one(node: Any, robot: Peer, tmp_path: Path, encode: Any) -> None:
    """A PNG over REST, an array over Socket.IO: encoded beside, not before the answer."""
    headers = {"autoupload": "all", "content-type": "image/png"}
    assert (await node.client.post("/detect", content=encode(kind="PNG"), headers=headers)).status_code == 200
    raw = {"bytes": bytes(6 * 8 * 3), "dtype": "uint8", "shape": [6, 8, 3]}
    assert "error" not in await call(robot, "detect", {"image": raw, "autoupload": "all"})
    await until_stored(node, 2)
    assert all(decode_image(image, max_pixels=100).shape == (6, 8, 3) for _, image, _ in kept(tmp_path))


async def test_a_logic_that_answers_with_one_object_gathers_no_tags(node: Any, jpeg: bytes) -> None:
    """Whatever is kept, the next answer is as the first."""
    node.model.metadata = ImageMetadata(tags=["own"])
    headers = {"autoupload": "all", "tags": "x"}
    answers = [(await node.client.post("/detect", files={"file": jpeg}, headers=headers)).json() for _ in range(3)]
    assert [answer["tags"] for answer in answers] == [["x", "own"]] * 3


async def test_stopping_is_not_said_to_be_done_while_a_request_is_in_flight(
    node: Any, robot: Peer, jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """202 over REST, a word in the ack; 200 once the request has ended."""
    monkeypatch.setattr("loop_node.detector.outbox_doors._STOP_PATIENCE_S", 0.05)
    sending, may_end = trio.Event(), trio.Event()

    async def send(_images: Any) -> None:
        sending.set()
        await may_end.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.outbox.run_drainer, send, node.handle)
        await node.client.put("/outbox_mode", content="continuous_upload")
        await node.client.post("/upload", files={"files": jpeg})
        await sending.wait()
        answer = await node.client.put("/outbox_mode", content="stopped")
        assert (answer.status_code, answer.json()) == (202, "OK")
        assert await call(robot, "set_outbox_mode", "stopped") == {"status": "OK", "still_sending": True}
        may_end.set()
        await node.outbox.wait_idle()
        assert (await node.client.put("/outbox_mode", content="stopped")).status_code == 200
        nursery.cancel_scope.cancel()
    assert node.outbox.stats().uploaded == 1


async def test_a_reset_leaves_the_images(node: Any, tmp_path: Path, jpeg: bytes) -> None:
    """What waits goes on waiting, and more can be kept."""
    await node.client.post("/upload", files={"files": jpeg})
    assert (await node.client.post("/reset")).json() is True
    await node.client.post("/upload", files={"files": jpeg})
    assert len(kept(tmp_path)) == 2
