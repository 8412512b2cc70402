"""The operator's two signals: finish, and end."""

import logging
import signal

import trio

__all__ = ["watch_signals"]

log = logging.getLogger(__name__)

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
