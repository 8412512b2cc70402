"""The Loop's REST side over a real server: the contract as nodes use it, and the management API."""

import io
import json
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from attrs import frozen
from openapi_spec_validator import validate

from loop_node.local_loop.loop import LocalLoop, open_local_loop
from loop_node.local_loop.node import loop_app
from loop_node.local_loop.rates import Rate
from loop_node.local_loop.sockets import LoopSockets, refused
from loop_node.serving.http_server import HttpLimits, listening_url, open_listeners, serve_http
from loop_node.socketio import tuning
from loop_node.socketio.client import open_socketio
from loop_node.socketio.server import open_socketio_server
from loop_node.socketio.session import Peer
from loop_node.supervision import Health

tuning.install()

P = "/api/org/projects/proj"
L = "/api/local/org/proj"
Jpeg = Callable[..., bytes]


@frozen
class Served:
    """A running Loop, a client that has logged in and one that has not."""

    loop: LocalLoop
    client: httpx.AsyncClient
    stranger: httpx.AsyncClient
    url: str


@pytest.fixture
async def served(tmp_path: Path, options: dict[str, Any]) -> AsyncIterator[Served]:
    async with open_local_loop(tmp_path / "loop", **options) as loop, open_listeners("127.0.0.1", 0) as listeners:
        url, sockets = listening_url(listeners), LoopSockets(loop)
        async with (
            open_socketio_server(
                sockets.events(), on_connect=sockets.let_in, on_disconnect=sockets.let_go, error_ack=refused
            ) as socketio,
            trio.open_nursery() as nursery,
            httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client,
            httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as stranger,
        ):
            app = loop_app("t", loop, Health(), socketio, max_body_bytes=1_000_000)
            nursery.start_soon(
                lambda: serve_http(app, listeners, stop=trio.Event(), limits=HttpLimits(), ready=lambda: None)
            )
            assert (await client.post("/api/login", data={"username": "admin", "password": "admin"})).status_code == 200
            yield Served(loop, client, stranger, url)
            nursery.cancel_scope.cancel()


@pytest.fixture
async def client(served: Served) -> httpx.AsyncClient:
    """Logged in, with a project that has a category of each type."""
    categories = [{"name": f"some {kind}", "type": kind} for kind in ("box", "point", "segmentation", "classification")]
    order = {"organization": "org", "project": "proj", "categories": categories}
    assert (await served.client.post("/api/local/projects", json=order)).status_code == 200
    return served.client


def pair(stem: str, image: bytes, metadata: dict[str, Any] | None = None) -> list[tuple[str, tuple[str, bytes]]]:
    return [
        ("files", (f"{stem}.json", json.dumps(metadata or {}).encode())),
        ("files", (f"{stem}.jpg", image)),
    ]


def detail(answer: httpx.Response, status: int) -> Any:
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["detail"]
    return answer.json()["detail"]


async def image_ids(client: httpx.AsyncClient, state: str = "") -> list[str]:
    return (await client.get(f"{P}/data", params={"state": state} if state else {})).json()["image_ids"]


async def test_what_needs_a_login_has_one(served: Served, client: httpx.AsyncClient) -> None:
    """Every endpoint but those that nodes call without: 401 that says how, before anything else is looked at."""
    document = (await served.stranger.get("/openapi.json")).json()
    validate(document)
    open_to_all = {
        ("get", "/api/status"),
        ("post", "/api/login"),
        ("post", "/api/logout"),
        ("post", "/api/{organization}/projects/{project}/images"),
        ("post", "/api/{organization}/projects/{project}/detectors"),
        ("get", "/api/{organization}/projects/{project}/deployment/target"),
        ("get", "/api/{organization}/projects/{project}/models/{model_id}/{model_format}/file"),
    }
    for path, methods in document["paths"].items():
        if not path.startswith("/api/"):
            continue
        for method in methods:
            concrete = path
            for part in ("organization", "project", "model_id", "model_format", "image_id", "node_id"):
                concrete = concrete.replace(f"{{{part}}}", "x")
            answer = await served.stranger.request(method, concrete.replace("{number}", "1"))
            if (method, path) in open_to_all:
                assert answer.status_code != 401 or path == "/api/login", (method, path)
            else:
                assert "POST /api/login" in detail(answer, 401), (method, path)


async def test_a_wrong_login_does_not_tell_what_is_wrong(served: Served) -> None:
    """The same words for an unknown user; what is no form is a 422 or 400."""
    for form in ({"username": "admin", "password": "x"}, {"username": "x", "password": "admin"}):
        assert detail(await served.stranger.post("/api/login", data=form), 401) == "wrong user name or password"
    assert "password: is missing" in detail(await served.stranger.post("/api/login", data={"username": "a"}), 422)
    as_files = {"username": (None, "admin"), "password": (None, "admin")}
    assert (await served.stranger.post("/api/login", files=as_files)).status_code == 200
    assert (await served.stranger.get("/api/projects")).status_code == 200
    await served.stranger.post("/api/logout")
    assert (await served.stranger.get("/api/projects")).status_code == 401


