"""Synthetic projects and the demo, in real SQLite and real files. Run as a program, this file dies while it makes one."""

import io
import os
import signal
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import attrs
import pytest
import trio
from attrs import define, frozen

from loop_node.errors import Conflict, InputError, StorageFull
from loop_node.local_loop import images, models, trainings
from loop_node.local_loop.database import Database, open_database
from loop_node.local_loop.demo import fill_with_demo
from loop_node.local_loop.drawings import draw_image
from loop_node.local_loop.folders import Folders, recover
from loop_node.local_loop.generator import Plan, PlannedImage, generate_project, generated_categories, make_project
from loop_node.local_loop.projects import Project, delete_project, find_project, list_projects
from loop_node.schemas.local_loop import GeneratorOrder, ImageState
from loop_node.schemas.models import CategoryType

T = TypeVar("T")

PLAIN = draw_image("any", "plain")

ORDER = GeneratorOrder(
    project_name="Pieces",
    inbox=3,
    annotate=1,
    complete=2,
    box_categories=2,
    point_categories=1,
    segmentation_categories=1,
    classification_categories=2,
    trainings=2,
    box_annotations=3,
    box_detections=4,
    tags=2,
)


@frozen
class Store:
    """What the generator needs of a Learning Loop."""

    database: Any
    folders: Folders
    max_image_pixels: int = 100_000_000


@asynccontextmanager
async def open_store(root: Path) -> AsyncIterator[Store]:
    folders = Folders(root)
    root.mkdir(exist_ok=True)  # a test may wait
    async with open_database(folders.database) as database:
        await database.write(lambda db: recover(folders, db))
        yield Store(database, folders)


def files_below(folders: Folders) -> set[str]:
    """All but the database and thumbnails that are in their place."""
    files = (file for file in folders.root.glob("*/**/*") if file.is_file() and file.parts[-3] != "thumbnails")
    return {str(file.relative_to(folders.root)) for file in files}


def expected_files(db: sqlite3.Connection) -> set[str]:
    """What the records say that is there."""
    images = db.execute("SELECT project_id, id FROM images").fetchall()
    zips = db.execute("SELECT project_id, id, format FROM models JOIN model_files ON model_id = id").fetchall()
    return {f"projects/{project}/images/{image[:2]}/{image}.jpg" for project, image in images} | {
        f"projects/{project}/models/{model}/{form}.zip" for project, model, form in zips
    }


@define
class KilledWhileWriting:
    """A database whose process dies when a transaction has done all but its commit."""

    database: Database

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        return await self.database.read(query)

    async def write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        def run(db: sqlite3.Connection) -> T:
            change(db)
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError

        return await self.database.write(run)


def everything(db: sqlite3.Connection, project: Project) -> list[dict[str, Any]]:
    """The records of all images, but for the times."""
    records = images.read_records(db, project, images.ids_by_state(db, project, list(ImageState)))
    return [{key: record[key] for key in record if key not in ("created", "received")} for record in records]


async def test_a_project_is_as_it_was_ordered(tmp_path: Path) -> None:
    """Images by state with their marks, categories, trainings with a model each; its id is the name in lower case."""
    async with open_store(tmp_path) as store:
        project = await generate_project(store, "acme", ORDER, host="here")
        assert (project.organization, project.project, project.name) == ("acme", "pieces", "Pieces")
        counts = await store.database.read(lambda db: images.count_by_state(db, project))
        assert counts == {"inbox": 3, "annotate": 1, "review": 0, "complete": 2, "trash": 0}
        record, *others = await store.database.read(lambda db: everything(db, project))
        assert len(record["box_annotations"]) == 3
        assert len(record["box_detections"]) == 4
        assert len(record["point_annotations"]) == len(record["segmentation_annotations"]) == 1
        assert record["classification_annotation"]["category_name"] in project_names(project)
        assert {one["model_name"] for one in record["box_detections"]} == {"2.0"}
        assert (record["width"], record["height"], record["name"]) == (320, 240, "inbox_1")
        assert [one["tags"][0]["name"] for one in (record, *others)] == ["tag 1", "tag 2"] * 3
        listed = await store.database.read(
            lambda db: models.list_models(db, project, host="here", model_format="mocked")
        )
        assert [(one["version"], one["training_number"]) for one in listed] == [("2.0", 2), ("1.0", 1)]
        runs = await store.database.read(lambda db: trainings.list_trainings(db, project))
        assert [(run["training_number"], run["state"]) for run in runs] == [
            (2, "ready_for_cleanup"),
            (1, "ready_for_cleanup"),
        ]
        assert all(run["ended"] for run in runs)


