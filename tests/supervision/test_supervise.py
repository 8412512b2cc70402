"""Tasks that raise, hang, return and resist: each one's fate, and that its siblings never notice."""

# pytest-trio takes its clock from an argument of the test, used or not

import json
import logging
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from loop_node.errors import LoopUnavailable, ModelError, TaskGivenUp
from loop_node.supervision import (
    Backoff,
    CrashBudget,
    Criticality,
    Health,
    Restart,
    Task,
    TaskHandle,
    TaskState,
    supervise,
)

Run = Callable[[TaskHandle], Awaitable[None]]

EVEN = Backoff(first_s=1, factor=2, jitter=0)  # 1, 2, 4 ... s, no dice


def vital(name: str, run: Run, **options: object) -> Task:
    return Task(name=name, run=run, criticality=Criticality.VITAL, backoff=EVEN, **options)  # type: ignore[arg-type]  # options of many types


def degradable(name: str, run: Run, **options: object) -> Task:
    return Task(name=name, run=run, criticality=Criticality.DEGRADABLE, backoff=EVEN, **options)  # type: ignore[arg-type]  # options of many types


async def serve(handle: TaskHandle) -> None:
    handle.ready()
    await trio.sleep_forever()


async def never_ready(_: TaskHandle) -> None:
    await trio.sleep_forever()


async def crash(handle: TaskHandle) -> None:
    handle.ready()
    await trio.lowlevel.checkpoint()
    raise ValueError("boom")


async def hang(handle: TaskHandle) -> None:
    handle.ready()
    await trio.sleep_forever()


async def come_back(handle: TaskHandle) -> None:
    handle.ready()
    await trio.lowlevel.checkpoint()


async def crash_in_nested_nursery(handle: TaskHandle) -> None:
    async with trio.open_nursery() as outer:
        outer.start_soon(trio.sleep_forever)
        async with trio.open_nursery() as inner:
            inner.start_soon(trio.sleep_forever)
            handle.ready()
            raise ValueError("boom")


async def crash_before_ready(_: TaskHandle) -> None:
    await trio.lowlevel.checkpoint()
    raise ModelError("no graph")


