"""A detector that follows a Learning Loop: a real disk, a real engine, models and a Loop made of paper."""

import errno
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from loop_node.detector.update_policy import Delays
from loop_node.errors import InputError, LoopRefused, LoopUnavailable
from loop_node.schemas.status import OperationMode, VersionControl

SOON = Delays(download_first_s=0.01, download_cap_s=0.02, build_s=0.01)
LATER = Delays(download_first_s=3600, download_cap_s=3600, build_s=3600)


async def test_it_follows_the_target(machines: Any, loop: Any) -> None:
    """Download, build, exchange; the next start serves it without asking anybody."""
    loop.publish("1.0")
    async with machines.start() as machine:
        await machine.settle()
        assert (machine.version, machine.disk) == ("1.0", ["1.0"])
        async with machine.streaming():
            loop.publish("1.1")
            await machine.settle()
        assert (machine.version, machine.failed) == ("1.1", [])
        assert {*machine.detected} == {"1.0", "1.1"}
        assert machine.store.link.resolve() == machine.store.models / "1.1"
        assert machine.state.operation_mode is OperationMode.IDLE
    loop.fault = LoopUnavailable("no route to host")
    async with machines.start() as machine:
        await machine.until(lambda: machine.version)
        assert machine.version == "1.1"
        assert machine.state.errors == {"deployment_target": "no route to host"}
        assert len(loop.downloads) == 2


async def test_what_it_says_of_versions(machines: Any, loop: Any, paper: Any) -> None:
    """Current, target, the Loop's and those on disk, in each mode."""
    loop.publish("1.0")
    async with machines.start() as machine:
        await machine.settle()
        loop.publish("1.1", deploy=False)
        await machine.watcher.set_mode("1.1")
        await machine.settle()
        said = machine.state.model_version(machine.engine.model)
        assert (said.current_version, said.target_version, said.loop_version) == ("1.1", "1.1", "1.0")
        assert (said.local_versions, said.version_control) == (["1.0", "1.1"], "specific_version")
        await machine.watcher.set_mode("pause")
        loop.publish("1.2")
        await machine.settle()
        said = machine.state.model_version(machine.engine.model)
        assert (said.current_version, said.target_version, said.loop_version) == ("1.1", "1.1", "1.2")
        assert said.version_control == "pause"
        await machine.watcher.set_mode("follow_loop")
        await machine.settle()
        assert machine.version == "1.2"
        assert machine.state.model_version(machine.engine.model).target_version == "1.2"


BAD = {
    "no zip": lambda zipped: b"this is no zip",
    "half a zip": lambda zipped: zipped("2.0")[:-30],
    "a zip that climbs": lambda zipped: zipped("2.0", {"../../out": "x"}),
    "no model.json": lambda zipped: zipped("2.0", {"model.json": ""}),
    "a model.json that is none": lambda zipped: zipped("2.0", {"model.json": "[]"}),
    "wrong types": lambda zipped: zipped("2.0", resolution="large"),
    "a bomb": lambda zipped: zipped("2.0", {"weights": bytes(2_000_000)}),
    "refused by the builder": lambda zipped: zipped("2.0", {"model.txt": "refuses"}),
    "a builder that crashes": lambda zipped: zipped("2.0", {"model.txt": "raises"}),
    "a builder that hangs": lambda zipped: zipped("2.0", {"model.txt": "hangs"}),
}