def project_names(project: Project) -> list[str]:
    return [category.name for category in project.categories.all]


async def test_each_file_has_a_record_and_each_record_its_file(tmp_path: Path) -> None:
    """Nothing else is left, in `incoming` neither; a start finds nothing to remove."""
    async with open_store(tmp_path) as store:
        await generate_project(store, "acme", ORDER, host="here")
        expected = await store.database.read(expected_files)
        assert len(expected) == 6 + 2
        assert files_below(store.folders) == expected
        assert list(store.folders.incoming.iterdir()) == []
        await store.database.write(lambda db: recover(store.folders, db))
        assert files_below(store.folders) == expected


@pytest.mark.parametrize("thumbs", [True, False])
async def test_thumbnails_are_made_where_they_are_ordered(tmp_path: Path, thumbs: bool) -> None:
    """Else when they are looked at."""
    async with open_store(tmp_path) as store:
        project = await generate_project(store, "acme", attrs.evolve(ORDER, thumbs=thumbs), host="here")
        for record in await store.database.read(lambda db: everything(db, project)):
            assert store.folders.thumbnail(project.number, record["id"]).is_file() == thumbs


async def test_the_same_name_gives_the_same_project(tmp_path: Path) -> None:
    """Ids, marks and bytes, in another store as after a deletion; another organization's is another."""
    async with open_store(tmp_path / "one") as one, open_store(tmp_path / "two") as two:
        (first, second) = [await generate_project(store, "acme", ORDER, host="here") for store in (one, two)]
        records = await one.database.read(lambda db: everything(db, first))
        assert records == await two.database.read(lambda db: everything(db, second))
        assert first.categories == second.categories
        for record in records:
            files = [store.folders.image(first.number, record["id"]) for store in (one, two)]
            assert files[0].read_bytes() == files[1].read_bytes()
        await one.database.write(lambda db: delete_project(db, first))
        again = await generate_project(one, "acme", ORDER, host="here")
        assert records == await one.database.read(lambda db: everything(db, again))
        others = await generate_project(one, "others", ORDER, host="here")
        ids = {record["id"] for record in await one.database.read(lambda db: everything(db, others))}
        assert ids.isdisjoint(record["id"] for record in records)


async def test_a_model_is_a_zip_of_three_files(tmp_path: Path) -> None:
    """Two with a text, and what the Loop knows of it."""
    async with open_store(tmp_path) as store:
        await generate_project(store, "acme", ORDER, host="here")
        zips = [name for name in files_below(store.folders) if name.endswith("mocked.zip")]
        assert len(zips) == 2
        for file in (tmp_path / name for name in zips):
            with zipfile.ZipFile(io.BytesIO(file.read_bytes())) as archive:
                assert sorted(archive.namelist()) == ["file_1.txt", "file_2.txt", "model.json"]
                assert archive.read("file_1.txt") == b"content of file one"
                assert archive.read("file_2.txt") == b"content of file two"
                said = archive.read("model.json")
            assert b'"format": "mocked"' in said
            assert file.parent.name.encode() in said


async def test_a_second_one_of_the_name_is_refused(tmp_path: Path) -> None:
    """However it is written; the first stays as it is."""
    async with open_store(tmp_path) as store:
        await generate_project(store, "acme", ORDER, host="here")
        before = files_below(store.folders)
        with pytest.raises(Conflict, match="there is a project acme/pieces already; delete it first"):
            await generate_project(store, "acme", attrs.evolve(ORDER, project_name="PIECES"), host="here")
        assert files_below(store.folders) == before


