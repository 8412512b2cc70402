"""What is kept, and what a kill leaves: on a real disk, with a real database."""

import errno
import json
import os
import sqlite3
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from loop_node.errors import Conflict, InputError, NotFound, SettingsError, StorageFull, Unavailable
from loop_node.local_loop import folders as folders_module
from loop_node.local_loop import model_zips
from loop_node.local_loop.folders import recover
from loop_node.local_loop.images import (
    NewImage,
    add_images,
    count_by_state,
    ids_by_state,
    read_records,
    stage_image,
    stage_pair,
)
from loop_node.local_loop.loop import LocalLoop, open_local_loop
from loop_node.local_loop.models import (
    PlannedModel,
    find_by_version,
    list_models,
    plan_of_training,
    plan_upload,
    set_target,
    target_of,
)
from loop_node.local_loop.nodes import NodeKind, list_nodes, put_node
from loop_node.local_loop.projects import Project, create_project, delete_project, find_project, list_projects
from loop_node.local_loop.thumbnails import make_thumbnail
from loop_node.local_loop.trainings import begin
from loop_node.schemas.local_loop import ImageState, NewCategory

Jpeg = Callable[..., bytes]


def upload_folder(loop: LocalLoop, name: str = "upload") -> Path:
    upload = loop.folders.incoming / name
    upload.mkdir(exist_ok=True)
    return upload


def staged(loop: LocalLoop, project: Project, data: bytes, metadata: dict[str, Any], name: str = "a") -> Any:
    upload = upload_folder(loop)
    image, said = upload / "0000", upload / "0001"
    image.write_bytes(data)
    said.write_text(json.dumps(metadata))
    return stage_pair(
        loop.folders, project, upload, (image, f"{name}.jpg"), (said, f"{name}.json"), loop.max_image_pixels
    )


async def added(loop: LocalLoop, project: Project, data: bytes, metadata: dict[str, Any], name: str = "a") -> str:
    new = staged(loop, project, data, metadata, name)
    (image_id,) = await loop.database.write(lambda db: add_images(loop.folders, db, project, [new]))
    return image_id


async def test_an_image_is_kept_as_it_came_and_described_upright(loop: LocalLoop, project: Project, jpeg: Jpeg) -> None:
    """Its bytes unchanged; its size that of the image turned as EXIF says; its metadata in the record."""
    data = jpeg(40, 30, exif=6)
    metadata = {
        "box_detections": [
            {
                "category_name": "some box",
                "x": 1.4,
                "y": 2,
                "width": 3,
                "height": 4,
                "model_name": "1.0",
                "confidence": 1,
            }
        ],
        "box_annotations": [{"category_name": "some box", "x": 5, "y": 6, "width": 7, "height": 8}],
        "tags": ["front", "picked_by_system"],
        "source": "robot",
        "created": "2026-11-23_02:34:25.998",
    }
    image_id = await added(loop, project, data, metadata, "image_2026-11-23_02%3A34")
    assert loop.folders.image(project.number, image_id).read_bytes() == data
    (record,) = await loop.database.read(lambda db: read_records(db, project, [image_id]))
    assert (record["width"], record["height"]) == (30, 40)
    assert record["name"] == "image_2026-11-23_02%3A34"
    assert (record["state"], record["set"], record["source"]) == ("inbox", "train", "robot")
    assert record["created"] == "2026-11-23_02:34:25.998"
    assert [tag["name"] for tag in record["tags"]] == ["front", "picked_by_system"]
    assert record["box_detections"][0]["category_id"] == project.categories.all[0].id
    assert record["box_annotations"][0]["image_id"] == image_id
    assert loop.folders.thumbnail(project.number, image_id).is_file()