async def test_a_batch_as_the_outbox_sends_it(served: Served, client: httpx.AsyncClient, jpeg: Jpeg) -> None:
    """Without a login; then the ids, the records and the bytes are there."""
    box = {"category_name": "some box", "x": 1, "y": 2, "width": 3, "height": 4, "model_name": "1.0", "confidence": 0.4}
    metadata = {"box_detections": [box], "tags": ["uncertain"], "source": "s", "created": "2026-11-23_02:34:25.998"}
    image = jpeg()
    files = [*pair("image_2026-11-23_02%3A34%3A25.998010", image, metadata), *pair("image_b", jpeg(20, 10))]
    answer = await served.stranger.post(f"{P}/images", files=files)
    assert answer.status_code == 200
    ids = answer.json()["image_ids"]
    assert await image_ids(client, "inbox") == ids
    assert await image_ids(client, "complete") == []
    records = (await client.get(f"{P}/images", params={"ids": ",".join([*ids, "nowhere"])})).json()["images"]
    assert [record["id"] for record in records] == ids
    assert records[0]["box_detections"][0]["model_name"] == "1.0"
    assert records[0]["tags"] == [{"id": "uncertain", "name": "uncertain"}]
    answer = await client.get(f"{P}/images/{ids[0]}/main")
    assert (answer.content, answer.headers["content-type"]) == (image, "image/jpeg")
    assert (await client.get(f"/api{records[0]['thumbnail']}")).content[:2] == b"\xff\xd8"
    by_model = {"ids": ids[0], "model_version": "2.0"}
    assert (await client.get(f"{P}/images", params=by_model)).json()["images"][0]["box_detections"] == []


async def test_a_batch_with_a_fault_leaves_nothing(served: Served, client: httpx.AsyncClient, jpeg: Jpeg) -> None:
    """A broken pair, a broken image, broken metadata, a broken body, too large a body: named, and none is kept."""
    good = pair("good", jpeg())
    for files, named in (
        (good[:1], "'good' has no .jpg"),
        ([*good, *pair("bad", b"no jpeg")], "'bad.jpg'"),
        ([*good, ("files", ("bad.json", b"{")), ("files", ("bad.jpg", jpeg()))], "'bad.json'"),
        ([*good, *pair("good", jpeg())], "'good' came twice"),
        ([("other", ("a.jpg", jpeg()))], "no image came"),
    ):
        assert named in detail(await served.stranger.post(f"{P}/images", files=files), 422)
    broken = {"content-type": "multipart/form-data; boundary=b"}
    assert "multipart" in detail(
        await served.stranger.post(f"{P}/images", content=b"--b\r\n\r\nx", headers=broken), 400
    )
    large = pair("large", jpeg() + bytes(21_000_000))
    detail(await served.stranger.post(f"{P}/images", files=large), 413)
    detail(await served.stranger.post("/api/org/projects/nowhere/images", files=good), 404)
    assert await image_ids(client) == []
    assert list(served.loop.folders.incoming.iterdir()) == []


async def test_uploads_can_be_limited(served: Served, client: httpx.AsyncClient, jpeg: Jpeg) -> None:
    """Then 429 says when to come again."""
    served.loop.uploads = Rate(1)
    assert (await served.stranger.post(f"{P}/images", files=pair("a", jpeg()))).status_code == 200
    answer = await served.stranger.post(f"{P}/images", files=pair("b", jpeg()))
    detail(answer, 429)
    assert 1 <= int(answer.headers["Retry-After"]) <= 61


def model_zip(**entries: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name.replace("_DOT_", "."), content)
    return buffer.getvalue()


async def test_the_walk_of_a_model_through_formats(served: Served, client: httpx.AsyncClient) -> None:
    """Uploaded in one format, kept in another: listed in each, downloaded without a login, with its name."""
    uploaded = await client.post(f"{P}/format_a", files={"files": ("my_model.zip", model_zip(w_DOT_bin="x"))})
    assert uploaded.json()["version"] == "1.0"
    model_id = uploaded.json()["id"]
    (model,) = (await client.get(f"{P}/models", params={"format": "format_a"})).json()["models"]
    assert (model["id"], model["version"], model["formats"]) == (model_id, "1.0", ["format_a"])
    assert model["comment"].startswith("uploaded at 20")
    assert (await client.get(f"{P}/models", params={"format": "format_b"})).json() == {"models": []}
    loose = [("files", ("weights.bin", b"y")), ("files", ("model.json", b'{"resolution": 1}'))]
    assert (await client.put(f"{P}/models/{model_id}/format_b/file", files=loose)).json()["id"] == model_id
    again = await client.put(f"{P}/models/{model_id}/format_b/file", files=loose)
    assert detail(again, 409) == {"id": model_id}
    answer = await served.stranger.get(f"{P}/models/{model_id}/format_b/file")
    assert answer.headers["content-disposition"].endswith(f'filename="{model_id}_1.0_format_b.zip"')
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert json.loads(archive.read("model.json"))["resolution"] == 1
        assert archive.read("weights.bin") == b"y"


