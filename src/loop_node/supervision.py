"""When a task starts, dies and comes back.

`supervise` runs the named tasks of a node side by side in one nursery. A crash stays inside its task: it is logged, kept
in the health record and answered by a restart after a growing, jittered delay. A task that crashes more often than its
`CrashBudget` allows is given up: a VITAL one ends the node with `TaskGivenUp`, a DEGRADABLE one is parked.

What it cannot do: a task that blocks the event loop blocks the supervisor too, and a task that shields itself from
cancellation (or sits in a thread that cannot be abandoned) is replaced only when it lets go. `Health.failing` names the
second kind while it lasts; a watchdog outside the process is needed for the first.
"""

import logging
import math
import random
import re
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import Enum
from typing import Any, NoReturn

import trio
from attrs import Factory, define, field, frozen
from attrs.validators import ge, gt, le, lt, optional

from loop_node.errors import LoopNodeError, TaskGivenUp

__all__ = [
    "Backoff",
    "CrashBudget",
    "Criticality",
    "Health",
    "Restart",
    "Task",
    "TaskHandle",
    "TaskHealth",
    "TaskState",
    "supervise",
    "watch_signals",
]

log = logging.getLogger(__name__)

MAX_ERROR_CHARS = 300


class Restart(Enum):
    """What follows when a task ends by itself; cancellation is never answered by a restart."""

    ALWAYS = "always"  # it should run for ever: returning counts as a crash
    ON_ERROR = "on error"
    NEVER = "never"  # an error gives it up at once


class Criticality(Enum):
    """What it means for the node that a task was given up."""

    VITAL = "vital"  # the node ends with TaskGivenUp
    DEGRADABLE = "degradable"  # it is parked, health says so, its siblings go on


class TaskState(Enum):
    """Where a task stands."""

    STARTING = "starting"  # not ready yet, or between a crash and the restart
    RUNNING = "running"
    WAITING = "waiting"  # up, but waiting for something outside of the node
    PARKED = "parked"  # given up until the node starts anew
    ENDED = "ended"  # its work is done


@frozen(kw_only=True)
class Backoff:
    """How long to wait before each restart: exponential with a cap, jittered downwards.

    Args:
        first_s: Upper bound of the first delay, above 0 and at most 1 second.
        factor: Growth from one delay to the next, at least 1.
        cap_s: Upper bound of all delays.
        jitter: Share of a delay left to chance, 0..1; it keeps nodes that lost the same peer from returning in step.
        stable_after_s: A run this long wipes out the delays grown before it.
    """

    first_s: float = field(default=0.5, validator=[gt(0), le(1)])
    factor: float = field(default=2.0, validator=[ge(1), lt(math.inf)])
    cap_s: float = field(default=30.0, validator=lt(math.inf))
    jitter: float = field(default=0.5, validator=[ge(0), le(1)])
    stable_after_s: float = field(default=60.0, validator=ge(0))

    def __attrs_post_init__(self) -> None:
        if not self.cap_s >= self.first_s:
            raise ValueError(f"cap_s ({self.cap_s}) must not be below first_s ({self.first_s})")

    def delay_s(self, attempt: int, random_0_1: float) -> float:
        """Seconds to wait before restart number `attempt`, counted from 0; `random_0_1` is the dice, 0..1."""
        # compared in logarithms: the power itself overflows after some hundred attempts
        grown_to_cap = attempt * math.log(self.factor) >= math.log(self.cap_s / self.first_s)
        bound_s = self.cap_s if grown_to_cap else self.first_s * self.factor**attempt
        return bound_s * (1 - self.jitter * random_0_1)

    def attempt_after(self, attempt: int, ran_s: float) -> int:
        """The attempt number that follows `attempt` after a run of `ran_s` seconds."""
        return 0 if ran_s >= self.stable_after_s else attempt + 1


@frozen(kw_only=True)
class CrashBudget:
    """How many crashes are forgiven: at most `max_crashes` within any `window_s` seconds."""

    max_crashes: int = field(default=5, validator=ge(0))
    window_s: float = field(default=300.0, validator=gt(0))

    def exhausted(self, crash_times_s: Iterable[float], now_s: float) -> bool:
        """Whether the crashes of the last `window_s` seconds before `now_s` are too many (all times on one clock)."""
        return sum(now_s - at_s < self.window_s for at_s in crash_times_s) > self.max_crashes