async def test_a_state_in_the_metadata_counts(loop: LocalLoop, project: Project, jpeg: Jpeg) -> None:
    """One that is none is the inbox."""
    first = await added(loop, project, jpeg(), {"state": "complete"})
    second = await added(loop, project, jpeg(), {"state": "nowhere"})
    for states, ids in (
        ([ImageState.COMPLETE], [first]),
        ([ImageState.INBOX], [second]),
        (list(ImageState), [first, second]),
    ):
        assert await loop.database.read(partial(ids_by_state, project=project, states=states)) == ids
    counts = await loop.database.read(lambda db: count_by_state(db, project))
    assert counts == {"inbox": 1, "annotate": 0, "review": 0, "complete": 1, "trash": 0}


@pytest.mark.parametrize(
    ("data", "metadata", "named"),
    [
        (b"no image", "{}", "'a.jpg': this is no JPEG"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "{}", "'a.jpg'"),
        (None, "{", "'a.json'"),
        (None, '{"box_detections": [{}]}', r"'a.json': box_detections\[0\]"),
        (None, "[]", "'a.json'"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(
    tmp_path: Path, jpeg: Jpeg, data: bytes | None, metadata: str, named: str
) -> None:
    """By its name and the reason."""
    folders, upload = folders_module.Folders(tmp_path), tmp_path / "incoming" / "u"
    upload.mkdir(parents=True)
    (upload / "0").write_bytes(jpeg() if data is None else data)
    (upload / "1").write_text(metadata)
    project: Any = type("P", (), {"number": 1, "categories": None})
    with pytest.raises(InputError, match=named):
        stage_pair(folders, project, upload, (upload / "0", "a.jpg"), (upload / "1", "a.json"), 10_000)


async def test_of_a_batch_that_fails_nothing_is_kept(
    loop: LocalLoop, project: Project, jpeg: Jpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither record nor file, when the disk is full between two images or the last record fails."""
    first = staged(loop, project, jpeg(), {}, "a")
    second = staged(loop, project, jpeg(), {}, "b")

    link = os.link

    def full(source: Path, target: Path) -> None:
        if source == second.staged:
            raise OSError(28, "No space left on device")
        link(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(folders_module.os, "link", full)
        with pytest.raises(StorageFull):
            await loop.add_images(project, [first, second])
    twice = first  # the same id again breaks the uniqueness of the records
    with pytest.raises(Exception, match=r"UNIQUE|exists"):
        await loop.add_images(project, [first, twice])
    assert list(loop.folders.project(project.number).glob("images/*/*.jpg")) == []
    assert await loop.database.read(lambda db: ids_by_state(db, project, list(ImageState))) == []
    assert len(await loop.add_images(project, [first, second])) == 2


async def test_a_start_after_a_kill_removes_what_has_no_record(loop: LocalLoop, project: Project, jpeg: Jpeg) -> None:
    """An image placed but not recorded, a model's zip, a project's folder; and nothing that has a record."""
    kept = await added(loop, project, jpeg(), {})
    half = staged(loop, project, jpeg(), {}, "half")
    folders_module.place([(half.staged, loop.folders.image(project.number, half.id))])
    stray_model = loop.folders.model(project.number, "some-model", "openvino")
    stray_model.parent.mkdir(parents=True)
    stray_model.write_bytes(b"half a zip")
    stray_project = loop.folders.project(99)
    stray_project.mkdir()
    await loop.database.write(partial(recover, loop.folders))
    assert loop.folders.image(project.number, kept).is_file()
    assert not loop.folders.image(project.number, half.id).exists()
    assert not stray_model.exists()
    assert not stray_project.exists()
    assert list(loop.folders.incoming.iterdir()) == []


async def test_a_folder_serves_one_loop(loop: LocalLoop, options: dict[str, Any]) -> None:
    """A second one says so instead of breaking the store."""
    with pytest.raises(SettingsError, match="another Learning Loop uses it"):
        async with open_local_loop(loop.folders.root, **options):
            pytest.fail("opened twice")


async def test_a_store_is_nobody_elses_business(loop: LocalLoop) -> None:
    """Photos and sessions lie in it."""
    assert loop.folders.root.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("broken", ["file in the way", "no database", "of the future"])
async def test_a_store_that_cannot_be_opened_is_named(tmp_path: Path, options: dict[str, Any], broken: str) -> None:
    """With its folder, as a settings fault."""
    folder = tmp_path / "loop"
    if broken == "file in the way":
        folder.write_text("")
    else:
        folder.mkdir()
    if broken == "no database":
        (folder / "loop.sqlite3").write_bytes(b"this is no database" * 100)
    if broken == "of the future":
        async with open_local_loop(folder, **options) as loop:
            await loop.database.write(lambda db: db.execute("PRAGMA user_version = 99"))
    with pytest.raises(SettingsError, match="LOCAL_LOOP_FOLDER"):
        async with open_local_loop(folder, **options):
            pytest.fail("opened")


async def test_names_that_could_not_stand_in_a_path_are_refused(loop: LocalLoop) -> None:
    """And a category without a name of its own."""
    for name in ("", "..", "a/b", "a\\b", " a", "a\n", "x" * 201, "a%2f"):
        with pytest.raises(InputError):
            await loop.database.write(partial(create_project, organization="o", project=name, categories=[]))
    twice = [NewCategory(name="a"), NewCategory(name="a")]
    with pytest.raises(InputError, match="differ"):
        await loop.database.write(partial(create_project, organization="o", project="p", categories=twice))
    assert await loop.database.read(list_projects) == []


async def test_a_project_is_made_once_and_goes_whole(loop: LocalLoop, project: Project, jpeg: Jpeg) -> None:
    """Its images may be kept under another name."""
    image_id = await added(loop, project, jpeg(), {})
    with pytest.raises(Conflict):
        await loop.database.write(partial(create_project, organization="org", project="proj", categories=[]))
    await loop.delete_project("org", "proj", keep_images=True)
    assert (loop.folders.kept_images("org", "proj") / f"{image_id}.jpg").is_file()
    assert not loop.folders.project(project.number).exists()
    with pytest.raises(NotFound):
        await loop.project("org", "proj")
    await loop.database.write(partial(create_project, organization="org", project="proj", categories=[]))
    assert (await loop.project("org", "proj")).number > project.number


def model_file(loop: LocalLoop, data: bytes, name: str = "m.zip") -> tuple[str, Path]:
    file = upload_folder(loop, "model") / name
    file.write_bytes(data)
    return name, file


async def kept_model(loop: LocalLoop, project: Project, data: bytes, model_format: str = "openvino") -> PlannedModel:
    plan = partial(plan_upload, project=project, comment="c")
    return await loop.keep_model(project, plan, model_format, [model_file(loop, data)], "http://loop")


async def test_a_model_says_where_it_is_from(loop: LocalLoop, project: Project, make_zip: Callable[..., bytes]) -> None:
    """The Loop completes and corrects model.json, keeps what it does not know, and nothing else changes."""
    own = json.dumps({"version": "99", "resolution": 416, "categories": [{"id": "1", "name": "a"}]})
    kept = await kept_model(loop, project, make_zip(weights_DOT_bin=b"\0" * 1000, model_DOT_json=own))
    with zipfile.ZipFile(loop.folders.model(project.number, kept.id, "openvino")) as archive:
        assert sorted(archive.namelist()) == ["model.json", "weights.bin"]
        said = json.loads(archive.read("model.json"))
    assert said == {
        "version": "1.0",
        "resolution": 416,
        "categories": [{"id": "1", "name": "a"}],
        "host": "http://loop",
        "organization": "org",
        "project": "proj",
        "id": kept.id,
        "format": "openvino",
    }


async def test_a_model_may_come_without_model_json_or_in_a_folder(
    loop: LocalLoop, project: Project, make_zip: Callable[..., bytes]
) -> None:
    """It gets one; of a zip of a folder, what that folder's model.json says stands at the top."""
    bare = await kept_model(loop, project, make_zip(base_DOT_pt=b"x"))
    inner = await kept_model(loop, project, make_zip(mine__base_DOT_pt=b"x", mine__model_DOT_json='{"resolution": 7}'))
    assert (bare.version, inner.version) == ("1.0", "2.0")
    for kept, said in ((bare, None), (inner, 7)):
        with zipfile.ZipFile(loop.folders.model(project.number, kept.id, "openvino")) as archive:
            assert json.loads(archive.read("model.json")).get("resolution") == said


@pytest.mark.parametrize(
    "entries",
    [
        {"..__evil": b"x"},
        {"__etc__passwd": b"x"},
        {"model_DOT_json": "[]"},
        {"model_DOT_json": "{"},
        {"big": b"\0" * 1_000_001},
        {"_DOT_": b"x"},
        {"a": b"x", "a__b": b"x"},
        {"n" * 256: b"x"},
        {"model_DOT_json": '{"a": NaN}'},
        {"model_DOT_json": '{"a": "\\ud800"}'},
        {"model_DOT_json": '{"a": ' + "[" * 50_000 + "]" * 50_000 + "}"},
    ],
    ids=[
        *("climbs", "absolute", "a list", "no JSON", "a bomb", "no name", "file and folder", "a long name"),
        *("no number", "half a character", "deep"),
    ],
)
async def test_of_a_zip_that_is_refused_nothing_is_kept(
    loop: LocalLoop, project: Project, make_zip: Callable[..., bytes], entries: dict[str, Any]
) -> None:
    """No version is used up, no file is left."""
    with pytest.raises(InputError, match=r"files|model.json"):
        await kept_model(loop, project, make_zip(**entries))
    with pytest.raises(InputError):
        await kept_model(loop, project, b"this is no zip")
    assert await loop.database.read(lambda db: list_models(db, project, host="")) == []
    assert list(loop.folders.project(project.number).glob("models/*/*")) == []


async def test_versions_do_not_collide_when_models_come_at_once(
    loop: LocalLoop, project: Project, make_zip: Callable[..., bytes]
) -> None:
    """Each zip says the version it was given in the end."""
    kept: list[PlannedModel] = []

    async def keep(index: int) -> None:
        upload = upload_folder(loop, f"model{index}")
        (upload / "m.zip").write_bytes(make_zip(a=b"x"))
        plan = partial(plan_upload, project=project, comment="c")
        kept.append(await loop.keep_model(project, plan, "f", [("m.zip", upload / "m.zip")], "http://loop"))

    async with trio.open_nursery() as nursery:
        for index in range(4):
            nursery.start_soon(keep, index)
    assert sorted(one.version for one in kept) == ["1.0", "2.0", "3.0", "4.0"]
    for one in kept:
        with zipfile.ZipFile(loop.folders.model(project.number, one.id, "f")) as archive:
            assert json.loads(archive.read("model.json"))["version"] == one.version


async def test_a_format_is_kept_once(loop: LocalLoop, project: Project, make_zip: Callable[..., bytes]) -> None:
    """A second time is a conflict that tells the id; other formats join the version."""
    kept = await kept_model(loop, project, make_zip(a=b"x"))

    def plan(db: Any) -> PlannedModel:
        from loop_node.local_loop.models import plan_format

        return plan_format(db, project, kept.id)

    with pytest.raises(Conflict) as caught:
        await loop.keep_model(project, plan, "openvino", [model_file(loop, make_zip(a=b"x"))], "h")
    assert caught.value.detail == {"id": kept.id}
    await loop.keep_model(project, plan, "other", [model_file(loop, make_zip(a=b"x"))], "h")
    (model,) = await loop.database.read(lambda db: list_models(db, project, host="h", model_format="other"))
    assert model["formats"] == ["openvino", "other"]


async def test_the_target_is_a_version_that_is_there(
    loop: LocalLoop, project: Project, make_zip: Callable[..., bytes]
) -> None:
    """Chosen by version, told with its id; none at first."""
    kept = await kept_model(loop, project, make_zip(a=b"x"))

    async def target() -> dict[str, str]:
        return await loop.database.read(lambda db: target_of(db, find_project(db, "org", "proj")))

    with pytest.raises(NotFound):
        await target()
    for wrong, fault in (("2.0", NotFound), ("latest", InputError), ("../1.0", InputError)):
        with pytest.raises(fault):
            await loop.database.write(partial(set_target, project=project, version=wrong))
    await loop.database.write(lambda db: set_target(db, project, "1.0"))
    assert await target() == {"model_uuid": kept.id, "version": "1.0"}
    await loop.database.write(lambda db: set_target(db, project, None))
    with pytest.raises(NotFound):
        await target()


async def test_a_model_of_a_training_takes_its_next_minor(
    loop: LocalLoop, project: Project, make_zip: Callable[..., bytes]
) -> None:
    """Also for a trainer that has a model but reported no best; uploaded models take a major of their own."""
    uploaded = await kept_model(loop, project, make_zip(a=b"x"))
    details: dict[str, Any] = dict.fromkeys(("trainer_id", "trainer_name", "base_model"))
    row = await loop.database.write(lambda db: begin(db, project, **details, model_variant="", hyperparameters={}))
    assert row["number"] == 1
    plan = partial(plan_of_training, project=project, number=1)
    trained = await loop.keep_model(project, plan, "openvino", [model_file(loop, make_zip(a=b"x"))], "h")
    assert (uploaded.version, trained.version) == ("1.0", "1.1")
    assert (await kept_model(loop, project, make_zip(a=b"x"))).version == "2.0"
    found = await loop.database.read(lambda db: find_by_version(db, project, "1.1"))
    assert found["training_number"] == 1


async def test_deleting_a_project_takes_its_records_along(loop: LocalLoop, project: Project, jpeg: Jpeg) -> None:
    """No row of any table is left of it."""
    await added(loop, project, jpeg(), {})
    await loop.database.write(lambda db: delete_project(db, project))

    def rows(db: Any) -> int:
        tables = ("projects", "categories", "images", "detections", "models", "model_files", "trainings", "metrics")
        return sum(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables)  # noqa: S608  # names

    assert await loop.database.read(rows) == 0


async def test_a_write_that_raises_has_not_happened(loop: LocalLoop) -> None:
    """The transaction is taken back."""

    def change(db: Any) -> None:
        create_project(db, "a", "b", [])
        raise InputError("no")

    with pytest.raises(InputError):
        await loop.database.write(change)
    assert await loop.database.read(list_projects) == []


def test_staging_needs_no_metadata(tmp_path: Path, jpeg: Jpeg) -> None:
    """An imported image has the tags and the state it is imported with."""
    upload = tmp_path / "u"
    upload.mkdir()
    (upload / "0").write_bytes(jpeg())
    project: Any = type("P", (), {"number": 1, "categories": type("C", (), {"all": ()})})
    new = stage_image(
        folders_module.Folders(tmp_path),
        project,
        upload,
        upload / "0",
        "photo.jpg",
        max_pixels=10_000,
        state=ImageState.REVIEW,
        tags=["x"],
    )
    assert (new.name, new.state, new.tags) == ("photo", ImageState.REVIEW, ["x"])


@pytest.mark.parametrize("name", ["a\nb", "a/b", "..", "n" * 256, "a\0b"])
async def test_a_loose_file_of_a_model_has_a_name_that_a_file_can_have(
    loop: LocalLoop, project: Project, name: str
) -> None:
    """Nodes unpack it on whatever disk they have."""
    upload = upload_folder(loop)
    (upload / "0000").write_bytes(b"x")
    files = [(name, upload / "0000"), ("other", upload / "0000")]
    with pytest.raises(InputError, match="bare names that differ"):
        await loop.keep_model(project, partial(plan_upload, project=project, comment="c"), "f", files, "")


async def test_a_loose_model_json_is_not_read_into_memory_whatever_its_size(
    loop: LocalLoop, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As large as a model may be, it would take all memory."""
    monkeypatch.setattr(model_zips, "_MAX_MODEL_JSON_BYTES", 100)
    upload = upload_folder(loop)
    (upload / "0000").write_bytes(json.dumps({"a": "x" * 100}).encode())
    files = [("model.json", upload / "0000")]
    with pytest.raises(InputError, match=r"model\.json has more than 100 bytes"):
        await loop.keep_model(project, partial(plan_upload, project=project, comment="c"), "f", files, "")


async def test_a_model_json_behind_a_dot_is_the_models_own(
    loop: LocalLoop, project: Project, make_zip: Callable[..., bytes]
) -> None:
    """`./model.json` is how some programs write it."""
    kept = await kept_model(loop, project, make_zip(**{"./model.json": '{"resolution": 7}', "w": b"x"}))
    with zipfile.ZipFile(loop.folders.model(project.number, kept.id, "openvino")) as archive:
        assert json.loads(archive.read("model.json"))["resolution"] == 7
        assert archive.namelist() == ["w", "model.json"]


async def test_categories_are_bounded(loop: LocalLoop) -> None:
    """Each list of them goes out with each answer that names the project."""
    many = [NewCategory(name=str(number)) for number in range(1001)]
    for categories in (many, [NewCategory(name="n" * 201)], [NewCategory(name="a"), NewCategory(name="a")]):
        with pytest.raises(InputError, match="categories: "):
            await loop.database.write(lambda db, given=categories: create_project(db, "o", "p", given))
    assert await loop.database.read(list_projects) == []


def staged_images(loop: LocalLoop, project: Project, jpeg: Jpeg, count: int) -> list[NewImage]:
    upload = upload_folder(loop)
    images = []
    for number in range(count):
        (upload / "0000").write_bytes(jpeg())
        images.append(stage_image(loop.folders, project, upload, upload / "0000", f"{number}.jpg", max_pixels=10**6))
    return images


def files_of(loop: LocalLoop, project: Project) -> list[Path]:
    return [file for file in loop.folders.project(project.number).rglob("*") if file.is_file()]


async def test_what_comes_for_a_project_that_is_deleted_meanwhile_is_refused(
    loop: LocalLoop, project: Project, jpeg: Jpeg, make_zip: Callable[..., bytes]
) -> None:
    """It came too late, and leaves nothing."""
    images = staged_images(loop, project, jpeg, 1)
    plan = await loop.database.read(lambda db: plan_upload(db, project, "c"))
    upload = upload_folder(loop)
    (upload / "m.zip").write_bytes(make_zip(a=b"x"))
    await loop.delete_project("org", "proj")
    with pytest.raises(NotFound, match="has been deleted"):
        await loop.add_images(project, images)
    with pytest.raises(NotFound, match="has been deleted"):
        await loop.keep_model(project, lambda _: plan, "f", [("m.zip", upload / "m.zip")], "")
    with pytest.raises(NotFound, match="has been deleted"):
        await loop.database.write(partial(begin_one, project))
    assert files_of(loop, project) == []


def begin_one(project: Project, db: sqlite3.Connection) -> sqlite3.Row:
    return begin(db, project, trainer_id="t", trainer_name="t", model_variant="", base_model=None, hyperparameters={})


async def test_images_leave_nothing_where_the_database_is_full(loop: LocalLoop, project: Project, jpeg: Jpeg) -> None:
    """Their files were placed by then."""
    images = staged_images(loop, project, jpeg, 30)

    def fill(db: sqlite3.Connection) -> None:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count={pages + 1}")

    await loop.database.write(fill)
    with pytest.raises(StorageFull):
        await loop.add_images(project, images)
    assert files_of(loop, project) == []
    assert await loop.database.read(lambda db: ids_by_state(db, project, list(ImageState))) == []


async def test_a_commit_that_fails_is_undone(loop: LocalLoop, project: Project) -> None:
    """What was done to files is taken back, once."""
    undone: list[str] = []

    def change(db: sqlite3.Connection) -> None:
        db.execute("PRAGMA defer_foreign_keys=ON")  # so that the commit finds the fault
        db.execute("INSERT INTO detections VALUES ('nobody', 'm', '{}')")

    with pytest.raises(sqlite3.IntegrityError):
        await loop.database.write(change, undo=lambda: undone.append("files"))
    assert undone == ["files"]
    await loop.database.write(lambda db: find_project(db, "org", "proj"), undo=lambda: undone.append("more"))
    assert undone == ["files"]


async def test_a_database_that_is_locked_is_told(loop: LocalLoop, project: Project) -> None:
    """Somebody looks into it with another program."""
    await loop.database.read(lambda db: db.execute("SELECT 1"))
    other = sqlite3.connect(loop.folders.database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    loop.database._writer.execute("PRAGMA busy_timeout=10")
    with pytest.raises(Unavailable, match="another program"):
        await loop.database.write(lambda db: set_target(db, project, None))
    other.close()
    await loop.database.write(lambda db: set_target(db, project, None))


async def test_a_disk_that_fails_is_told(loop: LocalLoop, project: Project, caplog: pytest.LogCaptureFixture) -> None:
    """As something that may pass, in the answer and in the log; what can be read is."""
    await loop.database.write(lambda db: db.execute("PRAGMA query_only=ON"))
    with pytest.raises(Unavailable, match="readonly"):
        await loop.database.write(lambda db: db.execute("DELETE FROM projects"))
    assert "readonly" in caplog.text
    assert await loop.project("org", "proj") == project

    def fail(_db: sqlite3.Connection) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
        raise error

    with pytest.raises(Unavailable, match="disk I/O error"):
        await loop.database.read(fail)


async def test_a_start_finds_out_that_the_database_cannot_be_written(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anybody has sent anything."""
    async with open_local_loop(tmp_path / "loop", **options):
        pass
    connect = sqlite3.connect

    def connect_for_reading(file: Path, **more: Any) -> sqlite3.Connection:
        return connect(f"file:{file}?mode=ro", uri=True, **more)

    monkeypatch.setattr(sqlite3, "connect", connect_for_reading)  # root may write to every file
    with pytest.raises(SettingsError, match=r"LOCAL_LOOP_FOLDER.*readonly"):
        async with open_local_loop(tmp_path / "loop", **options):
            pytest.fail("opened")


async def test_a_start_removes_whatever_lies_around(loop: LocalLoop) -> None:
    """Also files where there should be none: the store opens."""
    (loop.folders.incoming / "stray").write_bytes(b"x")
    (loop.folders.root / "projects" / "stray").write_bytes(b"x")
    await loop.database.write(partial(recover, loop.folders))
    assert [*loop.folders.incoming.iterdir(), *(loop.folders.root / "projects").iterdir()] == []


async def test_a_thumbnail_is_whole_or_not_there(
    loop: LocalLoop, project: Project, jpeg: Jpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No room for it, and an image that has gone: both are told, and no part of it is served."""
    images = staged_images(loop, project, jpeg, 1)
    (image_id,) = await loop.add_images(project, images)
    thumbnail = loop.folders.thumbnail(project.number, image_id)
    thumbnail.unlink()

    def write_half(file: Path, data: bytes) -> int:
        with file.open("wb") as half:
            half.write(data[:10])
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", write_half)
        with pytest.raises(StorageFull):
            make_thumbnail(loop.folders, project, image_id, 10**6)
    assert list(thumbnail.parent.iterdir()) == []
    assert make_thumbnail(loop.folders, project, image_id, 10**6).read_bytes() == images[0].inspected.thumbnail
    thumbnail.unlink()
    loop.folders.image(project.number, image_id).unlink()
    with pytest.raises(NotFound):
        make_thumbnail(loop.folders, project, image_id, 10**6)


async def test_the_nodes_heard_last_are_kept(loop: LocalLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """They may call themselves anything, a thousand times."""
    monkeypatch.setattr("loop_node.local_loop.nodes.MAX_NODES", 3)
    for name in ("a", "b", "c", "b", "d", "e"):
        await loop.database.write(partial(put_node, kind=NodeKind.DETECTOR, node_id=name, name=name, status={}))
    nodes = await loop.database.read(lambda db: list_nodes(db, []))
    assert [node["id"] for node in nodes] == ["e", "d", "b"]