async def test_a_zip_as_the_body_is_a_model_too(client: httpx.AsyncClient) -> None:
    """For `curl --data-binary @model.zip`."""
    headers = {"content-type": "application/zip"}
    answer = await client.post(f"{P}/openvino", content=model_zip(a="x"), headers=headers)
    assert answer.json()["version"] == "1.0"


async def test_what_is_plainly_no_model_is_kept_with_a_warning(client: httpx.AsyncClient) -> None:
    """For the format that is known here; others are for those who read them."""
    for model_format, content, is_doubted in (
        ("openvino", model_zip(photo_DOT_jpg="x"), True),
        ("openvino", model_zip(model_DOT_XML="x"), False),
        ("openvino", model_zip(model_DOT_onnx="x"), False),
        ("mocked", model_zip(photo_DOT_jpg="x"), False),
    ):
        kept = (await client.post(f"{P}/{model_format}", files={"files": ("a.zip", content)})).json()
        assert (".onnx or .tflite" in kept.get("warning", "")) is is_doubted


@pytest.mark.parametrize(
    "path", ["nowhere/main", "images/x", "models/x/f/file", "trainings/7/models/latest/f/file", "deployment/target"]
)
async def test_what_is_not_there_is_a_404_that_says_what(client: httpx.AsyncClient, path: str) -> None:
    """For every kind of id."""
    method = "PUT" if "latest" in path else "GET"
    files = {"files": ("a.zip", model_zip(a="x"))} if method == "PUT" else None
    answer = await client.request(method, f"{P}/{path}", files=files)
    assert answer.status_code in (404, 405)
    for unknown in (f"{P}/images/nowhere/main", "/api/org/projects/nowhere", f"{L}/trainings/7", "/api/local/org/x"):
        assert detail(await client.get(unknown), 404)


@pytest.mark.parametrize("model_format", ["..", "a b", "a%2Fb", ".hidden", "x" * 101])
async def test_a_format_is_a_plain_name(client: httpx.AsyncClient, model_format: str) -> None:
    """It becomes a file's name."""
    answer = await client.post(f"{P}/{model_format}", files={"files": ("a.zip", model_zip(a="x"))})
    assert answer.status_code in (404, 405, 422)
    assert (await client.get(f"{P}/models")).json() == {"models": []}


async def test_a_detector_tells_and_asks_without_a_login(served: Served, client: httpx.AsyncClient) -> None:
    """Its status is listed; the target is what was chosen."""
    status = {
        "uuid": "u1",
        "name": "cam",
        "state": "online",
        "uptime": 5,
        "model_format": "f",
        "current_model": None,
        "target_model": "1.0",
        "errors": {},
        "operation_mode": "idle",
        "node_version": "1",
    }
    assert (await served.stranger.post(f"{P}/detectors", json=status)).status_code == 200
    (node,) = (await client.get("/api/local/nodes")).json()["nodes"]
    assert (node["kind"], node["name"], node["project"], node["connected"]) == ("detector", "cam", "proj", False)
    assert node["status"]["operation_mode"] == "idle"
    assert "uuid" in detail(await served.stranger.post(f"{P}/detectors", json={"name": "x"}), 422)
    assert "JSON" in detail(await served.stranger.post(f"{P}/detectors", content=b"{"), 400)
    detail(await served.stranger.get(f"{P}/deployment/target"), 404)
    kept = (await client.post(f"{P}/f", files={"files": ("a.zip", model_zip(a="x"))})).json()
    assert (await client.put(f"{L}/deployment/target", json={"version": "1.0"})).status_code == 200
    target = (await served.stranger.get(f"{P}/deployment/target")).json()
    assert target == {"model_uuid": kept["id"], "version": "1.0"}
    assert "1.1" in detail(await client.put(f"{L}/deployment/target", json={"version": "1.1"}), 404)


