"""The store on a real disk: what a crash before any single disk operation leaves, and what somebody else has left there.

The crash is Python's audit hook: from the n-th change of the disk on, each one raises, as if the process were gone.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from loop_node.detector.model_store import ModelStore, open_store
from loop_node.detector.update_policy import Failure, ModelRef, Quarantined
from loop_node.errors import ModelError

CHANGES = {
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.symlink",
    "os.truncate",
    "shutil.rmtree",
    "tempfile.mkdtemp",
}


class Killed(BaseException):
    """The process is gone."""


class _Killer:
    def __init__(self) -> None:
        self.left: int | None = None
        self.folder = ""

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.left is None:
            return
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in CHANGES or (writes and str(arguments[0]).startswith(self.folder)):
            self.left -= 1
            if self.left < 0:
                raise Killed


_killer = _Killer()
sys.addaudithook(_killer)


@contextmanager
def killed_before_change(number: int, folder: Path) -> Iterator[list[bool]]:
    """The block ends before its change of that number; the list says whether it came so far."""
    survived = [True]
    _killer.folder, _killer.left = str(folder), number
    try:
        yield survived
    except Killed:
        survived[0] = False
    finally:
        _killer.left = None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def bring(paper: Any) -> Callable[..., Path]:
    """Let a model come, be built and serve, as the watcher does it."""

    def bring(store: ModelStore, model: ModelRef, content: bytes | None = None) -> Path:
        archive = store.download_path(model)
        archive.write_bytes(paper.zip(model.version, id=model.id) if content is None else content)
        root = store.take_in(archive, model)
        store.begin_build(model)
        store.end_build()
        store.serve(model)
        return root

    return bring


def untouched(folder: Path, copy: Path) -> Path:
    if copy.exists():
        shutil.rmtree(copy)
    shutil.copytree(folder, copy, symlinks=True)
    return copy


def is_whole(store: ModelStore, model: ModelRef) -> bool:
    root = store.folder(model)
    return root is not None and (root / "model.txt").read_text() == "good"


def test_models_lie_where_older_nodes_look_for_them(folder: Path, bring: Any, paper: Any) -> None:
    """models/<version>, and current_model, a link that can be moved with its folder."""
    store = open_store(folder)
    bring(store, paper.ref("1.3"))
    assert json.loads((folder / "current_model" / "model.json").read_text())["version"] == "1.3"
    assert (folder / "current_model").readlink() == Path("models/1.3")


@pytest.mark.parametrize("exchanged", [False, True])
def test_a_crash_at_any_moment_leaves_a_model_that_serves(
    tmp_path: Path, folder: Path, bring: Any, paper: Any, exchanged: bool
) -> None:
    """Then the same update goes through, and nothing of the first attempt is left."""
    old = paper.ref("1.0")
    new = paper.ref("1.0", "q") if exchanged else paper.ref("1.1")
    bring(open_store(folder), old)
    number, survived = 0, [False]
    while not survived[0]:
        data = untouched(folder, tmp_path / "copy")
        with killed_before_change(number, data) as survived:
            bring(open_store(data), new)
        store = open_store(data)
        served = store.served()
        assert served[0] in (old, new), number
        assert all(is_whole(store, model) for model in served), number
        assert store.link.resolve() == store.models / served[0].version, number
        assert {model.version for model in served} == {*store.versions()} - (set() if new in served else {"1.1"}), (
            number
        )
        store.quarantine(0, 600)
        bring(store, new)
        assert store.served()[0] == new
        assert is_whole(store, new)
        assert [path.name for path in (store.models / ".incoming").iterdir()] == []
        assert not (data / "current_model.tmp").exists()
        number += 1
    assert number > 20


def test_a_crash_while_recovering_from_a_crash(tmp_path: Path, folder: Path, bring: Any, paper: Any) -> None:
    """Bringing back can itself be cut off anywhere."""
    old, new = paper.ref("1.0"), paper.ref("1.0", "q")
    store = open_store(folder)
    bring(store, old)
    archive = store.download_path(new)
    archive.write_bytes(paper.zip("1.0", id=new.id))
    store.take_in(archive, new)
    (folder / "current_model.tmp").symlink_to("models/0.9")
    number, survived = 0, [False]
    while not survived[0]:
        data = untouched(folder, tmp_path / "copy")
        with killed_before_change(number, data) as survived:
            open_store(data)
        store = open_store(data)
        assert store.served() == [old], number
        assert is_whole(store, old), number
        number += 1
    assert number > 5


@pytest.mark.parametrize("served_before", [False, True])
def test_a_model_whose_build_kills_the_process(folder: Path, bring: Any, paper: Any, served_before: bool) -> None:
    """It is held back after the restart; one that has served has a second chance, since a power cut looks the same."""
    model = paper.ref("1.0")
    store = open_store(folder)
    archive = store.download_path(model)
    archive.write_bytes(paper.zip("1.0"))
    store.take_in(archive, model)
    if served_before:
        store.serve(model)
    for death in range(2):
        open_store(folder).begin_build(model)
        held = open_store(folder).quarantine(100.0, 600.0)
        assert (model.id in held) == (death > 0 or not served_before)
    assert held[model.id].reason == "the process ended while it was being built"
    assert held[model.id].retry_at_s == 700.0
    store = open_store(folder)
    store.begin_build(model)
    store.end_build()
    store.serve(model)
    assert open_store(folder).quarantine(0, 600) == {}


def test_what_is_held_back_outlives_a_restart_and_a_wrong_clock(folder: Path, paper: Any) -> None:
    """For the rest of its time; never for longer than a failed build is held back."""
    model = paper.ref("1.0")

    def held(failure: Failure, retry_at_s: float) -> Quarantined:
        return Quarantined(model=model, failure=failure, reason="NaN", failures=1, retry_at_s=retry_at_s)

    open_store(folder).hold_back([held(Failure.BUILD, 400.0)], now_s=100.0)
    assert open_store(folder).quarantine(0.0, 600.0)[model.id].retry_at_s == pytest.approx(300.0, abs=10)
    record = json.loads((folder / "model_store.json").read_text())
    for year_s, wait_s in ((10 * 365 * 86400, 600.0), (-10 * 365 * 86400, 0.0)):
        record["held_back"][0]["retry_at"] = time.time() + year_s
        (folder / "model_store.json").write_text(json.dumps(record))
        assert open_store(folder).quarantine(0.0, 600.0)[model.id].retry_at_s == wait_s
    open_store(folder).hold_back([held(Failure.DOWNLOAD, 400.0)], now_s=100.0)
    assert open_store(folder).quarantine(0.0, 600.0) == {}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        "null",
        "[" * 100_000,
        '{"served": 3, "held_back": "x", "building": [], "deaths": 1}',
        '{"served": [{"id": "1", "version": "../x"}, {}, 3], "held_back": [{"id": 1}], "building": {"id": 2}}',
    ],
)
def test_a_record_that_somebody_broke_costs_no_model(folder: Path, bring: Any, paper: Any, content: str) -> None:
    """The folders and the link are enough."""
    bring(open_store(folder), paper.ref("1.0"))
    (folder / "model_store.json").write_text(content)
    assert open_store(folder).served() == [paper.ref("1.0")]


@pytest.mark.parametrize("link", ["current_model", "model"])
@pytest.mark.parametrize("is_absolute", [False, True])
def test_models_of_an_older_node_are_taken_over(folder: Path, paper: Any, link: str, is_absolute: bool) -> None:
    """With the linked one as the last that served, whatever the other folders' age."""
    for version in ("1.0", "1.2", "1.1"):
        (folder / "models" / version).mkdir(parents=True)
        said = {"id": paper.uuid(version), "organization": "o", "project": "p", "version": version}
        (folder / "models" / version / "model.json").write_text(json.dumps(said))
    (folder / "models" / "half").mkdir()
    (folder / "models" / "1.5").mkdir()
    (folder / link).symlink_to((folder if is_absolute else Path()) / "models" / "1.2")
    store = open_store(folder)
    assert store.served()[0] == paper.ref("1.2")
    assert {model.version for model in store.served()} == {"1.0", "1.1", "1.2"}
    assert store.find(paper.ref("1.1")) == folder / "models" / "1.1"