@pytest.mark.parametrize("bad", BAD)
async def test_a_bad_model_never_stops_detection(machines: Any, loop: Any, paper: Any, bad: str, caplog: Any) -> None:
    """Every image is answered by the old model; the bad one is held back with its reason, and the disk is clean."""
    loop.publish("1.0")
    async with machines.start(delays=LATER, build_timeout_s=0.2) as machine:
        await machine.settle()
        async with machine.streaming():
            loop.publish("2.0", BAD[bad](paper.zip))
            await machine.settle()
        assert (machine.version, machine.failed, machine.disk) == ("1.0", [], ["1.0"])
        assert machine.state.errors["model"].startswith("model 2.0")
        about = machine.state.about(machine.engine.model)
        assert about["errors"] == machine.state.errors
        assert about["held_back"][0]["version"] == "2.0"
        assert about["held_back"][0]["retry_in_s"] > 3000
        assert [path.name for path in (machine.store.models / ".incoming").iterdir()] == []
        loop.publish("2.1")
        await machine.settle()
        assert (machine.version, machine.state.errors) == ("2.1", {})
    assert not (machines.folder.parent / "out").exists()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (LoopUnavailable("reset by peer"), "reset by peer"),
        (LoopRefused(404, "no such format"), "404: no such format"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
async def test_a_download_that_fails_is_tried_again(machines: Any, loop: Any, fault: Exception, said: str) -> None:
    """The old model serves meanwhile; a part of the zip is not taken for the whole."""
    loop.publish("1.0")
    async with machines.start(delays=SOON) as machine:
        await machine.settle()
        async with machine.streaming():
            loop.download_fault, loop.cut_at = fault, 20
            loop.publish("1.1")
            await machine.watcher.read_target()
            await machine.until(lambda: loop.downloads.count(loop.target.model_uuid) > 3)
            assert said in machine.state.errors["model"]
            assert machine.state.about(None)["held_back"][0]["failed_at"] == "download"
            loop.download_fault = loop.cut_at = None
            await machine.until(lambda: machine.version == "1.1")
        assert machine.failed == []


async def test_a_new_target_does_not_wait_for_the_old_ones_retry(machines: Any, loop: Any) -> None:
    """Nor does the old one when it is the target anew."""
    loop.publish("1.0")
    async with machines.start(delays=LATER) as machine:
        loop.download_fault = LoopUnavailable("reset by peer")
        await machine.settle()
        first = loop.target
        loop.publish("1.1")
        await machine.settle()
        assert len(loop.downloads) == 2
        loop.download_fault, loop.target = None, first
        await machine.settle()
        assert machine.version == "1.0"


async def test_a_failed_build_is_tried_again_with_a_fresh_download(machines: Any, loop: Any, paper: Any) -> None:
    """It may have been the file."""
    loop.publish("1.0", paper.zip("1.0", {"model.txt": "refuses"}))
    async with machines.start(delays=SOON) as machine:
        await machine.watcher.read_target()
        await machine.until(lambda: len(loop.downloads) > 2)
        loop.zips[paper.uuid("1.0")] = paper.zip("1.0")
        await machine.until(lambda: machine.version == "1.0")
        assert machine.state.errors == {}


async def test_a_model_that_failed_is_not_tried_first_thing_after_a_restart(
    machines: Any, loop: Any, paper: Any
) -> None:
    """Its retry time is kept on disk."""
    loop.publish("1.0")
    async with machines.start(delays=LATER) as machine:
        await machine.settle()
        loop.publish("1.1", paper.zip("1.1", {"model.txt": "refuses"}))
        await machine.settle()
    async with machines.start(delays=LATER) as machine:
        await machine.settle()
        assert machine.version == "1.0"
        assert machine.paperwork.tried == ["1.0", "1.1", "1.0"]
        assert machine.state.about(None)["held_back"][0]["reason"].startswith("the model has 3 inputs")
        assert machine.state.errors["model"].startswith("model 1.1: the model has 3 inputs")


async def test_pause_stops_a_download(machines: Any, loop: Any) -> None:
    """And following again starts it anew."""
    loop.publish("1.0")
    async with machines.start() as machine:
        await machine.settle()
        loop.publish("1.1")
        loop.stall = trio.Event()
        await machine.watcher.read_target()
        await loop.stalled.wait()
        assert machine.state.about(machine.engine.model)["download"]["version"] == "1.1"
        await machine.watcher.set_mode("pause")
        await machine.settle()
        assert (machine.version, machine.state.download, machine.state.errors) == ("1.0", None, {})
        loop.stall = None
        await machine.watcher.set_mode("follow_loop")
        await machine.settle()
        assert machine.version == "1.1"


@pytest.mark.parametrize("how", ["pause", "detecting"])
async def test_what_comes_of_a_build_that_is_not_wanted_any_more_is_freed(
    machines: Any, loop: Any, paper: Any, how: str
) -> None:
    """The thread cannot be stopped, but nobody serves what it makes."""
    loop.publish("1.0")
    async with machines.start() as machine:
        await machine.settle()
        loop.publish("1.1", paper.zip("1.1", {"model.txt": "hangs"}))
        await machine.watcher.read_target()
        await machine.until(machine.paperwork.hanging.is_set)
        if how == "pause":
            await machine.watcher.set_mode("pause")
        else:
            machine.watcher.set_operation_mode(OperationMode.DETECTING)
        await machine.settle()
        machine.paperwork.go_on.set()
        await machine.until(lambda: machine.paperwork.built[-1].closed)
        assert (machine.version, machine.state.errors) == ("1.0", {})
        await machine.watcher.set_mode("follow_loop")
        machine.watcher.set_operation_mode(OperationMode.IDLE)
        await machine.settle()
        assert machine.version == "1.1"


async def test_while_detecting_the_model_stays(machines: Any, loop: Any) -> None:
    """The target is known all the same."""
    loop.publish("1.0")
    async with machines.start() as machine:
        await machine.settle()
        machine.watcher.set_operation_mode(OperationMode.DETECTING)
        loop.publish("1.1")
        await machine.settle()
        assert (machine.version, machine.state.loop_version) == ("1.0", "1.1")
        machine.watcher.set_operation_mode(OperationMode.IDLE)
        await machine.settle()
        assert machine.version == "1.1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Invalid version number"),
        ("latest", "Invalid version number"),
        ("../1.0", "Invalid version number"),
        ("1.0.", "Invalid version number"),
        ("\u0661.0", "Invalid version number"),
        ("9.9", "No Model with version 9.9"),
        ("3.0", "Multiple models with version 3.0"),
        ("previous", "there is no previous model on this disk"),
    ],
)
async def test_a_mode_is_checked_before_it_changes_anything(
    machines: Any, loop: Any, paper: Any, text: str, said: str
) -> None:
    """What followed the Loop goes on following it."""
    loop.publish("1.0")
    loop.publish("3.0", deploy=False)
    loop.publish("3.0", model_id=paper.uuid("3.0", "q"), deploy=False)
    async with machines.start() as machine:
        await machine.settle()
        with pytest.raises(InputError, match=f"^{said}$"):
            await machine.watcher.set_mode(text)
        assert machine.state.version_control is VersionControl.FOLLOW_LOOP
        loop.publish("1.1")
        await machine.settle()
        assert machine.version == "1.1"