async def test_images_are_imported_with_their_annotations(client: httpx.AsyncClient, jpeg: Jpeg) -> None:
    """State, set and tags for all; COCO's by file name; what does not fit is named and leaves nothing."""
    coco = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}, {"id": 2, "file_name": "gone.jpg"}],
        "categories": [{"id": 1, "name": "some box"}, {"id": 2, "name": "some segmentation"}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]},
            {"image_id": 1, "category_id": 2, "segmentation": [[0, 0, 9, 0, 9, 9]], "bbox": [0, 0, 9, 9]},
        ],
    }
    files = [
        ("files", ("a.jpg", jpeg())),
        ("files", ("b.jpg", jpeg())),
        ("annotations", ("coco.json", json.dumps(coco).encode())),
    ]
    form = {"state": "complete", "set": "test", "tags": "x,y"}
    answer = (await client.post(f"{L}/import", files=files, data=form)).json()
    assert (answer["imported"], answer["annotations_without_image"]) == (2, ["gone.jpg"])
    ids = await image_ids(client, "complete")
    first, second = (await client.get(f"{P}/images", params={"ids": ",".join(ids)})).json()["images"]
    assert (first["set"], [tag["name"] for tag in first["tags"]]) == ("test", ["x", "y"])
    assert first["box_annotations"][0]["width"] == 3
    assert first["segmentation_annotations"][0]["shape"]["points"][2] == {"x": 9, "y": 9}
    assert second["box_annotations"] == []
    wrong = {**coco, "categories": [{"id": 1, "name": "unheard of"}, {"id": 2, "name": "some segmentation"}]}
    bad = [files[0], ("annotations", ("coco.json", json.dumps(wrong).encode()))]
    assert "unheard of" in detail(await client.post(f"{L}/import", files=bad), 422)
    assert "state" in detail(await client.post(f"{L}/import", files=files[:1], data={"state": "nowhere"}), 422)
    assert "'c.jpg'" in detail(await client.post(f"{L}/import", files=[("files", ("c.jpg", b"x"))]), 422)
    assert len(await image_ids(client)) == 2


async def test_people_annotate_and_move_images(client: httpx.AsyncClient, jpeg: Jpeg) -> None:
    """By category name or id; all or none of the images; a category that is not there is named."""
    (one, two) = (await client.post(f"{L}/import", files=[("files", (f"{name}.jpg", jpeg())) for name in "ab"])).json()[
        "image_ids"
    ]
    given = {"point_annotations": [{"x": 1.5, "y": 2, "category_name": "some point"}]}
    assert (await client.put(f"{L}/images/{one}/annotations", json=given)).status_code == 200
    (record,) = (await client.get(f"{P}/images", params={"ids": one})).json()["images"]
    assert record["point_annotations"][0]["x"] == 1.5
    given["point_annotations"][0]["category_name"] = "cow"
    assert "'cow'" in detail(await client.put(f"{L}/images/{one}/annotations", json=given), 422)
    assert (await client.put(f"{L}/images/state", json={"ids": [one, two], "state": "trash"})).json() == {"moved": 2}
    assert await image_ids(client) == []
    assert await image_ids(client, "trash") == [one, two]
    detail(await client.put(f"{L}/images/state", json={"ids": [one, "gone"], "state": "inbox"}), 404)
    assert await image_ids(client, "trash") == [one, two]
    assert "state" in detail(await client.get(f"{P}/data", params={"state": "limbo"}), 422)


async def test_what_people_write_is_taken_by_the_letter(client: httpx.AsyncClient, jpeg: Jpeg) -> None:
    """A typo costs no annotations; what lies outside of the image is named; nodes may say more than we know."""
    (one,) = (await client.post(f"{L}/import", files={"files": ("a.jpg", jpeg(40, 30))})).json()["image_ids"]
    url = f"{L}/images/{one}/annotations"
    box = {"x": 1, "y": 2, "width": 3, "height": 4, "category_name": "some box"}
    assert (await client.put(url, json={"box_annotations": [box]})).status_code == 200
    outline = {"shape": "0,0,9,9", "category_name": "some segmentation"}
    for wrong, named in (
        ({"box_annotation": [box]}, "box_annotation: there is no such field"),
        ({"box_annotations": [box | {"colour": "red"}]}, "box_annotations[0].colour"),
        ({"box_annotations": [box | {"width": 0}]}, "box_annotations[0]"),
        ({"box_annotations": [box | {"x": 40}]}, "box_annotations[0]"),
        ({"point_annotations": [{"x": -1, "y": 0, "category_name": "some point"}]}, "point_annotations[0]"),
        ({"segmentation_annotations": [outline]}, "segmentation_annotations[0]"),
    ):
        assert named in detail(await client.put(url, json=wrong), 422)
    detail(await client.put(url, content=b""), 400)
    (record,) = (await client.get(f"{P}/images", params={"ids": one})).json()["images"]
    assert len(record["box_annotations"]) == 1
    assert "epochs" in detail(await client.post(f"{L}/trainings", json={"epochs": 3}), 422)
    assert "no trainer" in detail(await client.post(f"{L}/trainings"), 409)
    bogus = await client.post(f"{L}/import", files={"files": ("a.jpg", jpeg())}, data={"bogus": "1"})
    assert "'bogus'" in detail(bogus, 422)


