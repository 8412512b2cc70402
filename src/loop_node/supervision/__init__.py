"""When a task starts, dies and comes back.

`supervise` runs the named tasks of a node side by side in one nursery. A crash stays inside its task: it is logged, kept
in the health record and answered by a restart after a growing, jittered delay. A task that crashes more often than its
`CrashBudget` allows is given up: a VITAL one ends the node with `TaskGivenUp`, a DEGRADABLE one is parked.

What it cannot do: a task that blocks the event loop blocks the supervisor too, and a task that shields itself from
cancellation (or sits in a thread that cannot be abandoned) is replaced only when it lets go. `Health.failing` names the
second kind while it lasts; a watchdog outside the process is needed for the first.
"""

from .health import Health, TaskHealth, TaskState
from .policy import Backoff, CrashBudget, Criticality, Restart
from .signals import watch_signals
from .tasks import Task, TaskHandle, supervise

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