async def test_modes_set_at_the_same_time_leave_one_on_disk(machines: Any, loop: Any) -> None:
    """The one that is in force."""
    async with machines.start(persist_mode=True) as machine:
        async with trio.open_nursery() as nursery:
            for text in ("pause", "follow_loop") * 10:
                nursery.start_soon(machine.watcher.set_mode, text)
        written = json.loads((machines.folder / "version_control.json").read_text())
        assert written == {"mode": machine.state.version_control}


async def test_without_the_loop_a_version_cannot_be_chosen(machines: Any, loop: Any) -> None:
    """Whether it refuses, is gone, or does not answer at all."""
    async with machines.start(answer_timeout_s=0.01) as machine:
        for loop.fault in (LoopUnavailable("gone"), LoopRefused(500, "")):
            with pytest.raises(InputError, match=r"^Failed to load models from learning loop$"):
                await machine.watcher.set_mode("1.0")
        loop.fault, loop.is_silent = None, True
        with pytest.raises(InputError, match=r"^Failed to load models from learning loop$"):
            await machine.watcher.set_mode("1.0")
        await machine.watcher.set_mode("pause")


async def test_a_specific_version_that_failed_is_tried_again(machines: Any, loop: Any) -> None:
    """As a target is."""
    loop.publish("1.0", deploy=False)
    async with machines.start(delays=SOON) as machine:
        loop.download_fault = LoopUnavailable("503")
        await machine.watcher.set_mode("1.0")
        await machine.until(lambda: len(loop.downloads) > 2)
        loop.download_fault = None
        await machine.until(lambda: machine.version == "1.0")
        assert loop.asked_formats == ["openvino"]


async def test_previous_goes_back_without_the_loop(machines: Any, loop: Any) -> None:
    """And, asked for twice, forth again."""
    async with machines.start() as machine:
        for version in ("1.0", "1.1"):
            loop.publish(version)
            await machine.settle()
        loop.fault = LoopUnavailable("gone")
        for version in ("1.0", "1.1"):
            await machine.watcher.set_mode("previous")
            with trio.fail_after(10):
                await machine.watcher.wait_idle()
            assert machine.version == version
        assert len(loop.downloads) == 2