async def test_of_two_at_once_one_is_refused(tmp_path: Path) -> None:
    """Each draws its images; what the later one has drawn goes."""
    refused = []
    async with open_store(tmp_path) as store:

        async def generate() -> None:
            try:
                await generate_project(store, "acme", ORDER, host="here")
            except Conflict as error:
                refused.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(generate)
            nursery.start_soon(generate)
        assert len(refused) == 1
        assert files_below(store.folders) == await store.database.read(expected_files)


@pytest.mark.parametrize("name", ["", "a/b", "..", "a?b", "x" * 201])
async def test_a_name_that_cannot_stand_in_a_path_is_refused(tmp_path: Path, name: str) -> None:
    """Before anything is drawn."""
    async with open_store(tmp_path) as store:
        with pytest.raises(InputError, match="project_name: "):
            await generate_project(store, "acme", GeneratorOrder(project_name=name, inbox=10_000), host="here")


async def test_a_name_alone_is_an_order(tmp_path: Path) -> None:
    """Of an empty project."""
    async with open_store(tmp_path) as store:
        project = await generate_project(store, "acme", GeneratorOrder(project_name="empty"), host="here")
        assert project.categories.all == ()
        assert files_below(store.folders) == set()


def test_categories_differ_in_name_colour_and_hotkey() -> None:
    """As long as there are keys; points have a size."""
    order = GeneratorOrder(project_name="x", box_categories=50, point_categories=2, classification_categories=1)
    categories = generated_categories(order, "seed")
    assert [one.name for one in categories[-4:]] == [
        "box category 50",
        "point category 1",
        "point category 2",
        "classification category 1",
    ]
    assert len({one.color for one in categories}) == len({one.id for one in categories}) == 53
    hotkeys = [one.hotkey for one in categories if one.hotkey]
    assert len(hotkeys) == len(set(hotkeys)) == 36
    assert {one.point_size for one in categories if one.type is CategoryType.POINT} == {20}


def plan_with(draw: Callable[[str], bytes], count: int = 3) -> Plan:
    """A project whose images are drawn so."""
    return Plan(
        organization="acme",
        project="pieces",
        name="pieces",
        categories=[],
        images=[
            PlannedImage(seed=str(n), name=str(n), state=ImageState.INBOX, draw=draw, model_name="1.0")
            for n in range(count)
        ],
        trainings=[["00000000-0000-0000-0000-000000000001"]],
        host="here",
    )


async def nothing_is_there(store: Store) -> bool:
    return files_below(store.folders) == set() and await store.database.read(list_projects) == []


async def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    """Neither of the images that were drawn before, nor of the project."""

    def draw(seed: str) -> bytes:
        return PLAIN if seed != "29" else b"no image"

    async with open_store(tmp_path) as store:
        with pytest.raises(InputError, match="this is no JPEG"):
            await make_project(store, plan_with(draw, 30))
        assert await nothing_is_there(store)


async def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    """And leaves nothing."""

    def draw(_: str) -> bytes:
        raise OSError(28, "No space left on device")

    async with open_store(tmp_path) as store:
        with pytest.raises(StorageFull):
            await make_project(store, plan_with(draw))
        assert await nothing_is_there(store)


@define
class FailingCommits:
    """A database that has no room left at the end of a transaction."""

    database: Database

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        return await self.database.read(query)

    async def write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        def run(db: sqlite3.Connection) -> T:
            change(db)
            raise StorageFull("the disk of the Learning Loop is full")

        return await self.database.write(run)


async def test_after_a_commit_that_failed_the_same_can_be_made(tmp_path: Path) -> None:
    """The number of the project is given again, and files of the first attempt are in the way of the second."""
    async with open_store(tmp_path) as store:
        with pytest.raises(StorageFull):
            await generate_project(Store(FailingCommits(store.database), store.folders), "acme", ORDER, host="here")
        await generate_project(store, "acme", ORDER, host="here")
        assert files_below(store.folders) == await store.database.read(expected_files)


