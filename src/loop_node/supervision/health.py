"""The record of how each task is doing: written by the supervisor, read by the health endpoints."""

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import trio
from attrs import Factory, define

from .policy import Criticality

__all__ = ["Health", "TaskHealth", "TaskState"]


class TaskState(Enum):
    """Where a task stands."""

    STARTING = "starting"  # not ready yet, or between a crash and the restart
    RUNNING = "running"
    WAITING = "waiting"  # up, but waiting for something outside of the node
    PARKED = "parked"  # given up until the node starts anew
    ENDED = "ended"  # its work is done


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