@pytest.mark.parametrize("is_kept", [True, False])
async def test_a_mode_outlives_the_process_where_that_is_wanted(machines: Any, loop: Any, is_kept: bool) -> None:
    """PERSIST_MODE; without it the default counts after a restart."""
    loop.publish("1.0", deploy=False)
    loop.publish("1.1")
    async with machines.start(persist_mode=is_kept) as machine:
        await machine.watcher.set_mode("1.0")
        await machine.settle()
    async with machines.start(persist_mode=is_kept) as machine:
        await machine.settle()
        assert machine.version == ("1.0" if is_kept else "1.1")
        assert machine.state.version_control == ("specific_version" if is_kept else "follow_loop")


@pytest.mark.parametrize("content", ["", "[", "[]", '{"mode": "fly"}', '{"mode": "specific_version"}', '{"mode": 3}'])
async def test_a_mode_that_cannot_be_read_is_the_default(machines: Any, loop: Any, content: str) -> None:
    """Whatever somebody left there."""
    machines.folder.mkdir()
    (machines.folder / "version_control.json").write_text(content)
    loop.publish("1.0")
    async with machines.start(persist_mode=True) as machine:
        await machine.settle()
        assert machine.version == "1.0"


async def test_the_local_model_serves_until_there_is_a_target(machines: Any, loop: Any) -> None:
    """MODEL first, the target as soon as it is known, and after a restart the last good one."""
    async with machines.start(local="local") as machine:
        await machine.settle()
        assert machine.version == "local"
        async with machine.streaming():
            loop.publish("1.0")
            await machine.settle()
        assert (machine.version, machine.failed) == ("1.0", [])
    loop.fault = LoopUnavailable("gone")
    async with machines.start(local="local") as machine:
        await machine.until(lambda: machine.version)
        assert machine.version == "1.0"
    async with machines.start(local="local", default_control=VersionControl.PAUSE) as machine:
        await machine.until(lambda: machine.version)
        assert machine.version == "local"


async def test_a_last_good_model_that_does_not_build_any_more(machines: Any, loop: Any) -> None:
    """The one before serves, then MODEL; the reason is said, and the broken one is fetched anew in its time."""
    async with machines.start() as machine:
        for version in ("1.0", "1.1"):
            loop.publish(version)
            await machine.settle()
    machines.paperwork.broken = {"1.1"}
    loop.fault = LoopUnavailable("gone")
    async with machines.start(delays=LATER) as machine:
        await machine.until(lambda: machine.version)
        assert machine.version == "1.0"
        assert machine.state.errors["model"].startswith("model 1.1: the model has 3 inputs")
        assert machine.disk == ["1.0", "1.1"]
        loop.fault = None
        await machine.settle()
        assert machine.state.errors["model"].startswith("model 1.1: the model has 3 inputs")
        loop.fault = LoopUnavailable("gone")
    machines.paperwork.broken = {"1.0", "1.1"}
    async with machines.start(local="local", delays=LATER) as machine:
        await machine.until(lambda: machine.version)
        assert machine.version == "local"


async def test_an_exclusive_build_frees_the_old_model_first(machines: Any, loop: Any, paper: Any) -> None:
    """Clients are told what happens; if the new one fails, the old one is built again."""
    loop.publish("1.0")
    async with machines.start(exclusive=True, delays=LATER) as machine:
        await machine.settle()
        loop.publish("1.1", paper.zip("1.1", {"model.txt": "hangs"}))
        await machine.watcher.read_target()
        await machine.until(machine.paperwork.hanging.is_set)
        assert machine.paperwork.built[0].closed
        assert (machine.version, machine.engine.why_no_model) == (None, "updating model to version 1.1")
        machine.paperwork.go_on.set()
        await machine.settle()
        assert (machine.version, machine.state.updating_to) == ("1.1", None)
        loop.publish("1.2", paper.zip("1.2", {"model.txt": "refuses"}))
        await machine.settle()
        assert machine.version == "1.1"
        assert machine.state.errors["model"].startswith("model 1.2: ")