async def test_uploads_leave_room_for_people(served: Served, client: httpx.AsyncClient, jpeg: Jpeg) -> None:
    """507 with what to do; logins and deletes still work."""
    served.loop.min_free_bytes = 1 << 60
    for answer in (
        await served.stranger.post(f"{P}/images", files=pair("a", jpeg())),
        await client.post(f"{L}/import", files={"files": ("a.jpg", jpeg())}),
        await client.post(f"{P}/openvino", files={"files": ("a.zip", model_zip(a="x"))}),
        await client.post("/api/org/projects/generator", json={"project_name": "made", "inbox": 1}),
    ):
        assert "MIN_FREE_DISK_BYTES" in detail(answer, 507)
    assert (
        await served.stranger.post("/api/login", data={"username": "admin", "password": "admin"})
    ).status_code == 200
    assert (await client.delete(L)).status_code == 200


async def test_annotations_may_come_back_as_they_were_read(client: httpx.AsyncClient, jpeg: Jpeg) -> None:
    """Who changes one of them reads all and puts all."""
    (one,) = (await client.post(f"{L}/import", files={"files": ("a.jpg", jpeg(40, 30))})).json()["image_ids"]
    given = {
        "box_annotations": [{"x": 1, "y": 1, "width": 2, "height": 2, "category_name": "some box"}],
        "point_annotations": [{"x": 1, "y": 2, "category_name": "some point"}],
        "segmentation_annotations": [{"shape": "1,1,9,1,9,9", "category_name": "some segmentation"}],
        "classification_annotation": {"category_name": "some classification"},
    }
    for _ in range(2):
        assert (await client.put(f"{L}/images/{one}/annotations", json=given)).status_code == 200
        (record,) = (await client.get(f"{P}/images", params={"ids": one})).json()["images"]
        assert record["box_annotations"][0]["image_id"] == one
        given = {name: record[name] for name in given}


async def test_detections_are_attached_once(client: httpx.AsyncClient, jpeg: Jpeg) -> None:
    """The same again takes the place of what was there; images that have gone are passed over, unless all have."""
    (one,) = (await client.post(f"{L}/import", files={"files": ("a.jpg", jpeg())})).json()["image_ids"]
    box = {"category_name": "some box", "x": 1, "y": 2, "width": 3, "height": 4, "model_name": "1.0", "confidence": 0.4}
    given = [{"image_id": one, "box_detections": [box]}, {"image_id": "gone", "box_detections": [box]}]
    for _ in range(2):
        assert (await client.post(f"{P}/detections", json=given)).json() == {"unknown_image_ids": ["gone"]}
    (record,) = (await client.get(f"{P}/images", params={"ids": one})).json()["images"]
    assert len(record["box_detections"]) == 1
    detail(await client.post(f"{P}/detections", json=given[1:]), 404)
    assert "image_id" in detail(await client.post(f"{P}/detections", json=[{"box_detections": [box]}]), 422)


class Trainer:
    """A trainer made of paper: takes trainings, and reports what it is told to."""

    def __init__(self) -> None:
        self.begun: list[Any] = []
        self.ended: list[str] = []
        self.refusal: str | None = None
        self.server: Peer

    async def begin(self, _peer: Peer, organization: str, project: str, details: Any) -> Any:
        self.begun.append((organization, project, details))
        return {"success": self.refusal is None, "error_msg": self.refusal, "payload": None}

    async def stop(self, _peer: Peer) -> Any:
        self.ended.append("stop")
        return {"success": True, "error_msg": None, "payload": None}

    async def report(self, state: str | None, **more: Any) -> Any:
        status = {"id": "t1", "name": "trainer one", "state": state, "uptime": 1.0, "errors": {}, "progress": None}
        return await self.server.call("update_trainer", status | more)


@pytest.fixture
async def trainer(served: Served, client: httpx.AsyncClient) -> AsyncIterator[Trainer]:
    trainer = Trainer()
    async with open_socketio(
        served.url,
        headers={"nodeType": "trainer"},
        cookies=dict(client.cookies),
        handlers={"begin_training": trainer.begin, "stop_training": trainer.stop},
    ) as trainer.server:
        assert (await trainer.report("idle"))["success"]
        yield trainer