def test_the_last_models_that_served_are_kept(folder: Path, bring: Any, paper: Any) -> None:
    """The current one among them; those held back do not count, foreign folders are left alone."""
    store = open_store(folder, keep=2)
    for version in ("1.9", "1.10", "2.0", "1.0"):
        bring(store, paper.ref(version))
    assert store.versions() == ["1.0", "2.0"]
    bring(store, paper.ref("3.0"))
    held = Quarantined(model=paper.ref("1.0"), failure=Failure.BUILD, reason="", failures=1, retry_at_s=9.0)
    store.hold_back([held], 0.0)
    (store.models / "notes").mkdir()
    bring(store, paper.ref("3.1"))
    assert store.versions() == ["3.0", "3.1"]
    held = Quarantined(model=paper.ref("3.1"), failure=Failure.BUILD, reason="", failures=1, retry_at_s=9.0)
    store.hold_back([held], 0.0)
    store.serve(paper.ref("3.0"))
    assert [model.version for model in store.served()] == ["3.0", "3.1"]
    assert (store.models / "notes").is_dir()


@pytest.mark.parametrize("stale", ["link", "file", "folder"])
def test_the_link_switches_whatever_lies_in_its_way(folder: Path, bring: Any, paper: Any, stale: str) -> None:
    """A temporary link of a crash, or a copied folder in the link's own place."""
    store = open_store(folder)
    bring(store, paper.ref("1.0"))
    temporary = folder / "current_model.tmp"
    if stale == "link":
        temporary.symlink_to("models/0.1")
    elif stale == "file":
        temporary.write_text("x")
    else:
        temporary.mkdir()
        store.link.unlink()
        store.link.mkdir()
        (store.link / "model.json").write_text("{}")
    bring(store, paper.ref("1.1"))
    assert store.link.readlink() == Path("models/1.1")
    assert not temporary.exists()