async def test_a_model_of_the_same_version_of_another_project(machines: Any, loop: Any, paper: Any) -> None:
    """It replaces the old one, unless it does not work."""
    loop.publish("1.0")
    async with machines.start(delays=LATER) as machine:
        await machine.settle()
        loop.publish("1.0", paper.zip("1.0", {"model.txt": "refuses"}), model_id=paper.uuid("1.0", "q"))
        await machine.settle()
        assert machine.state.errors["model"].startswith("model 1.0: ")
        assert machine.store.folder(paper.ref("1.0")) is not None
        loop.publish("1.0", model_id=paper.uuid("1.0", "r"))
        await machine.settle()
        assert machine.engine.model.information.id == paper.uuid("1.0", "r")
        assert machine.store.folder(paper.ref("1.0")) is None


async def test_a_target_that_is_none_is_only_said(machines: Any, loop: Any) -> None:
    """What the Loop says becomes a path only if it looks like one."""
    loop.publish("1.0")
    async with machines.start() as machine:
        await machine.settle()
        loop.publish("../../1.1")
        await machine.settle()
        assert machine.version == "1.0"
        assert "'../../1.1'" in machine.state.errors["deployment_target"]
        loop.publish("1.1", model_id="../x")
        await machine.settle()
        assert "no uuid" in machine.state.errors["deployment_target"]
        loop.publish("1.2")
        await machine.settle()
        assert (machine.version, machine.state.errors) == ("1.2", {})


async def test_health_says_that_the_target_cannot_be_read(machines: Any, loop: Any) -> None:
    """The task waits, it is not broken."""
    loop.fault = LoopUnavailable("certificate has expired", kind="tls")
    async with machines.start() as machine:
        await machine.until(lambda: machine.health.tasks["model_watcher"].state.value == "waiting")
        assert "certificate has expired" in machine.health.tasks["model_watcher"].reason
        assert machine.state.errors == {"deployment_target": "certificate has expired"}


async def test_a_reset_forgets_models_and_modes(machines: Any, loop: Any) -> None:
    """What follows is a first start: MODEL, then the target."""
    loop.publish("1.0")
    async with machines.start(local="local", persist_mode=True) as machine:
        await machine.settle()
        await machine.watcher.set_mode("pause")
        (machines.folder / "outbox").mkdir()
        await machine.watcher.reset()
        await machine.until(lambda: machine.version == "local")
        assert machine.state.version_control is VersionControl.FOLLOW_LOOP
        assert not (machines.folder / "version_control.json").exists()
        assert (machines.folder / "outbox").exists()
        await machine.settle()
        assert (machine.version, len(loop.downloads)) == ("1.0", 2)


async def test_loading_anew_serves_the_same_model(machines: Any, loop: Any) -> None:
    """Built once more; if that fails, it goes on as it was."""
    loop.publish("1.0")
    async with machines.start() as machine:
        await machine.settle()
        first = machine.engine.model
        await machine.watcher.load()
        assert machine.engine.model is not first
        assert machine.version == "1.0"


async def test_many_exchanges_leave_nothing_behind(machines: Any, loop: Any) -> None:
    """Each old model is freed; the disk keeps three; the record stays small."""
    loop.publish("1.0")
    async with machines.start() as machine:
        await machine.settle()
        async with machine.streaming():
            for number in range(1, 40):
                loop.publish(f"1.{number}")
                await machine.settle()
                assert machine.version == f"1.{number}"
        assert machine.failed == []
        assert [model.closed for model in machine.paperwork.built] == [True] * 39 + [False]
        assert machine.disk == ["1.37", "1.38", "1.39"]
        assert len(json.loads((machines.folder / "model_store.json").read_text())["served"]) <= 100


async def test_a_later_wish_is_not_undone_by_an_earlier_one(machines: Any, loop: Any) -> None:
    """A version that the Loop took long to look up does not end a pause that came after it."""
    loop.publish("1.0", deploy=False)
    async with machines.start(answer_timeout_s=30) as machine:
        await machine.settle()
        refused: list[str] = []

        async def choose() -> None:
            try:
                await machine.watcher.set_mode("1.0")
            except InputError as error:
                refused.append(str(error))

        loop.pause = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(choose)
            await trio.testing.wait_all_tasks_blocked()
            await machine.watcher.set_mode("pause")
            loop.pause.set()
        assert refused == ["another version control was asked for meanwhile"]
        assert machine.state.version_control is VersionControl.PAUSE