@define
class TaskHealth:
    """How one task is doing.

    Attributes:
        since_s: When it entered `state`, on the monotonic clock of `Health`.
        since: The same moment by the wall clock, UTC.
        restarts: How often it came back after a crash.
        last_error: The last crash in one line; kept after recovery.
        reason: Why it is starting again, waiting or parked.
        silent_at_s: When it will have been silent for too long; infinite if nobody watches.
    """

    criticality: Criticality
    since_s: float
    since: datetime
    state: TaskState = TaskState.STARTING
    restarts: int = 0
    last_error: str = ""
    reason: str = ""
    silent_at_s: float = math.inf


@define
class Health:
    """The health record of all tasks, written by `supervise` and read by the health endpoints.

    Args:
        clock: Monotonic seconds.
        wall_clock: Seconds since the epoch.
    """

    _clock: Callable[[], float] = trio.current_time
    _wall_clock: Callable[[], float] = time.time
    tasks: dict[str, TaskHealth] = Factory(dict)

    def failing(self) -> dict[str, str]:
        """Why the node is not ready: each vital task that is not up, with the reason in one line."""
        reasons = {name: self._failure(record) for name, record in self.tasks.items()}
        return {name: reason for name, reason in reasons.items() if reason}

    @property
    def ready(self) -> bool:
        """Whether all vital tasks are up or have done their work."""
        return not self.failing()

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """The record by task name, ready for JSON; `since` is ISO 8601 in UTC, `for_s` the time in this state."""
        now_s = self._clock()
        return {
            name: {
                "state": record.state.value,
                "since": record.since.isoformat(timespec="milliseconds"),
                "for_s": round(now_s - record.since_s, 3),
                "criticality": record.criticality.value,
                "restarts": record.restarts,
                "last_error": record.last_error,
                "reason": record.reason,
            }
            for name, record in self.tasks.items()
        }

    def register(self, name: str, criticality: Criticality) -> None:
        """Open the record of a task that is about to start.

        Raises:
            ValueError: There is a task of this name already.
        """
        if name in self.tasks:
            raise ValueError(f"two tasks are named {name!r}: names must be unique")
        self.tasks[name] = TaskHealth(criticality, self._clock(), self._now())

    def enter(self, name: str, state: TaskState, *, reason: str = "") -> None:
        """Write down that a task is in `state` now; `since` moves only when the state changes."""
        record = self.tasks[name]
        if record.state is not state:
            record.since_s, record.since = self._clock(), self._now()
        record.state, record.reason = state, reason

    def _failure(self, record: TaskHealth) -> str:
        if record.criticality is not Criticality.VITAL:
            return ""
        if record.state in (TaskState.STARTING, TaskState.PARKED):
            return f"{record.state.value}: {record.reason or record.last_error}".rstrip(": ")
        silent_s = self._clock() - record.silent_at_s
        return f"silent: should have been replaced {silent_s:.0f} s ago" if silent_s > 0 else ""

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._wall_clock(), UTC)


class TaskHandle:
    """What a running task tells its supervisor; for one run, from the Trio thread, without effect after the run."""

    def __init__(self, task: "Task", health: Health, on_ready: Callable[[], None]) -> None:
        self._task = task
        self._health = health
        self._on_ready = on_ready
        self._scope = trio.CancelScope()
        self._over = False

    def ready(self) -> None:
        """Say that the task is up and does its work."""
        self._enter(TaskState.RUNNING)

    def beat(self) -> None:
        """Say that the task is alive; due every `silent_after_s` seconds where the task sets that."""
        if not self._over:
            self._listen_for(self._task.silent_after_s)

    @contextmanager
    def waiting(self, reason: str) -> Iterator[None]:
        """While inside, the task is up but waits for something outside of the node and need not beat."""
        self._enter(TaskState.WAITING, reason)
        try:
            yield
        finally:
            self._enter(TaskState.RUNNING)

    def _enter(self, state: TaskState, reason: str = "") -> None:
        if self._over:
            return
        self._health.enter(self._task.name, state, reason=reason)
        self._listen_for(None if state is TaskState.WAITING else self._task.silent_after_s)
        self._on_ready()

    def _listen_for(self, silent_after_s: float | None) -> None:
        silent_at_s = math.inf if silent_after_s is None else trio.current_time() + silent_after_s
        self._scope.deadline = self._health.tasks[self._task.name].silent_at_s = silent_at_s

    async def _run(self) -> None:
        """One run of the task: returns if it ended by itself, raises what it raised, `_Silent` if it had to be cut."""
        self.beat()
        try:
            with self._scope:
                await self._task.run(self)
        finally:
            self._over = True
            self._health.tasks[self._task.name].silent_at_s = math.inf
        if self._scope.cancel_called:
            raise _Silent(f"gave no sign of life for {self._task.silent_after_s:g} s and was cancelled")