def test_nested_folders_are_kept(folder: Path, bring: Any, paper: Any) -> None:
    """The model's root is where `model.json` lies."""
    said = json.dumps({"organization": "o", "project": "p", "categories": [], "mine": {"a": 1}})
    content = paper.zip("1.0", {"model.json": "", "a/model.json": said, "a/b/c/weights": "w"})
    model = paper.ref("1.0")
    root = bring(open_store(folder), model, content)
    assert root == folder / "models" / "1.0" / "a"
    assert (root / "b" / "c" / "weights").read_text() == "w"
    written = json.loads((root / "model.json").read_text())
    assert (written["id"], written["version"], written["mine"]) == (model.id, "1.0", {"a": 1})


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"model.json": ""}, "must hold one model.json, not 0"),
        ({"model.json": "", "a/model.json": "{}", "b/model.json": "{}"}, "must hold one model.json, not 2"),
        ({"model.json": "[]"}, "an object is needed"),
        ({"model.json": '{"resolution": "big"}'}, "resolution: a whole number is needed"),
        ({"/etc/x": "x"}, "outside of its folder"),
        ({"weights": bytes(1_100_000)}, "unpacks to more than 1000000 bytes"),
    ],
)
def test_what_is_no_model_is_refused_with_words(
    folder: Path, bring: Any, paper: Any, files: dict[str, Any], said: str
) -> None:
    """And nothing of it stays."""
    store = open_store(folder, max_bytes=1_000_000)
    with pytest.raises(ModelError, match=said):
        bring(store, paper.ref("1.0"), paper.zip("1.0", files))
    assert store.versions() == []
    assert [path.name for path in (store.models / ".incoming").iterdir()] == []


def test_the_disk_keeps_its_reserve(folder: Path) -> None:
    """What is asked of the Loop is bounded by what the disk has, and by the model's own limit."""
    assert open_store(folder, max_bytes=1000).room_bytes() == 1000
    with pytest.raises(ModelError, match="MIN_FREE_DISK_BYTES keeps") as refused:
        open_store(folder, min_free_bytes=1 << 60).room_bytes()
    assert isinstance(refused.value.__cause__, OSError)


def test_a_discarded_model_is_fetched_anew(folder: Path, bring: Any, paper: Any) -> None:
    """One that has served stays on disk for times without a network; one that has not goes."""
    store = open_store(folder)
    served, fresh = paper.ref("1.0"), paper.ref("1.1")
    bring(store, served)
    archive = store.download_path(fresh)
    archive.write_bytes(paper.zip("1.1"))
    store.take_in(archive, fresh)
    for model in (served, fresh):
        store.discard(model)
        assert store.find(model) is None
    assert store.versions() == ["1.0"]
    assert store.folder(served) is not None
    bring(store, served)
    assert store.find(served) is not None


def test_a_reset_leaves_what_is_not_the_stores(folder: Path, bring: Any, paper: Any) -> None:
    """The outbox above all."""
    store = open_store(folder)
    bring(store, paper.ref("1.0"))
    (folder / "outbox").mkdir()
    store.reset()
    assert sorted(path.name for path in folder.iterdir()) == ["model_store.json", "models", "outbox"]
    assert (store.versions(), store.served()) == ([], [])
    bring(store, paper.ref("1.0"))