async def test_a_training_from_its_beginning_to_its_end(
    client: httpx.AsyncClient, trainer: Trainer, caplog: pytest.LogCaptureFixture
) -> None:
    """Asked for, run, reported, its model kept in two formats, and over."""
    answer = await client.post(f"{L}/trainings", json={"hyperparameters": {"epochs": 3}, "model_variant": "small"})
    assert answer.json()["training_number"] == 1
    ((organization, project, details),) = trainer.begun
    assert (organization, project) == ("org", "proj")
    assert (details["training_number"], details["model_variant"], details["base_model_uuid"]) == (1, "small", None)
    assert len(details["categories"]) == 4
    assert "busy with training 1" in detail(await client.post(f"{L}/trainings", json={}), 409)
    await trainer.report("idle")  # from before it took the training
    await trainer.report("running", progress=7)
    assert (await client.get(f"{L}/trainings/1")).json()["progress"] == 1
    await trainer.report("running", progress=0.5, errors={"run_training": "hot"})
    said = (await client.get(f"{L}/trainings/1")).json()
    assert (said["state"], said["progress"], said["errors"], said["ended"]) == (
        "running",
        0.5,
        {"run_training": "hot"},
        None,
    )
    matrix = {details["categories"][0]["id"]: {"tp": 1, "fp": 2, "fn": 3}}
    report = {"trainer_id": "t1", "trainer_name": "trainer one", "confusion_matrix": matrix, "best_epoch": 2}
    for _ in range(2):  # the same best, after its answer was lost, opens no second version
        assert (await trainer.server.call("update_training", "org", "proj", report))["success"]
    latest = f"{P}/trainings/1/models/latest"
    files = [("files", ("w.bin", b"x")), ("files", ("model.json", b'{"categories": []}'))]
    kept = (await client.put(f"{latest}/mocked/file", files=files)).json()
    assert (await client.put(f"{latest}/other/file", files=files)).json() == kept
    assert detail(await client.put(f"{latest}/other/file", files=files), 409) == {"id": kept["id"]}
    await trainer.report("detecting")
    with caplog.at_level("INFO"):
        await trainer.report("idle")
    assert "training 1 of trainer trainer one is over" in caplog.text
    said = (await client.get(f"{L}/trainings/1")).json()
    assert said["state"] == "ready_for_cleanup"
    assert said["ended"]
    assert [(model["version"], model["formats"]) for model in said["models"]] == [("1.0", ["mocked", "other"])]
    assert [one["confusion_matrix"] for one in said["metrics"]] == [matrix]
    charts = (await client.get(f"{P}/trainings")).json()
    assert charts == {"charts": [{"training_number": 1, "data": [{"model_id": kept["id"], "version": "1.0"}]}]}
    assert "is over" in detail(await client.post(f"{L}/trainings/1/stop"), 409)
    order = {"base_model_version": "1.0"}
    assert (await client.post(f"{L}/trainings", json=order)).json()["training_number"] == 2
    assert trainer.begun[-1][2]["base_model_uuid"] == kept["id"]
    assert (await client.post(f"{L}/trainings/2/stop")).status_code == 200
    assert trainer.ended == ["stop"]


async def test_a_training_whose_trainer_is_gone_can_be_aborted(
    served: Served, client: httpx.AsyncClient, trainer: Trainer
) -> None:
    """And not be stopped: its model is with the trainer."""
    await client.post(f"{L}/trainings", json={})
    await trainer.report("running")
    served.loop.links.remove(next(peer for peer in served.loop.links._links))
    assert "not connected" in detail(await client.post(f"{L}/trainings/1/stop"), 409)
    assert (await client.post(f"{L}/trainings/1/abort")).status_code == 200
    said = (await client.get(f"{L}/trainings/1")).json()
    assert (said["state"], bool(said["ended"])) == ("aborted", True)


async def test_a_training_that_cannot_begin_says_why(client: httpx.AsyncClient) -> None:
    """No trainer, one that is not there, a base that is not there: nothing is written down."""
    assert "no trainer" in detail(await client.post(f"{L}/trainings", json={}), 409)
    assert (await client.get(f"{L}/trainings")).json() == {"trainings": []}


async def test_a_trainer_may_refuse(client: httpx.AsyncClient, trainer: Trainer) -> None:
    """The training has failed then, with the trainer's words."""
    trainer.refusal = "no disk"
    assert "no disk" in detail(await client.post(f"{L}/trainings", json={}), 409)
    said = (await client.get(f"{L}/trainings/1")).json()
    assert (said["state"], "no disk" in said["errors"]["training"]) == ("failed", True)
    detail(await client.post(f"{L}/trainings", json={"trainer": "another"}), 409)
    detail(await client.post(f"{L}/trainings", json={"base_model_version": "9.0"}), 404)


async def test_events_that_fail_are_acknowledged(trainer: Trainer) -> None:
    """With success false and the reason."""
    for event, args in (
        ("update_trainer", [{}]),
        ("update_training", ["org", "proj", {"trainer_id": "t1"}]),
        ("update_training", ["org", "nowhere", {"trainer_id": "t1"}]),
        ("update_segmentation_annotation", ["org", "proj", {}]),
        ("update_annotation_node", ["x"]),
        ("unheard_of", []),
    ):
        answer = await trainer.server.call(event, *args)
        assert answer["success"] is False, event
        assert answer["error_msg"], event


@pytest.mark.parametrize("headers", [{}, {"nodeType": "toaster"}, {"nodeType": "trainer"}])
async def test_only_known_nodes_with_a_login_get_in(served: Served, headers: dict[str, str]) -> None:
    """The refusal says what is missing."""
    with pytest.raises(ConnectionRefusedError, match=r"nodeType|login"):
        async with open_socketio(served.url, headers=headers):
            pytest.fail("let in")


