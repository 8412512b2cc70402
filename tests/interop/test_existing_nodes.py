"""The existing nodes, as their makers published them, work with our Learning Loop as with the one they were made for."""

import io
import json
import zipfile
from typing import Any

import pytest

pytestmark = [pytest.mark.interop, pytest.mark.process, pytest.mark.timeout(300)]

OUTLINE = {"points": [{"x": 5, "y": 6}, {"x": 25, "y": 6}, {"x": 5, "y": 26}]}


def zipped(files: dict[str, str]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def unzipped(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


async def upload_model(loop: Any, files: dict[str, str]) -> str:
    """A new model in the detector's format; gives its version."""
    answer = await loop.ask("POST", f"{loop.api}/mocked", files={"files": ("model.zip", zipped(files))})
    models = (await loop.ask("GET", f"{loop.api}/models", params={"format": "mocked"}))["models"]
    return next(model["version"] for model in models if model["id"] == answer["id"])


async def test_a_detector_follows_the_loop_and_uploads(loop: Any, existing: Any, until: Any, jpeg: bytes) -> None:
    """It registers, serves the deployment target, follows a change of it, and what it uploads lies in the inbox."""
    kinds = ("box", "point", "segmentation", "classification")
    categories = await loop.create(*kinds)
    first = await upload_model(loop, {"model.json": json.dumps({"categories": list(categories.values())}), "w": "1"})
    second = await upload_model(loop, {"weights.bin": "2"})
    assert [first, second] == ["1.0", "2.0"]
    await loop.ask("PUT", f"{loop.local}/deployment/target", json={"version": first})
    node = await existing.start(
        "detector", LOOP_ORGANIZATION="zauberzeug", LOOP_PROJECT=loop.project, SYNC_CYCLES=1, NODE_VERSION="7.8"
    )

    async with node.client() as client:

        async def serves(version: str) -> bool:
            return (await client.get("/about")).json()["model_info"] is not None and (
                await client.get("/model_version")
            ).json()["current_version"] == version

        await until(lambda: serves(first), "the first target")
        headers = {"autoupload": "all", "tags": "a,b", "source": "camera", "creation-date": "2026-11-23T01:02:03"}
        detected = (await client.post("/detect", files={"file": jpeg}, headers=headers)).json()
        assert [len(detected[f"{kind}_detections"]) for kind in kinds] == [1, 1, 1, 1]
        await client.post("/upload", files={"files": jpeg}, params={"source": "operator"})

        async def both() -> Any:
            images = await loop.images("inbox")
            return len(images) == 2 and {image["source"]: image for image in images}

        uploaded = await until(both, "both images in the inbox")
        found = uploaded["camera"]
        assert [tag["name"] for tag in found["tags"]] == ["a", "b"]
        assert found["created"].startswith("2026-11-23T01:02:03")
        assert (found["width"], found["height"]) == (128, 96)
        for kind in kinds:
            (detection,) = found[f"{kind}_detections"]
            assert detection["category_id"] == categories[kind]["id"]
            assert detection["model_name"] == first
        assert "picked_by_system" in [tag["name"] for tag in uploaded["operator"]["tags"]]
        assert (await loop.client.get(f"{loop.api}/images/{found['id']}/main")).content == jpeg

        await loop.ask("PUT", f"{loop.local}/deployment/target", json={"version": second})
        await until(lambda: serves(second), "the second target")
        info = (await client.get("/about")).json()["model_info"]
        assert (info["organization"], info["project"], info["version"]) == ("zauberzeug", loop.project, second)

    async def reported() -> Any:
        (listed,) = await loop.nodes("detector")
        return listed["status"]["current_model"] == second and listed

    listed = await until(reported, "its status")
    assert listed["name"] == "foreign detector"
    assert (listed["organization"], listed["project"]) == ("zauberzeug", loop.project)
    assert listed["status"]["node_version"] == "7.8"
    await node.stop()


async def trained(loop: Any, until: Any, **order: Any) -> dict[str, Any]:
    """A training from its beginning to its end."""
    number = (await loop.ask("POST", f"{loop.local}/trainings", json=order))["training_number"]

    async def ended() -> Any:
        training = await loop.ask("GET", f"{loop.local}/trainings/{number}")
        return training["state"] == "ready_for_cleanup" and training

    training = await until(ended, f"the end of training {number}")

    async def idle() -> bool:
        (trainer,) = await loop.nodes("trainer")
        return trainer["status"]["state"] == "idle"

    await until(idle, "an idle trainer")
    return training


async def test_a_trainer_trains(loop: Any, existing: Any, until: Any) -> None:
    """A whole training, and another that goes on from its model: metrics, both formats, detections on all images."""
    states = {"inbox": 2, "annotate": 1, "review": 1, "complete": 12}
    await loop.generate(**states, box_categories=2, box_annotations=1)
    node = await existing.start("trainer")
    await until(lambda: loop.nodes("trainer"), "a connected trainer")

    training = await trained(loop, until, model_variant="small", hyperparameters={"resolution": 640})
    assert training["errors"] == {}
    (model,) = training["models"]
    (metrics,) = training["metrics"]
    counts = {"tp": 3, "fp": 2, "fn": 1}
    expected = {category["id"]: counts for category in await loop.categories()}
    assert model["confusion_matrix"] == metrics["confusion_matrix"] == expected
    assert metrics["train_image_count"] + metrics["test_image_count"] == states["complete"]
    assert metrics["hyperparameters"] == {"resolution": 640}
    assert metrics["best_epoch"] == 7
    assert sorted(model["formats"]) == ["mocked", "mocked2"]

    for model_format, name in (("mocked", "model.pt"), ("mocked2", "model.xml")):
        files = unzipped((await loop.client.get(f"{loop.api}/models/{model['id']}/{model_format}/file")).content)
        description = json.loads(files["model.json"])
        assert sorted(files) == ["model.json", name]
        assert description["format"] == model_format
        assert (description["id"], description["version"]) == (model["id"], model["version"])
        assert (description["resolution"], description["conf_threshold"]) == (640, 0.25)
        assert {category["id"] for category in description["categories"]} == set(expected)

    for state, count in states.items():
        images = await loop.images(state)
        assert len(images) == count
        for image in images:
            (box,) = [box for box in image["box_detections"] if box["model_name"] == model["version"]]
            assert (box["x"], box["y"], box["width"], box["height"]) == (1, 2, 30, 40)

    again = await trained(loop, until, base_model_version=model["version"])
    assert again["training_number"] == training["training_number"] + 1
    assert again["base_model_id"] == model["id"]
    assert len(again["models"]) == 1
    await node.stop()


async def test_an_annotator_answers(loop: Any, existing: Any, until: Any) -> None:
    """An input gets the tool's drawing; what the tool finishes is an annotation of the image."""
    await loop.generate(annotate=1, segmentation_categories=1)
    (category,) = await loop.categories()
    (image,) = await loop.images("annotate")
    node = await existing.start("annotator")
    (annotator,) = await until(lambda: loop.nodes("annotator"), "a connected annotator")
    assert annotator["status"]["capabilities"] == ["segmentation"]

    async def tell(event_type: str, **more: Any) -> dict[str, Any]:
        data = {
            "coordinate": {"x": 5, "y": 6},
            "event_type": event_type,
            "context": {"organization": "zauberzeug", "project": loop.project},
            "image_uuid": image["id"],
            "category": category,
            **more,
        }
        told = {"frontend_id": "somebody", "data": data}
        return await loop.ask("POST", f"/api/local/nodes/{annotator['id']}/user_input", json=told)

    moved = await tell("mouse_move")
    assert moved["success"]
    assert "5,6 25,6 5,26" in moved["payload"]
    before = (await loop.images("annotate"))[0]["segmentation_annotations"]
    assert before == image["segmentation_annotations"]

    assert 'data-inputs="2"' in (await tell("left_mouse_up"))["payload"]
    after = (await loop.images("annotate"))[0]["segmentation_annotations"]
    (annotation,) = [one for one in after if one not in before]
    assert annotation["shape"] == OUTLINE
    assert (annotation["category_id"], annotation["image_id"]) == (category["id"], image["id"])

    assert (await tell("key_up", key_up="Escape"))["payload"] == ""
    assert 'data-inputs="1"' in (await tell("mouse_move"))["payload"]
    left = await loop.ask("POST", f"/api/local/nodes/{annotator['id']}/user_logout", json={"frontend_id": "somebody"})
    assert left["success"]
    await node.stop()


async def test_nodes_come_back_to_a_loop_that_was_restarted(loop: Any, existing: Any, nodes: Any, until: Any) -> None:
    """The Loop is gone for a while; a trainer finds the new one without help."""
    trainer = await existing.start("trainer")
    (before,) = await until(lambda: loop.nodes("trainer"), "a connected trainer")
    assert await loop.node.stop() == 0
    folder = loop.node.log_file.parent / "data"
    await nodes.start("loop", NODE_PORT=loop.node.address[1], DATA_FOLDER=folder)
    await loop.log_in()
    (after,) = await until(lambda: loop.nodes("trainer"), "the trainer again")
    assert after["id"] == before["id"]
    await trainer.stop()