async def crash_unprintably(_: TaskHandle) -> None:
    unprintable = type("Unprintable", (Exception,), {"__str__": lambda _: str(1 // 0)})
    await trio.lowlevel.checkpoint()
    raise unprintable


async def crash_when_cut(handle: TaskHandle) -> None:
    handle.ready()
    try:
        await trio.sleep_forever()
    finally:
        raise ValueError("boom in the clean-up")


class Ticker:
    """Ticks each second and writes down when; one tick late is a sibling that noticed."""

    def __init__(self) -> None:
        self.started = 0
        self.ticks_s: list[float] = []

    async def __call__(self, handle: TaskHandle) -> None:
        self.started += 1
        handle.ready()
        start_s = trio.current_time()
        while True:
            self.ticks_s.append(trio.current_time() - start_s)
            await trio.sleep_until(start_s + len(self.ticks_s))


@pytest.mark.parametrize(
    "misbehave",
    [crash, hang, come_back, crash_in_nested_nursery, crash_before_ready, crash_unprintably, crash_when_cut],
)
@pytest.mark.parametrize("restart", list(Restart))
async def test_siblings_never_notice(autojump_clock: MockClock, misbehave: Run, restart: Restart) -> None:
    """Whatever a degradable task does, the others run on, exactly on time."""
    first, last = Ticker(), Ticker()
    health = Health()
    tasks = [
        vital("first", first),
        degradable("odd", misbehave, restart=restart, silent_after_s=3.0),
        vital("last", last),
    ]
    with trio.move_on_after(100.5):
        await supervise(tasks, health=health)
    for ticker in (first, last):
        assert ticker.started == 1
        assert ticker.ticks_s == pytest.approx(range(101))
    assert health.tasks["first"].restarts == 0
    assert health.tasks["odd"].state is (
        TaskState.ENDED if misbehave is come_back and restart is not Restart.ALWAYS else TaskState.PARKED
    )


async def test_a_crash_is_answered_by_growing_delays(autojump_clock: MockClock) -> None:
    """A task comes back after 1, 2, 4 ... s, then is given up at the crash above its budget."""
    starts_s: list[float] = []

    async def run(handle: TaskHandle) -> None:
        starts_s.append(trio.current_time())
        await crash(handle)

    with pytest.raises(TaskGivenUp, match=r"task door is given up after 4 crashes in 300 s: ValueError: boom"):
        await supervise([vital("door", run, budget=CrashBudget(max_crashes=3))], health=Health())
    assert [at_s - starts_s[0] for at_s in starts_s] == pytest.approx([0, 1, 3, 7])


async def test_the_dice_shorten_the_delay(autojump_clock: MockClock) -> None:
    """The given dice decide the jitter."""
    start_s = trio.current_time()
    task = Task(
        name="door",
        run=crash,
        criticality=Criticality.VITAL,
        backoff=Backoff(first_s=1, jitter=0.5),
        budget=CrashBudget(max_crashes=1),
    )
    with pytest.raises(TaskGivenUp):
        await supervise([task], health=Health(), rng=lambda: 0.5)
    assert trio.current_time() - start_s == pytest.approx(0.75)


async def test_a_stable_run_forgets_old_delays(autojump_clock: MockClock) -> None:
    """After a minute of work the delays start over, and crashes out of the window are forgiven."""
    delays_s: list[float] = []
    ended_s = None

    async def run(handle: TaskHandle) -> None:
        nonlocal ended_s
        if ended_s is not None:
            delays_s.append(trio.current_time() - ended_s)
        handle.ready()
        await trio.sleep(70)
        ended_s = trio.current_time()
        raise OSError("gone")

    task = vital("door", run, budget=CrashBudget(max_crashes=1, window_s=60))
    with trio.move_on_after(1000):
        await supervise([task], health=Health())
    assert delays_s == pytest.approx([1] * 14)


async def test_given_up_vital_task_ends_the_others_first(autojump_clock: MockClock) -> None:
    """TaskGivenUp comes out bare, with its cause, after every sibling has cleaned up."""
    cleaned_up: list[str] = []

    async def careful(handle: TaskHandle) -> None:
        handle.ready()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
            cleaned_up.append("careful")

    tasks = [vital("door", crash, restart=Restart.NEVER), degradable("careful", careful)]
    health = Health()
    with pytest.raises(TaskGivenUp) as caught:
        await supervise(tasks, health=health)
    assert cleaned_up == ["careful"]
    assert isinstance(caught.value.__cause__, ValueError)
    assert health.failing() == {"door": "parked: given up: ValueError: boom"}


async def test_two_vital_tasks_given_up_at_once(autojump_clock: MockClock) -> None:
    """The first one is told, and never as a group."""
    tasks = [vital(name, crash, restart=Restart.NEVER) for name in ("a", "b")]
    with pytest.raises(TaskGivenUp):
        await supervise(tasks, health=Health())


async def test_returns_when_all_have_ended(autojump_clock: MockClock) -> None:
    """Tasks whose work is done end the supervision; a parked one does not hold it up."""
    health = Health()
    tasks = [
        vital("once", come_back, restart=Restart.NEVER),
        vital("once more", come_back, restart=Restart.ON_ERROR),
        degradable("broken", crash, restart=Restart.NEVER),
    ]
    await supervise(tasks, health=health)
    assert {name: record.state for name, record in health.tasks.items()} == {
        "once": TaskState.ENDED,
        "once more": TaskState.ENDED,
        "broken": TaskState.PARKED,
    }
    assert health.ready


async def test_nothing_to_supervise(autojump_clock: MockClock) -> None:
    """No tasks, no wait."""
    await supervise([], health=Health())


async def test_started_means_every_vital_task_is_up(autojump_clock: MockClock) -> None:
    """The node has started when all vital tasks are ready or ended, whatever the degradable ones do."""
    health = Health()

    async def slow(handle: TaskHandle) -> None:
        await trio.sleep(5)
        await serve(handle)

    tasks = [
        vital("slow", slow),
        vital("once", come_back, restart=Restart.NEVER),
        degradable("hangs", never_ready),
    ]
    async with trio.open_nursery() as nursery:
        start_s = trio.current_time()
        await nursery.start(partial(supervise, tasks, health=health))
        assert trio.current_time() - start_s == pytest.approx(5)
        assert health.ready
        assert health.tasks["hangs"].state is TaskState.STARTING
        nursery.cancel_scope.cancel()


async def test_a_start_that_fails_is_told_to_the_starter(autojump_clock: MockClock) -> None:
    """nursery.start raises TaskGivenUp itself if a vital task never comes up."""
    with pytest.RaisesGroup(TaskGivenUp):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await nursery.start(partial(supervise, [vital("door", crash_before_ready)], health=Health()))


@pytest.mark.parametrize("run", [serve, crash, hang, crash_in_nested_nursery, crash_when_cut, come_back])
async def test_cancellation_ends_all_and_restarts_none(autojump_clock: MockClock, run: Run) -> None:
    """Cancelled in any state, supervise ends at once and raises nothing else."""
    with trio.move_on_after(2.5) as scope:
        await supervise([vital("a", run), degradable("b", run)], health=Health())
    assert scope.cancelled_caught


async def test_a_task_may_end_them_all_and_return(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """A server that has drained cancels the tasks and returns: no crash, nothing in the log."""
    with trio.CancelScope() as scope:

        async def drain(handle: TaskHandle) -> None:
            handle.ready()
            await trio.sleep(3)
            scope.cancel()

        await supervise([vital("http_server", drain), vital("other", serve)], health=Health())
    assert scope.cancelled_caught
    assert not caplog.messages


async def test_errors_while_being_cancelled_are_no_crashes(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A clean-up that raises is logged, costs no budget and does not hold up the end, even with a budget of none."""

    async def nested(handle: TaskHandle) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash_when_cut, handle)
            nursery.start_soon(trio.sleep_forever)

    none = CrashBudget(max_crashes=0)
    tasks = [vital("plain", crash_when_cut, budget=none), vital("nested", nested, budget=none)]
    with trio.move_on_after(1) as scope:
        await supervise(tasks, health=Health())
    assert scope.cancelled_caught
    assert sum("boom in the clean-up" in message for message in caplog.messages) == 2


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("nested", [None, trio.sleep_forever, crash_when_cut])
async def test_interrupts_pass_through_bare(
    autojump_clock: MockClock, interrupt: type[BaseException], nested: Callable[..., Awaitable[None]] | None
) -> None:
    """KeyboardInterrupt and SystemExit end everything and are not wrapped in groups."""
    sibling = Ticker()

    async def run(handle: TaskHandle) -> None:
        handle.ready()
        await trio.sleep(3.5)
        if nested is None:
            raise interrupt
        async with trio.open_nursery() as nursery:
            nursery.start_soon(nested, *[handle] * (nested is crash_when_cut))
            await trio.lowlevel.checkpoint()
            raise interrupt

    with pytest.raises(interrupt):
        await supervise([vital("a", run), vital("ticker", sibling)], health=Health())
    assert len(sibling.ticks_s) == 4


async def test_names_must_be_unique(autojump_clock: MockClock) -> None:
    """Two tasks of one name would share a record."""
    with pytest.raises(ValueError, match="'door'"):
        await supervise([vital("door", serve), vital("door", serve)], health=Health())


async def test_tasks_carry_their_names_in_trio(autojump_clock: MockClock) -> None:
    """Trio's own task tree shows the names of the tasks."""
    seen: list[str] = []

    async def run(_: TaskHandle) -> None:
        seen.append(trio.lowlevel.current_task().name)
        await trio.lowlevel.checkpoint()

    await supervise([vital("model_watcher", run, restart=Restart.NEVER)], health=Health())
    assert seen == ["model_watcher"]


# silence


async def test_a_silent_task_is_replaced(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """A run without a beat for too long is cancelled and comes back like after a crash, with a clear reason."""
    starts_s: list[float] = []
    health = Health()

    async def run(handle: TaskHandle) -> None:
        starts_s.append(trio.current_time())
        handle.ready()
        for _ in range(5):
            await trio.sleep(2)
            handle.beat()
        await trio.sleep_forever()

    with trio.move_on_after(20):
        await supervise([vital("watcher", run, silent_after_s=3.0)], health=health)
    assert [at_s - starts_s[0] for at_s in starts_s] == pytest.approx([0, 14])
    assert health.tasks["watcher"].last_error == "gave no sign of life for 3 s and was cancelled"
    assert "Traceback" not in caplog.text


async def test_a_start_that_hangs_is_replaced(autojump_clock: MockClock) -> None:
    """Silence counts before ready, too."""
    with pytest.raises(TaskGivenUp, match="no sign of life"):
        await supervise([vital("door", never_ready, silent_after_s=1.0)], health=Health())


async def test_waiting_for_the_world_is_not_silence(autojump_clock: MockClock) -> None:
    """Inside `waiting` a task need not beat; health says what it waits for, and after it silence counts again."""
    health = Health()

    async def run(handle: TaskHandle) -> None:
        with handle.waiting("for the Learning Loop"):
            await trio.sleep(1000)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(supervise, [vital("drainer", run, silent_after_s=3.0)], health=health))
        await trio.sleep(999)
        assert health.tasks["drainer"].state is TaskState.WAITING
        assert health.tasks["drainer"].reason == "for the Learning Loop"
        assert health.ready
        await trio.sleep(2)
        assert health.snapshot()["drainer"]["state"] == "running"
        assert health.tasks["drainer"].reason == ""
        await trio.sleep(2.5)
        assert health.tasks["drainer"].restarts == 0
        assert health.snapshot()["drainer"]["state"] == "starting"
        nursery.cancel_scope.cancel()


async def test_a_silent_task_that_will_not_let_go_is_named(autojump_clock: MockClock) -> None:
    """A vital run that resists its cancellation makes the node not ready for as long as it resists."""
    health = Health()

    async def run(handle: TaskHandle) -> None:
        handle.ready()
        with trio.CancelScope(shield=True):
            await trio.sleep(10)

    async with trio.open_nursery() as nursery:
        await nursery.start(partial(supervise, [vital("door", run, silent_after_s=3.0)], health=health))
        await trio.sleep(8)
        assert health.failing() == {"door": "silent: should have been replaced 5 s ago"}
        await trio.sleep(2.5)
        assert health.tasks["door"].last_error.startswith("gave no sign of life")
        await trio.sleep(1)
        assert health.ready
        nursery.cancel_scope.cancel()


async def test_a_crash_in_the_clean_up_of_a_silent_run_is_a_crash(autojump_clock: MockClock) -> None:
    """What a silent run raises when it is cut is its crash."""
    health = Health()
    with trio.move_on_after(3.5):
        await supervise([vital("door", crash_when_cut, silent_after_s=3.0)], health=health)
    assert health.tasks["door"].last_error == "ValueError: boom in the clean-up"


async def test_the_handle_of_a_dead_run_has_no_effect(autojump_clock: MockClock) -> None:
    """A handle kept beyond its run neither revives the record nor keeps the next run from being found silent."""
    health, kept = Health(), list[TaskHandle]()

    async def run(handle: TaskHandle) -> None:
        kept.append(handle)
        await crash(handle)

    await supervise([degradable("odd", run, restart=Restart.NEVER)], health=health)
    kept[0].ready()
    kept[0].beat()
    assert health.tasks["odd"].state is TaskState.PARKED


# health and log


async def test_health_tells_what_happens(autojump_clock: MockClock) -> None:
    """The snapshot is JSON and follows a task through its states."""
    health = Health(wall_clock=lambda: 1_790_000_000 + trio.current_time() - start_s)
    start_s = trio.current_time()
    runs = 0

    async def run(handle: TaskHandle) -> None:
        nonlocal runs
        runs += 1
        await trio.sleep(1)
        handle.ready()
        await trio.sleep(1 if runs == 1 else 1000)
        raise LoopUnavailable("no route\nto the Loop")

    def shown() -> dict[str, object]:
        assert json.loads(json.dumps(health.snapshot())) == health.snapshot()
        record = health.snapshot()["link"]
        return {key: record[key] for key in ("state", "for_s", "restarts", "last_error", "reason")}

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(supervise, [vital("link", run)], health=health))
        await trio.sleep(0.5)
        assert shown() == {"state": "starting", "for_s": 0.5, "restarts": 0, "last_error": "", "reason": ""}
        assert health.failing() == {"link": "starting"}
        await trio.sleep(1)
        assert shown() == {"state": "running", "for_s": 0.5, "restarts": 0, "last_error": "", "reason": ""}
        assert health.ready
        assert health.snapshot()["link"]["since"] == "2026-09-21T14:13:21.000+00:00"
        await trio.sleep(1)
        error, again = "no route to the Loop", "starts again in 1.00 s"
        assert shown() == {"state": "starting", "for_s": 0.5, "restarts": 0, "last_error": error, "reason": again}
        assert health.failing() == {"link": f"starting: {again}"}
        await trio.sleep(2)
        assert shown() == {"state": "running", "for_s": 0.5, "restarts": 1, "last_error": error, "reason": ""}
        nursery.cancel_scope.cancel()


async def test_a_degradable_task_never_makes_the_node_unready(autojump_clock: MockClock) -> None:
    """Parked is told in the snapshot with its reason, and is no failing check."""
    health = Health()
    await supervise([degradable("drainer", crash, restart=Restart.NEVER)], health=health)
    assert health.ready
    assert health.snapshot()["drainer"]["reason"] == "given up: ValueError: boom"


async def test_an_unforeseen_error_is_logged_with_its_traceback(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug shows where it is."""
    await supervise([degradable("odd", crash_in_nested_nursery, restart=Restart.NEVER)], health=Health())
    assert "task odd failed: ValueError: boom" in caplog.messages
    assert "in crash_in_nested_nursery" in caplog.text


async def test_an_error_of_ours_is_logged_in_one_line(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What we raise on purpose, grouped or not, says all in its text."""

    async def run(_: TaskHandle) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crash_before_ready, _)
            nursery.start_soon(trio.sleep_forever)

    tasks = [degradable("a", run, restart=Restart.NEVER), degradable("b", crash_before_ready, restart=Restart.NEVER)]
    await supervise(tasks, health=Health())
    assert {"task a failed: no graph", "task b failed: no graph"} <= set(caplog.messages)
    assert "Traceback" not in caplog.text


async def test_an_endless_error_text_is_cut(autojump_clock: MockClock) -> None:
    """One line of at most 300 characters goes into the record, however long the text."""

    async def run(_: TaskHandle) -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError("line\n" * 10_000)

    health = Health()
    await supervise([degradable("odd", run, restart=Restart.NEVER)], health=health)
    assert len(health.tasks["odd"].last_error) == 300
    assert "\n" not in health.tasks["odd"].reason


async def test_what_a_restart_looks_like_in_the_log(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Each crash is one error, each restart one line, the end one more."""
    caplog.set_level(logging.INFO)
    task = degradable("odd", crash_before_ready, budget=CrashBudget(max_crashes=1))
    await supervise([task], health=Health())
    assert caplog.messages == [
        "task odd failed: no graph",
        "task odd starts again in 1.00 s",
        "task odd failed: no graph",
        "task odd is given up after 2 crashes in 300 s: no graph",
    ]