async def test_cancelled_it_has_made_nothing(tmp_path: Path) -> None:
    """A client that has gone does not come back for it."""
    async with open_store(tmp_path) as store:
        with trio.CancelScope() as scope:

            def draw(_: str) -> bytes:
                trio.from_thread.run_sync(scope.cancel)
                return PLAIN

            await make_project(store, plan_with(draw, 50))
        assert scope.cancelled_caught
        assert await nothing_is_there(store)


@pytest.mark.parametrize("point", ["drawing", "writing"])
async def test_a_process_that_is_killed_leaves_what_a_start_removes(tmp_path: Path, point: str) -> None:
    """While images are drawn, and when everything is written but the commit; afterwards the same can be made."""
    command = [sys.executable, __file__, str(tmp_path), point]
    died = await trio.to_thread.run_sync(lambda: subprocess.run(command, check=False, capture_output=True))
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    folders = Folders(tmp_path)
    left = files_below(folders)
    assert any(name.startswith("incoming/") for name in left)
    assert any(name.startswith("projects/") for name in left) == (point == "writing")
    async with open_store(tmp_path) as store:
        assert await nothing_is_there(store)
        await generate_project(store, "acme", ORDER, host="here")
        assert files_below(folders) == await store.database.read(expected_files)


async def test_the_demo_has_something_of_each_kind(tmp_path: Path) -> None:
    """Each state, each type of category, the photo and three models of training 1, the second of them the target."""
    async with open_store(tmp_path) as store:
        await fill_with_demo(store, host="here")
        project = await store.database.read(lambda db: find_project(db, "zauberzeug", "demo"))
        assert {category.type for category in project.categories.all} == set(CategoryType)
        purple = project.categories.find(None, "purple point")
        assert purple is not None
        assert purple.type is CategoryType.POINT
        assert purple.point_size
        counts = await store.database.read(lambda db: images.count_by_state(db, project))
        assert all(4 <= counts[state] <= 6 for state in ImageState)
        records = await store.database.read(lambda db: everything(db, project))
        assert {(one["width"], one["height"]) for one in records} == {(512, 512), (1280, 720)}
        assert all(bool(one["box_annotations"]) == (one["state"] not in ("inbox", "annotate")) for one in records)
        assert all(one["box_detections"] for one in records)
        listed = await store.database.read(lambda db: models.list_models(db, project, host="here"))
        assert {one["version"]: (one["id"][-12:], one["formats"], one["is_target"]) for one in listed} == {
            "1.0": ("000000000010", ["mocked"], False),
            "1.1": ("000000000011", ["mocked"], True),
            "1.2": ("000000000012", ["mocked"], False),
        }
        charts = await store.database.read(lambda db: trainings.charts(db, project))
        assert [(one["training_number"], [model["version"] for model in one["data"]]) for one in charts] == [
            (1, ["1.2", "1.1", "1.0"])
        ]
        assert (await store.database.read(lambda db: models.target_of(db, project)))["version"] == "1.1"
        assert files_below(store.folders) == await store.database.read(expected_files)


async def test_a_demo_that_is_there_is_left_alone(tmp_path: Path) -> None:
    """Whatever became of it."""
    async with open_store(tmp_path) as store:
        await fill_with_demo(store, host="here")
        project = await store.database.read(lambda db: find_project(db, "zauberzeug", "demo"))
        await store.database.write(lambda db: models.set_target(db, project, "1.2"))
        before = files_below(store.folders)
        await fill_with_demo(store, host="there")
        project = await store.database.read(lambda db: find_project(db, "zauberzeug", "demo"))
        assert (await store.database.read(lambda db: models.target_of(db, project)))["version"] == "1.2"
        assert files_below(store.folders) == before


def kill_at_the_second(seed: str) -> bytes:
    if seed == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return PLAIN


async def die_in_the_middle(root: Path, point: str) -> None:
    async with open_store(root) as store:
        if point == "drawing":
            await make_project(store, plan_with(kill_at_the_second))
        await generate_project(Store(KilledWhileWriting(store.database), store.folders), "acme", ORDER, host="here")


if __name__ == "__main__":
    trio.run(die_in_the_middle, Path(sys.argv[1]), sys.argv[2])