@frozen(kw_only=True)
class Task:
    """A task under supervision.

    Args:
        name: Unique within the node; the name in logs, in health and in Trio's own task tree.
        run: Does the work; calls `ready()` on its handle when it is up (whoever starts the node waits for that).
        restart: What follows when it ends by itself.
        criticality: What it means when it is given up.
        backoff: The delays between restarts.
        budget: How many crashes are forgiven.
        silent_after_s: If set, a run that is silent for longer (neither `beat()` nor `ready()`; `waiting` excepted) is
            cancelled and counts as a crash. The starting phase counts too.
    """

    name: str
    run: Callable[[TaskHandle], Awaitable[None]]
    restart: Restart = Restart.ALWAYS
    criticality: Criticality
    backoff: Backoff = Backoff()
    budget: CrashBudget = CrashBudget()
    silent_after_s: float | None = field(default=None, validator=optional(gt(0)))


async def supervise(
    tasks: Sequence[Task],
    *,
    health: Health,
    rng: Callable[[], float] = random.random,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run all tasks until each one has ended or is parked; reports started when all vital ones are up (or ended).

    Cancellation ends all tasks and restarts none; it leaves behind what the tasks leave, and errors of their clean-up
    are only logged. The health record keeps the last states.

    Args:
        tasks: Started together, in no particular order.
        health: The record to write; it must not know any of the names yet.
        rng: The dice of the restart delays, 0..1.
        task_status: For `nursery.start`.

    Raises:
        TaskGivenUp: A vital task was given up; by then all others have been cancelled and have ended.
        ValueError: Two tasks have the same name.
    """
    for task in tasks:
        health.register(task.name, task.criticality)
    supervisors = [_Supervisor(task, health, rng) for task in tasks]
    given_up: list[TaskGivenUp] = []
    try:
        async with trio.open_nursery() as nursery:

            async def keep(supervisor: _Supervisor) -> None:
                try:
                    await supervisor.keep_alive()
                except TaskGivenUp as error:  # not through the nursery: it would come out as a group
                    given_up.append(error)
                    nursery.cancel_scope.cancel(reason=str(error))

            for supervisor in supervisors:
                nursery.start_soon(keep, supervisor, name=supervisor.task.name)
            for supervisor in supervisors:
                if supervisor.task.criticality is Criticality.VITAL:
                    await supervisor.up.wait()
            task_status.started()
    except BaseExceptionGroup as group:
        _raise_bare_interrupt(group)
    if given_up:
        raise given_up[0]


class _Silent(LoopNodeError):
    """A task did not beat in time."""


class _CameBack(LoopNodeError):
    """A task returned that should run for ever."""


class _Supervisor:
    """The life of one task over all its runs."""

    def __init__(self, task: Task, health: Health, rng: Callable[[], float]) -> None:
        self.task = task
        self.up = trio.Event()  # ready for the first time, or ended
        self._health = health
        self._rng = rng
        self._attempt = -1
        self._crashes_s: deque[float] = deque(maxlen=task.budget.max_crashes + 1)

    async def keep_alive(self) -> None:
        """Run the task again and again until it ends well or is parked.

        Raises:
            TaskGivenUp: The task is vital and its budget is used up.
        """
        while True:
            started_s = trio.current_time()
            error = await self._run_once()
            if error is None:
                self._end(TaskState.ENDED)
                return
            await trio.lowlevel.checkpoint_if_cancelled()  # an error while being cancelled is no crash
            delay_s = self._count_crash(trio.current_time(), started_s)
            if delay_s is None:
                self._give_up(error)
                return
            self._health.enter(self.task.name, TaskState.STARTING, reason=f"starts again in {delay_s:.2f} s")
            log.info("task %s starts again in %.2f s", self.task.name, delay_s)
            await trio.sleep(delay_s)
            self._health.tasks[self.task.name].restarts += 1

    async def _run_once(self) -> Exception | None:
        """Run the task; what it raised comes back, but cancellation and interrupts go on their way."""
        try:
            await TaskHandle(self.task, self._health, self.up.set)._run()
            if self.task.restart is Restart.ALWAYS:
                await trio.lowlevel.checkpoint_if_cancelled()  # it returned because all ends
                raise _CameBack("returned, but should run for ever")
        except Exception as error:  # noqa: BLE001  # the place where a crash stops; it is logged with its traceback
            return self._note(error)
        except BaseExceptionGroup as group:  # errors of a nested nursery beside its cancellation or an interrupt
            errors, rest = group.split(Exception)
            if errors is not None:
                self._note(errors)
            raise (rest or group) from None
        return None

    def _note(self, error: Exception) -> Exception:
        """Write the error into the log and the health record."""
        line = _one_line(error)
        self._health.tasks[self.task.name].last_error = line
        expected = all(isinstance(leaf, LoopNodeError) for leaf in _leaves(error))
        log.error("task %s failed: %s", self.task.name, line, exc_info=None if expected else error)
        return error

    def _count_crash(self, now_s: float, started_s: float) -> float | None:
        """The seconds to wait before the restart, or None for never again."""
        self._crashes_s.append(now_s)
        if self.task.restart is Restart.NEVER or self.task.budget.exhausted(self._crashes_s, now_s):
            return None
        self._attempt = self.task.backoff.attempt_after(self._attempt, now_s - started_s)
        return self.task.backoff.delay_s(self._attempt, self._rng())

    def _give_up(self, error: Exception) -> None:
        crashes, window_s = len(self._crashes_s), self.task.budget.window_s
        reason = f"given up after {crashes} crash{'es' * (crashes > 1)} in {window_s:g} s: {_one_line(error)}"
        if self.task.restart is Restart.NEVER:
            reason = f"given up: {_one_line(error)}"
        log.error("task %s is %s", self.task.name, reason)
        if self.task.criticality is Criticality.VITAL:
            self._health.enter(self.task.name, TaskState.PARKED, reason=reason)
            raise TaskGivenUp(f"task {self.task.name} is {reason}") from error
        self._end(TaskState.PARKED, reason)

    def _end(self, state: TaskState, reason: str = "") -> None:
        self._health.enter(self.task.name, state, reason=reason)
        self.up.set()


STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGBREAK") if hasattr(signal, name))


async def watch_signals(
    stop: trio.Event,
    node: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Turn signals into an orderly end: the first SIGTERM or SIGINT (SIGBREAK) sets `stop`, the second cancels `node`.

    Returns after the second one. From then on, and when cancelled, the handlers from before are back in force, so that
    a third signal ends a process whose clean-up hangs. Must run in the main thread.

    Args:
        stop: Set by the first signal: take no new work, finish what is in flight.
        node: Cancelled by the second signal, at once.
        task_status: For `nursery.start`; started when the handlers are in place.
    """
    with trio.open_signal_receiver(*STOP_SIGNALS) as signals:
        task_status.started()
        number = await anext(signals)
        log.info("%s: finishing what is in flight; a second signal ends it at once", signal.Signals(number).name)
        stop.set()
        number = await anext(signals)
        log.warning("%s again: ending at once", signal.Signals(number).name)
        node.cancel(reason="second signal")


def _leaves(error: BaseException) -> list[BaseException]:
    """The errors inside nested groups; an error that is no group is its own only leaf."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for member in error.exceptions for leaf in _leaves(member)]


def _one_line(error: BaseException) -> str:
    """What happened, in one line of at most MAX_ERROR_CHARS."""
    texts = []
    for leaf in _leaves(error):
        try:
            text = str(leaf)
        except Exception:  # noqa: BLE001  # a foreign error whose text cannot be had must not kill its supervisor
            text = "(its text raises an error itself)"
        ours = isinstance(leaf, LoopNodeError) and text
        texts.append(text if ours else f"{type(leaf).__name__}: {text}".rstrip(": "))
    line = re.sub(r"\s+", " ", "; ".join(texts)).strip()
    return line if len(line) <= MAX_ERROR_CHARS else f"{line[: MAX_ERROR_CHARS - 3]}..."


def _raise_bare_interrupt(group: BaseExceptionGroup[BaseException]) -> NoReturn:
    """Raise the KeyboardInterrupt or SystemExit out of a group, else the group: Python acts on bare ones only."""
    for leaf in _leaves(group):
        if isinstance(leaf, KeyboardInterrupt | SystemExit):
            raise leaf from group
    raise group