async def test_a_model_that_is_here_already_is_not_downloaded(machines: Any, loop: Any, paper: Any) -> None:
    """What a stop in the middle of its build has left is whole, and no reason for suspicion."""
    loop.publish("1.0", paper.zip("1.0", {"model.txt": "hangs"}))
    async with machines.start() as machine:
        await machine.watcher.read_target()
        await machine.until(machine.paperwork.hanging.is_set)
    machines.paperwork.go_on.set()
    async with machines.start() as machine:
        await machine.settle()
        assert (machine.version, len(loop.downloads)) == ("1.0", 1)


async def test_builds_that_hang_are_bounded(machines: Any, loop: Any, paper: Any) -> None:
    """Threads cannot be stopped, so there are never more than three of them."""
    async with machines.start(build_timeout_s=0.02, delays=LATER) as machine:
        for number in range(5):
            loop.publish(f"1.{number}", paper.zip(f"1.{number}", {"model.txt": "hangs"}))
            await machine.settle()
        assert len(machine.paperwork.tried) == 3
        assert "3 builds hang already" in machine.state.errors["model"]
        machine.paperwork.go_on.set()
        await machine.until(lambda: len(machine.paperwork.built) == 3)
        loop.publish("2.0")
        await machine.settle()
        assert machine.version == "2.0"


async def test_a_full_disk_at_any_moment(machines: Any, loop: Any) -> None:
    """From any change of the disk on, none is possible: the task lives, images are answered, and later all is well."""
    loop.publish("0.1")
    async with machines.start(delays=SOON) as machine:
        await machine.settle()
        number = 0
        async with machine.streaming():
            while await _meets_a_full_disk(machine, f"1.{number}", after=number):
                number += 1
        assert machine.failed == []
        assert number > 15
        loop.publish("2.0")
        await machine.settle()
        assert machine.state.errors == {}
        assert machine.store.link.resolve().name == "2.0"


async def _meets_a_full_disk(machine: Any, version: str, *, after: int) -> bool:
    """Whether an update changes the disk more often than that; it goes through once there is room again."""
    machine.loop.publish(version)
    with _full_disk(after, machine.store.data_folder) as refusals:
        await machine.watcher.read_target()
        await machine.until(lambda: machine.version == version or (machine.state.errors and refusals))
    await machine.until(lambda: machine.version == version)
    await machine.settle()
    return bool(refusals)


async def test_what_the_disk_did_not_take_is_noted_later(machines: Any, loop: Any) -> None:
    """The model that serves is the one that a restart finds, as soon as there is room for a link."""
    loop.publish("1.0")
    async with machines.start() as machine:
        await machine.settle()
        loop.publish("1.1")
        with _full_disk(0, machines.folder, only="os.symlink"):
            await machine.settle()
            await machine.watcher.exchange.catch_up()
        assert (machine.version, machine.store.link.resolve().name) == ("1.1", "1.0")
        assert "No space left" in machine.state.errors["model_store"]
        await machine.watcher.exchange.catch_up()
        assert (machine.store.link.resolve().name, machine.state.errors) == ("1.1", {})


_hook_state: dict[str, Any] = {"left": None}


def _refuse_changes(event: str, arguments: tuple[Any, ...]) -> None:
    left = _hook_state["left"]
    if left is None:
        return
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    changes = event in ("os.rename", "os.mkdir", "os.symlink", "tempfile.mkdtemp")
    if _hook_state["only"] not in (None, event):
        return
    if changes or (writes and str(arguments[0]).startswith(_hook_state["folder"])):
        _hook_state["left"] -= 1
        if left <= 0:
            _hook_state["refusals"].append(event)
            raise OSError(errno.ENOSPC, "No space left on device")


sys.addaudithook(_refuse_changes)


@contextmanager
def _full_disk(after: int, folder: Path, *, only: str | None = None) -> Iterator[list[str]]:
    """From the change of that number on, the disk takes none; the list names those refused."""
    refusals: list[str] = []
    _hook_state.update(folder=str(folder), refusals=refusals, only=only, left=after)
    try:
        yield refusals
    finally:
        _hook_state["left"] = None
