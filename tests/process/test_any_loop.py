"""What our side asks of a Learning Loop, asked of the one that LOOP_HOST, LOOP_USERNAME and LOOP_PASSWORD name.

Without them, of the embedded one. The project is synthetic, made for the test and deleted after it.
"""

import json
import os
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
import trio
from attrs import frozen

from launching import Launcher
from loop_node.errors import LoopRefused
from loop_node.loop.address import loop_url
from loop_node.loop.client import LoopAccess, LoopClient, open_loop_client
from loop_node.loop.multipart import FilePart
from loop_node.loop.project import LoopProject
from loop_node.schemas.detections import BoxDetection, Detections, ImageMetadata
from loop_node.schemas.status import DetectorStatus, NodeState
from loop_node.schemas.wire import unstructure_flat

pytestmark = [pytest.mark.process, pytest.mark.loop]

ORGANIZATION = os.environ.get("LOOP_ORGANIZATION", "zauberzeug")
ORDER = {"inbox": 2, "complete": 2, "box_categories": 1, "trainings": 1, "box_annotations": 1}


@frozen
class AnyLoop:
    """A client that has a login, and a project made for this test."""

    access: LoopAccess
    client: LoopClient
    name: str

    @property
    def path(self) -> str:
        return f"/{ORGANIZATION}/projects/{self.name}"

    @property
    def project(self) -> LoopProject:
        return LoopProject(self.client, ORGANIZATION, self.name)

    async def ids(self, state: str) -> list[str]:
        return list((await self.client.get_json(f"{self.path}/data", params={"state": state}))["image_ids"])


@pytest.fixture
async def access(nodes: Launcher) -> LoopAccess:
    """As whom to ask, and where."""
    if host := os.environ.get("LOOP_HOST"):
        return LoopAccess(
            url=loop_url(host), username=os.environ.get("LOOP_USERNAME"), password=os.environ.get("LOOP_PASSWORD")
        )
    node = await nodes.start("loop")
    return LoopAccess(url=node.url, username="admin", password="admin")


@pytest.fixture
async def any_loop(access: LoopAccess) -> AsyncIterator[AnyLoop]:
    """With a project of two images to look at, two to learn from and a model."""
    async with open_loop_client(access) as client:
        loop = AnyLoop(access, client, f"loop_node_test_{uuid4().hex[:8]}")
        await client.send_json("POST", f"/{ORGANIZATION}/projects/generator", {"project_name": loop.name, **ORDER})
        try:
            yield loop
        finally:
            with trio.move_on_after(10, shield=True):
                await client.send_json("DELETE", loop.path, {})


async def test_a_wrong_password_is_a_refused_login(access: LoopAccess) -> None:
    """And told as such."""
    wrong = LoopAccess(url=access.url, username=access.username, password="surely not this one")
    async with open_loop_client(wrong) as client:
        with pytest.raises(LoopRefused) as caught:
            await client.get_json("/projects")
    assert caught.value.kind == "login"


async def test_images_and_their_records_are_there(any_loop: AnyLoop) -> None:
    """Ids by state, records by id, bytes by id: what a trainer asks for."""
    ids = await any_loop.ids("complete")
    assert len(ids) == ORDER["complete"]
    answer = await any_loop.client.get_json(f"{any_loop.path}/images", params={"ids": ",".join(ids)})
    assert {record["id"] for record in answer["images"]} == set(ids)
    assert all({"set", "width", "height", "box_annotations"} <= record.keys() for record in answer["images"])


async def test_an_image_is_downloaded(any_loop: AnyLoop, tmp_path: Path) -> None:
    """As the JPEG it is."""
    (image_id, *_) = await any_loop.ids("inbox")
    await any_loop.client.download(f"{any_loop.path}/images/{image_id}/main", tmp_path / "a.jpg", max_bytes=1 << 24)
    assert (tmp_path / "a.jpg").read_bytes()[:2] == b"\xff\xd8"


async def test_images_arrive_as_the_outbox_sends_them(any_loop: AnyLoop, small_jpeg: bytes) -> None:
    """In pairs, in one request, into the inbox; a broken one is refused."""
    before = await any_loop.ids("inbox")
    metadata = json.dumps(unstructure_flat(ImageMetadata(tags=["picked_by_system"]))).encode()
    parts = [
        FilePart(filename=f"image_{number}.{suffix}", content=content)
        for number in range(2)
        for suffix, content in (("json", metadata), ("jpg", small_jpeg))
    ]
    await any_loop.project.upload_images(parts)
    assert len(await any_loop.ids("inbox")) == len(before) + 2
    broken = [FilePart(filename="a.json", content=metadata), FilePart(filename="a.jpg", content=b"no image")]
    with pytest.raises(LoopRefused) as caught:
        await any_loop.project.upload_images(broken)
    assert caught.value.status == 422


async def test_models_are_listed_and_downloaded(any_loop: AnyLoop, tmp_path: Path) -> None:
    """By format; the zip says whose it is."""
    (model,) = await any_loop.project.models("mocked")
    assert await any_loop.project.models("never_heard_of") == []
    await any_loop.project.download_model(model.id, "mocked", tmp_path / "m.zip", max_bytes=1 << 24)
    with zipfile.ZipFile(tmp_path / "m.zip") as archive:
        said = json.loads(archive.read("model.json"))
    assert (said["id"], said["version"], said["project"]) == (model.id, model.version, any_loop.name)


async def test_a_detector_reports_and_asks_for_its_target(any_loop: AnyLoop) -> None:
    """A project without a target has none."""
    status = DetectorStatus(
        uuid=str(uuid4()),
        name="test",
        state=NodeState.IDLE,
        uptime=1,
        model_format="mocked",
        current_model=None,
        target_model=None,
        errors={},
        operation_mode="idle",
    )
    await any_loop.project.report_detector(status)
    target = await any_loop.project.deployment_target()
    assert target is None or target.version


async def test_detections_of_a_trainer_are_taken(any_loop: AnyLoop) -> None:
    """For an image that is there."""
    (image_id, *_) = await any_loop.ids("inbox")
    box = BoxDetection(category_name="box category 1", x=1, y=1, width=2, height=2, model_name="1.0", confidence=0.5)
    found = Detections(image_id=image_id, box_detections=[box])
    await any_loop.client.send_json("POST", f"{any_loop.path}/detections", [unstructure_flat(found)])
