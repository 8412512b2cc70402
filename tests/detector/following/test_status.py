"""What a detector tells the Learning Loop of itself, and when."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import trio

from loop_node.detector.state import DetectorState, Download
from loop_node.detector.status import NodeIdentity, StatusReporter
from loop_node.detector.update_policy import Delays
from loop_node.errors import LoopRefused, LoopUnavailable
from loop_node.inference.engine import Engine
from loop_node.schemas.status import OperationMode, VersionControl
from loop_node.supervision import Criticality, Health, Task, supervise

WHO = NodeIdentity(uuid="u", name="detector-pc7", model_format="openvino", node_version="7.1")


@asynccontextmanager
async def reporting(loop: Any, **how: Any) -> AsyncIterator[tuple[DetectorState, Health]]:
    state, health = DetectorState(operation_mode=OperationMode.IDLE), Health()
    how = {"every_s": 3600, "look_s": 0.001} | how
    reporter = StatusReporter(source=loop, engine=Engine(), state=state, identity=WHO, dice=lambda: 0.5, **how)
    task = Task(name="status_reporter", run=reporter.run, criticality=Criticality.DEGRADABLE)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(supervise, [task], health=health))
        yield state, health
        assert health.tasks["status_reporter"].restarts == 0
        nursery.cancel_scope.cancel()


async def reports(loop: Any, number: int) -> Any:
    with trio.fail_after(10):
        while len(loop.reports) < number:
            await loop.reported.wait()
    return loop.reports[number - 1]


async def test_the_first_report_comes_at_once(loop: Any) -> None:
    """With all the contract's fields."""
    async with reporting(loop):
        assert attrs.asdict(await reports(loop, 1)) == {
            "uuid": "u",
            "name": "detector-pc7",
            "state": "idle",
            "uptime": 0,
            "model_format": "openvino",
            "current_model": None,
            "target_model": None,
            "errors": {},
            "operation_mode": "idle",
            "node_version": "7.1",
        }


async def test_a_change_is_reported(loop: Any) -> None:
    """Modes, targets and errors; once each, and nothing in between."""
    async with reporting(loop) as (state, _):
        await reports(loop, 1)
        state.operation_mode = OperationMode.DETECTING
        assert (await reports(loop, 2)).state == "detecting"
        state.target_version = "1.3"
        state.model_error = "model 1.3: NaN"
        state.note_fault("deployment_target", "refused")
        said = await reports(loop, 3)
        assert (said.target_model, said.errors) == (
            "1.3",
            {"model": "model 1.3: NaN", "deployment_target": "refused"},
        )
        state.version_control = VersionControl.PAUSE
        assert (await reports(loop, 4)).target_model is None
        state.download = Download(version="1.3", total_bytes=10)
        assert (await reports(loop, 5)).state == "preparing"
        state.download = Download(version="1.3", received_bytes=5, total_bytes=10)
        await trio.sleep(0.01)  # ten looks, none of which sees a change
        assert len(loop.reports) == 5


async def test_it_reports_now_and_then(loop: Any) -> None:
    """Also when nothing changes."""
    async with reporting(loop, every_s=0.01):
        await reports(loop, 4)


async def test_a_fault_of_the_loop_is_only_said(loop: Any) -> None:
    """In `/about` and in health; the report is made up for."""
    loop.fault = LoopUnavailable("a captive portal answered", kind="not a loop")
    delays = Delays(download_first_s=0.001, download_cap_s=0.001)
    async with reporting(loop, delays=delays) as (state, health):
        with trio.fail_after(10):
            while "status_report" not in state.errors:
                await trio.sleep(0.001)
        assert "captive portal" in state.errors["status_report"]
        loop.fault = LoopRefused(403, "not this project")
        with trio.fail_after(10):
            while "403" not in health.tasks["status_reporter"].reason:
                await trio.sleep(0.0001)
        loop.fault = None
        assert (await reports(loop, 1)).errors == {}
        with trio.fail_after(10):
            while state.errors:
                await trio.sleep(0.001)