async def test_a_detector_of_old_hears_its_target(served: Served, client: httpx.AsyncClient) -> None:
    """Over Socket.IO and without a login."""
    status = {"id": "d1", "name": "old", "model_format": "f", "operation_mode": "idle"}
    async with open_socketio(served.url, headers={"nodeType": "detector", "organization": "org"}) as server:
        assert (await server.call("update_detector", "org", "proj", status))["success"] is False
        kept = (await client.post(f"{P}/f", files={"files": ("a.zip", model_zip(a="x"))})).json()
        await client.put(f"{L}/deployment/target", json={"version": "1.0"})
        answer = await server.call("update_detector", "org", "proj", status)
    assert answer["payload"] == {"target_model_id": kept["id"], "target_model_version": "1.0"}


async def test_an_annotator_is_asked_and_its_outline_is_kept(
    served: Served, client: httpx.AsyncClient, jpeg: Jpeg
) -> None:
    """An input goes to it and its answer comes back; what it finishes lies on the image."""
    (image_id,) = (await client.post(f"{L}/import", files={"files": ("a.jpg", jpeg())})).json()["image_ids"]
    category = (await client.get(P)).json()["categories"][2]
    heard = []

    async def on_input(_peer: Peer, given: Any) -> Any:
        heard.append(given)
        return {"success": True, "error_msg": None, "payload": "<svg/>"}

    async def on_logout(_peer: Peer, frontend: Any) -> Any:
        heard.append(frontend)
        return {"success": True, "error_msg": None, "payload": None}

    given = {
        "frontend_id": "f1",
        "data": {
            "coordinate": {"x": 1, "y": 2},
            "event_type": "left_mouse_down",
            "context": {"organization": "org", "project": "proj"},
            "image_uuid": image_id,
            "category": category,
        },
    }
    url = "/api/local/nodes/a1"
    detail(await client.post(f"{url}/user_input", json=given), 404)
    async with open_socketio(
        served.url,
        headers={"nodeType": "annotation_node"},
        cookies=dict(client.cookies),
        handlers={"handle_user_input": on_input, "user_logout": on_logout},
    ) as server:
        assert (await server.call("update_annotation_node", {"id": "a1", "name": "tool"}))["success"]
        (node,) = (await client.get("/api/local/nodes")).json()["nodes"]
        assert (node["kind"], node["connected"]) == ("annotator", True)
        assert (await client.post(f"{url}/user_input", json=given)).json()["payload"] == "<svg/>"
        assert (await client.post(f"{url}/user_logout", json={"frontend_id": "f1"})).json()["success"]
        assert heard[0]["data"]["coordinate"] == {"x": 1, "y": 2}
        assert heard[1] == "f1"
        outline = {"points": [{"x": 0, "y": 0}, {"x": 9, "y": 0}, {"x": 9, "y": 9}]}
        annotation = {"id": "s1", "shape": outline, "image_id": image_id, "category_id": category["id"]}
        for _ in range(2):
            assert (await server.call("update_segmentation_annotation", "org", "proj", annotation))["success"]
    (record,) = (await client.get(f"{P}/images", params={"ids": image_id})).json()["images"]
    assert [(one["id"], one["shape"]) for one in record["segmentation_annotations"]] == [("s1", outline)]


async def test_novelty_scores_are_kept(client: httpx.AsyncClient, jpeg: Jpeg) -> None:
    """An object of image id and score."""
    (one,) = (await client.post(f"{L}/import", files={"files": ("a.jpg", jpeg())})).json()["image_ids"]
    assert (await client.put(f"{P}/images/novelty_scores", json={one: 7})).status_code == 200
    (record,) = (await client.get(f"{P}/images", params={"ids": one})).json()["images"]
    assert record["novelty_score"] == 7


async def test_a_project_is_deleted_with_its_images(served: Served, client: httpx.AsyncClient, jpeg: Jpeg) -> None:
    """Through either door; unknown ones are a 404, one that is there already a 409."""
    await client.post(f"{L}/import", files={"files": ("a.jpg", jpeg())})
    order = {"organization": "org", "project": "proj"}
    detail(await client.post("/api/local/projects", json=order), 409)
    assert (await client.get(L)).json()["images"]["inbox"] == 1
    assert (await client.delete(P, params={"keep_images": "true"})).status_code == 200
    detail(await client.delete(L), 404)
    assert (await client.get("/api/projects")).json() == {"projects": []}
    assert len(list(served.loop.folders.kept_images("org", "proj").iterdir())) == 1
    assert (await client.post("/api/local/projects", json=order)).status_code == 200
    assert (await client.delete(L)).status_code == 200


