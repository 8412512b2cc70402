"""Tasks under supervision: what they tell their supervisor, and what it does about them."""

import logging
import math
import random
import re
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

import trio
from attrs import field, frozen
from attrs.validators import gt, optional

from loop_node.errors import LoopNodeError, TaskGivenUp

from .health import Health, TaskState
from .policy import Backoff, CrashBudget, Criticality, Restart

__all__ = ["Task", "TaskHandle", "supervise"]

log = logging.getLogger(__name__)

MAX_ERROR_CHARS = 300


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
    backoff: Backoff = field(factory=Backoff)
    budget: CrashBudget = field(factory=CrashBudget)
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
