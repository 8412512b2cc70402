"""The embedded Learning Loop as a process of its own: started, asked by its verbs, killed."""

import io
import json
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from launching import Launcher, Node

pytestmark = pytest.mark.process

Jpeg = Callable[..., bytes]
LOGIN = {"username": "admin", "password": "admin"}
KILLS = 5
UPLOADERS = 4


def verb(node: Node, *arguments: str, expect: int = 0) -> str:
    """`loop-node loop ...` as a person types it; what it says."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(node.log_file.parent),
        "LOOP_HOST": node.url,
        "PYTHONPATH": str(Path(sys.modules["loop_node"].__file__ or "").parents[1]),
    }
    done = subprocess.run(
        [sys.executable, "-m", "loop_node", "loop", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


async def test_people_use_it_by_its_verbs(nodes: Launcher, tmp_path: Path, jpeg: Jpeg) -> None:
    """Project, import with COCO, images, models, target, nodes: each verb, and each one's refusal."""
    node = await nodes.start("loop")

    async def said(*arguments: str, expect: int = 0) -> str:
        return await trio.to_thread.run_sync(lambda: verb(node, *arguments, expect=expect))

    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(60):
        (photos / f"{index}.jpg").write_bytes(jpeg(color=(index, 0, 0)))
    coco = {
        "images": [{"id": index, "file_name": f"photos/{index}.jpg"} for index in range(60)]
        + [{"id": 99, "file_name": "x"}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"image_id": index, "category_id": 1, "bbox": [1, 2, 3, 4]} for index in range(60)],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr("weights.bin", b"w" * 1000)
    assert "made org/proj" in await said("project", "create", "org/proj", "--category", "cat", "--category", "d:point")
    assert "org/proj: cat (box), d (point)" in await said("project", "ls")
    options = ["--annotations", str(tmp_path / "coco.json"), "--state", "complete", "--tag", "t"]
    answer = await said("import", "org/proj", str(photos), *options)
    assert "imported 60 images" in answer
    assert "1 image of the COCO file was not among them" in answer
    assert "complete   60" in await said("images", "count", "org/proj")
    assert "moved 60 images to review" in await said(
        "images", "move", "org/proj", "--state", "complete", "--to", "review"
    )
    assert len((await said("images", "ls", "org/proj", "--state", "review")).split()) == 60
    assert "wrote 60 images" in await said("images", "download", "org/proj", str(tmp_path / "back"))
    again = await said("images", "download", "org/proj", str(tmp_path / "back"))
    assert "wrote no images" in again
    assert "(there already: 60)" in again
    assert sorted(file.read_bytes() for file in (tmp_path / "back").iterdir()) == sorted(
        file.read_bytes() for file in photos.iterdir()
    )
    answer = await said("model", "upload", "org/proj", str(tmp_path / "model.zip"))
    assert "version 1.0" in answer
    assert "warning: there is no .xml" in answer
    await said("model", "target", "org/proj", "1.0")
    assert "<- deployment target" in await said("model", "ls", "org/proj")
    await said("model", "download", "org/proj", "1.0", str(tmp_path / "again.zip"))
    assert zipfile.ZipFile(tmp_path / "again.zip").namelist() == ["weights.bin", "model.json"]
    assert await said("nodes") == "no nodes\n"
    assert await said("train", "ls", "org/proj") == "no trainings\n"
    for arguments, named in (
        (["train", "begin", "org/proj"], "no trainer"),
        (["model", "target", "org/proj", "7.0"], "no model of version 7.0"),
        (["project", "create", "org/proj"], "already"),
        (["import", "org/proj", str(tmp_path / "nowhere")], "no file or folder"),
        (["import", "org/proj", str(tmp_path / "coco.json")], "coco.json is no JPEG"),
        (["model", "upload", "org/proj", str(tmp_path / "coco.json"), "--format", "a b"], "format"),
        (["project", "delete", "org/proj"], "with --yes this goes for good: org/proj: 60 images, 1 model"),
        (["images", "count", "org/nowhere"], "no project org/nowhere"),
    ):
        assert named in await said(*arguments, expect=1)
    assert await said("project", "delete", "org/proj", "--yes") == "deleted org/proj: 60 images, 1 model\n"
    assert await said("project", "ls") == "no projects\n"
    assert await node.stop() == 0


async def test_its_store_outlives_it(nodes: Launcher, tmp_path: Path, jpeg: Jpeg) -> None:
    """Stopped and started anew, also with a session of before."""
    folder = tmp_path / "store"
    node = await nodes.start("loop", LOCAL_LOOP_FOLDER=folder)
    async with node.client() as client:
        assert (await client.post("/api/login", data=LOGIN)).status_code == 200
        await client.post("/api/local/projects", json={"organization": "o", "project": "p"})
        await client.post("/api/local/o/p/import", files={"files": ("a.jpg", jpeg())})
        cookies = dict(client.cookies)
    assert await node.stop() == 0
    node = await nodes.start("loop", LOCAL_LOOP_FOLDER=folder)
    async with node.client(cookies=cookies) as client:
        (image_id,) = (await client.get("/api/o/projects/p/data")).json()["image_ids"]
        assert (await client.get(f"/api/o/projects/p/images/{image_id}/main")).content == jpeg()


