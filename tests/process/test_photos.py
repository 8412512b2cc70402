"""Real photos through a real process: what the demo promises."""

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from PIL import Image

pytestmark = pytest.mark.process

# at f32, with the bundled model; its notice tells how the scores were found
SEEN = {
    "astronaut": ("person", 0.74),
    "chelsea": ("cat", 0.58),
    "motorcycle_left": ("motorcycle", 0.78),
    "horse": ("horse", 0.68),
    "camera": ("person", 0.88),
}


def best_score(answer: Any, category: str) -> float:
    """The confidence of the best box of this category, which lies inside of the image."""
    boxes = [box for box in answer["box_detections"] if box["category_name"] == category]
    assert boxes, f"no {category} among {answer['box_detections']}"
    return float(max(box["confidence"] for box in boxes))


@pytest.mark.parametrize("photo", SEEN)
async def test_a_png_sent_by_curl_is_understood(coco: Any, photos: Path, photo: str) -> None:
    """`curl -F file=@...` finds what is on the photo, as surely as the model's notice says."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    command = ["curl", "-sS", "--max-time", "40", "-F", f"file=@{photos / photo}.png", f"{coco.url}/detect"]
    done = await trio.run_process(command, capture_stdout=True, stdin=subprocess.DEVNULL)
    category, score = SEEN[photo]
    assert best_score(json.loads(done.stdout), category) == pytest.approx(score, abs=0.03)


@pytest.mark.parametrize("photo", SEEN)
async def test_a_jpeg_as_the_raw_body_is_understood(
    client: httpx.AsyncClient, photos: Path, photo: str, encoded: Callable[..., bytes]
) -> None:
    """The same photo as a JPEG in the body gives the same within the same bounds."""
    with Image.open(photos / f"{photo}.png") as image:
        jpeg = encoded(image.convert("RGB"), "JPEG", quality=95)
    answer = await client.post("/detect", content=jpeg, headers={"content-type": "image/jpeg"})
    category, score = SEEN[photo]
    assert best_score(answer.json(), category) == pytest.approx(score, abs=0.03)


async def test_boxes_lie_inside_of_the_image(client: httpx.AsyncClient, photos: Path) -> None:
    """Coordinates are whole pixels of the image that was sent, clipped to it; ids and version come from the model."""
    with Image.open(photos / "astronaut.png") as image:
        width, height = image.size
    answer = await client.post("/detect", files={"file": (photos / "astronaut.png").read_bytes()})
    model = (await client.get("/about")).json()["model_info"]
    ids = {category["name"]: category["id"] for category in model["categories"]}
    boxes = answer.json()["box_detections"]
    assert boxes
    for box in boxes:
        assert all(isinstance(box[key], int) for key in ("x", "y", "width", "height"))
        assert 0 <= box["x"] < box["x"] + box["width"] <= width
        assert 0 <= box["y"] < box["y"] + box["height"] <= height
        assert box["category_id"] == ids[box["category_name"]]
        assert box["model_name"] == model["version"]


async def test_the_words_beside_the_image_are_answered(client: httpx.AsyncClient, small_jpeg: bytes) -> None:
    """Tags, source and date come back; each step's time is in `Server-Timing`."""
    answer = await client.post(
        "/detect",
        params={"source": "query"},
        content=small_jpeg,
        headers={"content-type": "image/jpeg", "tags": "a, b,,c", "creation-date": "2026-11-23_10:11:12.123"},
    )
    said = answer.json()
    assert said["tags"] == ["a", " b", "", "c"]
    assert said["source"] == "query"
    assert said["created"] == "2026-11-23_10:11:12.123"
    steps = [step.partition(";dur=") for step in answer.headers["server-timing"].split(", ")]
    assert [name for name, _, _ in steps] == ["decode", "queue", "infer", "post"]
    assert all(float(duration) >= 0 for _, _, duration in steps)


async def test_the_demo_invites_with_a_line_that_works(nodes: Any) -> None:
    """The line that the demo prints is one that a shell takes, and finds the person on its photo."""
    node = await nodes.start_ready("demo", LOCAL_LOOP_PORT=0)
    assert node.url.startswith("http://127.0.0.1:")
    line, keep = (line for line in node.log.splitlines() if "curl " in line)
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    command = line[line.index("curl ") :]
    done = await trio.run_process(["sh", "-c", command], capture_stdout=True, capture_stderr=True)
    assert best_score(json.loads(done.stdout), "person") == pytest.approx(0.74, abs=0.03)
    kept = await trio.run_process(["sh", "-c", keep[keep.index("curl ") :]], capture_stdout=True, capture_stderr=True)
    assert json.loads(kept.stdout) == [200, "OK"]
    (loop_url,) = re.findall(r"follows: (\S+)", node.log)
    async with httpx.AsyncClient(base_url=loop_url, trust_env=False) as client:
        await client.post("/api/login", data={"username": "admin", "password": "admin"})
        while not (await client.get("/api/demo/projects/coco/data")).json()["image_ids"]:
            await trio.sleep(0.05)
    with trio.fail_after(5):
        assert await node.stop(signal.SIGINT) == 0


async def test_the_mock_detector_runs_from_anywhere(
    nodes: Any, examples: Path, tmp_path: Path, small_jpeg: bytes
) -> None:
    """The example needs no installation and no model, and its boxes are inside of the image."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    example = examples / "mock_detector" / "mock_detector.py"
    node = await nodes.start_ready("detector", "--logic", f"{example}:MockDetectorFactory", cwd=elsewhere)
    async with node.client() as client:
        answers = [(await client.post("/detect", files={"file": small_jpeg})).json() for _ in range(20)]
    boxes = [box for answer in answers for box in answer["box_detections"]]
    assert boxes
    assert all(box["x"] + box["width"] <= 128 and box["y"] + box["height"] <= 128 for box in boxes)
    assert not list(elsewhere.iterdir())
    assert await node.stop() == 0


async def test_what_a_logic_returns_goes_out_unchanged(nodes: Any, logic: Any, small_jpeg: bytes) -> None:
    """Neither ids nor names nor numbers are touched, however odd."""
    body = """return ImageMetadata(box_detections=[BoxDetection(
            category_name="nut", x=-5, y=7, width=1000, height=1, model_name="mine, 3rd", confidence=1.25,
            category_id="not in any model")], tags=["from the logic"])"""
    node = await nodes.start_ready("detector", *logic.write(body))
    async with node.client() as client:
        answer = (await client.post("/detect", files={"file": small_jpeg}, headers={"tags": "mine"})).json()
    assert answer["box_detections"] == [
        {
            "category_name": "nut",
            "x": -5,
            "y": 7,
            "width": 1000,
            "height": 1,
            "model_name": "mine, 3rd",
            "confidence": 1.25,
            "category_id": "not in any model",
        }
    ]
    assert answer["tags"] == ["mine", "from the logic"]
    assert await node.stop() == 0