async def test_a_synthetic_project_is_made_to_order(served: Served) -> None:
    """The same each time; usable when it is answered; a name that is taken is a conflict."""
    order = {"project_name": "Made_Up", "inbox": 1, "complete": 2, "box_categories": 2, "trainings": 1, "thumbs": False}
    more = {"image_style": "plain", "box_annotations": 2, "box_detections": 1, "tags": 1, "point_categories": 1}
    made = (await served.client.post("/api/org/projects/generator", json=order | more)).json()
    assert (made["project_id"], made["name"]) == ("made_up", "Made_Up")
    project = "/api/org/projects/made_up"
    ids = (await served.client.get(f"{project}/data", params={"state": "complete"})).json()["image_ids"]
    records = (await served.client.get(f"{project}/images", params={"ids": ",".join(ids)})).json()["images"]
    assert [len(record["box_annotations"]) for record in records] == [2, 2]
    (model,) = (await served.client.get(f"{project}/models?format=mocked")).json()["models"]
    assert model["version"] == "1.0"
    detail(await served.client.post("/api/org/projects/generator", json=order), 409)
    for wrong in ({"inbox": 1}, {"project_name": "x", "inbox": -1}, {"project_name": "x", "image_style": "ugly"}):
        detail(await served.client.post("/api/org/projects/generator", json=wrong), 422)
    assert (await served.client.delete(project, params={"keep_images": "true"})).status_code == 200


@pytest.mark.parametrize("body", ["null", "1", "[]", '"x"', "[{}]"])
async def test_another_shape_than_an_object_is_refused(client: httpx.AsyncClient, body: str) -> None:
    """As any other body that is not what it should be."""
    answer = await client.put(f"{P}/images/novelty_scores", content=body)
    assert answer.status_code == 422
    assert "an object is needed" in answer.json()["detail"]


async def test_numbers_that_no_training_can_have_are_not_there(client: httpx.AsyncClient) -> None:
    """Larger ones than the database can hold too."""
    for number in ("2147483648", "9" * 30, "9" * 5000):
        for method, path in (
            ("GET", f"{L}/trainings/{number}"),
            ("POST", f"{L}/trainings/{number}/stop"),
            ("PUT", f"{P}/trainings/{number}/models/latest/x/file"),
        ):
            assert (await client.request(method, path)).status_code == 404


async def test_metadata_of_any_depth_are_refused_or_kept(client: httpx.AsyncClient, jpeg: Jpeg) -> None:
    """The reader gives up where the stack ends."""
    deep = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    files = [("files", ("a.jpg", jpeg())), ("files", ("a.json", deep))]
    answer = await client.post(f"{P}/images", files=files)
    assert (answer.status_code, "a.json" in answer.json()["detail"]) == (422, True)


async def test_a_project_has_one_path(served: Served) -> None:
    """An organization called `local` would share its paths with the management API."""
    order = {"organization": "local", "project": "x"}
    assert (await served.client.post("/api/local/projects", json=order)).status_code == 422
    assert (await served.client.post("/api/local/projects/generator", json={"project_name": "x"})).status_code == 422
    long = {"organization": "\N{GRINNING FACE}" * 64, "project": "x"}  # 256 bytes: no folder could be called so
    assert (await served.client.post("/api/local/projects", json=long)).status_code == 422


async def test_a_detector_does_not_speak_for_others(client: httpx.AsyncClient, served: Served) -> None:
    """It has shown no login."""
    detectors = {"nodeType": "detector"}
    async with open_socketio(served.url, headers=detectors, handlers={}) as server:
        for event, args in (
            ("update_trainer", [{"id": "t1", "name": "t", "state": "idle", "uptime": 1.0}]),
            ("update_training", ["org", "proj", {"trainer_id": "t1"}]),
            ("update_annotation_node", [{}]),
            ("update_segmentation_annotation", ["org", "proj", {}]),
        ):
            said = await server.call(event, *args)
            assert isinstance(said, dict)
            assert (said["success"], "header nodeType" in str(said["error_msg"])) == (False, True)
    assert (await client.get("/api/local/nodes")).json() == {"nodes": []}


async def test_of_two_who_delete_a_project_one_does(client: httpx.AsyncClient) -> None:
    """And nobody trips over the other's work."""
    answers: list[int] = []

    async def delete() -> None:
        answers.append((await client.delete(f"{P}?keep_images=true")).status_code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(delete)
        nursery.start_soon(delete)
    assert sorted(answers) == [200, 404]


async def test_a_large_body_is_read_and_its_faults_are_few(client: httpx.AsyncClient) -> None:
    """A megabyte of what it should not be is refused in no time."""
    answer = await client.post(f"{P}/detections", content=b"[" + b"[]," * 300_000 + b"1]")
    assert answer.status_code == 422
    assert len(answer.json()["detail"]) < 2000
    assert (await client.post(f"{P}/detections", content=b"[" + b" " * 100_000 + b"]")).status_code == 200


async def test_what_comes_without_a_login_is_bounded(client: httpx.AsyncClient, served: Served) -> None:
    """A status of a detector or a login that is larger than any is refused."""
    said = {"uuid": "u", "name": "n" * 300_000}
    assert (await served.stranger.post(f"{P}/detectors", json=said)).status_code == 413
    form = {"username": "admin", "password": "x" * 100_000}
    assert (await served.stranger.post("/api/login", data=form)).status_code == 413