async def test_the_demo_is_what_tests_of_nodes_take_for_granted(nodes: Launcher) -> None:
    """Project, categories, images in every state, three models with their ids, the target."""
    node = await nodes.start("loop", LOCAL_LOOP_DEMO=1)
    async with node.client() as client:
        await client.post("/api/login", data=LOGIN)
        demo = "/api/zauberzeug/projects/demo"
        categories = {one["name"]: one["type"] for one in (await client.get(demo)).json()["categories"]}
        assert categories["purple point"] == "point"
        assert set(categories.values()) == {"box", "point", "segmentation", "classification"}
        for state in ("inbox", "annotate", "review", "complete", "trash"):
            assert (await client.get(f"{demo}/data", params={"state": state})).json()["image_ids"]
        models = (await client.get(f"{demo}/models", params={"format": "mocked"})).json()["models"]
        stem = "00000000-0000-0000-0000-0000000000"
        assert {one["version"]: one["id"] for one in models} == {
            "1.0": f"{stem}10",
            "1.1": f"{stem}11",
            "1.2": f"{stem}12",
        }
        assert (await client.get(f"{demo}/deployment/target")).json() == {"model_uuid": f"{stem}11", "version": "1.1"}
        (chart,) = (await client.get(f"{demo}/trainings")).json()["charts"]
        assert (chart["training_number"], len(chart["data"])) == (1, 3)
        zipped = (await client.get(f"{demo}/models/{stem}12/mocked/file")).content
        with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
            assert sorted(archive.namelist()) == ["file_1.txt", "file_2.txt", "model.json"]
            assert archive.read("file_1.txt") == b"content of file one"
            assert b'"format": "mocked"' in archive.read("model.json")


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"NODE_HOST": "0.0.0.0"}, "LOOP_PASSWORD"),
        ({"NODE_HOST": "0.0.0.0", "LOOP_USERNAME": "admin", "LOOP_PASSWORD": "admin"}, "LOOP_PASSWORD"),
        ({"LOOP_USERNAME": "ops"}, "LOOP_PASSWORD"),
        ({"LOCAL_LOOP_FOLDER": "/proc/nowhere"}, "LOCAL_LOOP_FOLDER"),
    ],
    ids=["open to all", "open to all on purpose", "half a login", "no folder"],
)
async def test_it_does_not_start_with_settings_that_cannot_be_meant(
    nodes: Launcher, variables: dict[str, str], named: str
) -> None:
    """Exit 78, and the line says what to set."""
    node = nodes.launch("loop", **variables)
    assert await node.ended() == 78
    assert named in node.log
    assert "Traceback" not in node.log


async def test_on_a_network_it_takes_a_user_of_ones_own(nodes: Launcher) -> None:
    """With a password that is not the default one."""
    node = await nodes.start("loop", NODE_HOST="0.0.0.0", LOOP_USERNAME="ops", LOOP_PASSWORD="correct horse")
    async with httpx.AsyncClient(base_url=node.url.replace("0.0.0.0", "127.0.0.1"), trust_env=False) as client:
        assert (await client.post("/api/login", data=LOGIN)).status_code == 401
        right = {"username": "ops", "password": "correct horse"}
        assert (await client.post("/api/login", data=right)).status_code == 200
    assert "correct horse" not in node.log


def pair(stem: str, image: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", (f"{stem}.json", json.dumps({"source": stem}).encode())), ("files", (f"{stem}.jpg", image))]


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning")  # bodies that the kill broke off
async def test_a_kill_takes_nothing_that_was_acknowledged(nodes: Launcher, tmp_path: Path, jpeg: Jpeg) -> None:
    """Killed in the middle of 200 uploads, again and again: each 200 is there, whole; of the others, all or nothing."""
    dice = random.Random(7)
    acknowledged: dict[str, bytes] = {}
    sent: dict[str, bytes] = {}
    numbers = iter(range(10**6))

    async def upload(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
            while True:
                batch = {
                    f"image_{next(numbers)}": jpeg(dice.randint(8, 400), dice.randint(8, 300))
                    for _ in range(dice.randint(1, 5))
                }
                sent.update(batch)
                files = [part for stem, image in batch.items() for part in pair(stem, image)]
                try:
                    answer = await client.post("/api/o/projects/p/images", files=files)
                except httpx.HTTPError:
                    return
                if answer.status_code == 200:
                    acknowledged.update(batch)

    async def kill(node: Node, after: int) -> None:
        await node.until(lambda: len(acknowledged) >= after, "enough uploads")
        await trio.sleep(dice.uniform(0, 0.05))  # some moment of what is under way
        node.process.kill()

    folder = tmp_path / "store"
    for _ in range(KILLS):
        node = await nodes.start("loop", LOCAL_LOOP_FOLDER=folder)
        async with node.client() as client:
            await client.post("/api/login", data=LOGIN)
            await client.post("/api/local/projects", json={"organization": "o", "project": "p"})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill, node, len(acknowledged) + 40)
            for _ in range(UPLOADERS):
                nursery.start_soon(upload, node.url)
        node.process.wait()
    assert len(acknowledged) >= 200

    node = await nodes.start("loop", LOCAL_LOOP_FOLDER=folder)
    async with node.client() as client:
        await client.post("/api/login", data=LOGIN)
        found = await everything(client)
        for name, (image, record) in found.items():
            assert image == sent[name]
            assert record["source"] == name
    assert acknowledged.keys() <= found.keys()
    assert found.keys() <= sent.keys()
    files = {file.stem for file in folder.glob("projects/*/images/*/*.jpg")}
    assert files == {record["id"] for _, record in found.values()}
    assert list((folder / "incoming").iterdir()) == []


async def everything(client: httpx.AsyncClient) -> dict[str, tuple[bytes, dict[str, Any]]]:
    """Every image of the project by name, with its record."""
    ids = (await client.get("/api/o/projects/p/data")).json()["image_ids"]
    found = {}
    for start in range(0, len(ids), 100):
        chunk = ids[start : start + 100]
        for record in (await client.get("/api/o/projects/p/images", params={"ids": ",".join(chunk)})).json()["images"]:
            assert record["name"] not in found
            image = (await client.get(f"/api/o/projects/p/images/{record['id']}/main")).content
            found[record["name"]] = image, record
    return found
