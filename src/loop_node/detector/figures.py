"""What a detector tells at `/metrics`."""

from collections.abc import Iterator

from attrs import frozen

from loop_node.inference.engine import Engine
from loop_node.loop.faults import FaultKind
from loop_node.loop.link_state import LinkState
from loop_node.serving.metrics import Figure, single

from .active_learning import ActiveLearning
from .outbox import DropReason, Outbox, OutboxStats

__all__ = ["DetectorFigures"]


@frozen(kw_only=True)
class DetectorFigures:
    """Reads each room's figures; `link` is None for a detector that stands alone."""

    engine: Engine
    outbox: Outbox
    learning: ActiveLearning
    link: LinkState | None

    def __call__(self) -> Iterator[Figure]:
        """All of them, now: no task runs meanwhile, so the accounts hold."""
        yield from _outbox(self.outbox.stats())
        yield Figure(
            name="active_learning_selected",
            said="How often a cause chose an image for the Learning Loop.",
            kind="counter",
            labels=("cause",),
            values={(cause,): count for cause, count in self.learning.counts().items()},
        )
        if (model := self.engine.model) is not None:
            information = model.information
            values = {(information.version, information.id, model.device): 1.0}
            yield Figure(
                name="model_info", said="The model that serves.", labels=("version", "id", "device"), values=values
            )
        if self.link is not None:
            yield from _link(self.link)


def _outbox(stats: OutboxStats) -> Iterator[Figure]:
    images = {(queue.value,): float(count) for queue, count in stats.images.items()}
    sizes = {(queue.value,): float(size) for queue, size in stats.size_bytes.items()}
    dropped = {(reason.value,): float(stats.dropped[reason]) for reason in DropReason}
    yield Figure(name="outbox_items", said="Images that wait.", labels=("queue",), values=images)
    yield Figure(name="outbox_bytes", said="Their bytes.", labels=("queue",), values=sizes)
    yield single("outbox_oldest_seconds", "How long the oldest one has waited.", stats.oldest_s)
    for name, said, count in (
        ("outbox_stored", "Images that came; each was uploaded, dropped, is dead or waits.", stats.stored),
        ("outbox_uploaded", "Images that the Learning Loop has taken.", stats.uploaded),
        ("outbox_dead", "Images that were given up.", stats.dead),
        (
            "outbox_refused",
            "Uploads that could not be kept, whose clients were told; none of the others.",
            stats.refused,
        ),
    ):
        yield single(name, said, count, kind="counter")
    yield Figure(
        name="outbox_dropped", said="Images that were dropped.", kind="counter", labels=("reason",), values=dropped
    )


def _link(link: LinkState) -> Iterator[Figure]:
    is_connected = link.fault is None and link.reached is not None
    yield single("loop_connected", "Whether the Learning Loop answered the last call.", is_connected)
    values = {(kind.value,): float(link.error_counts[kind]) for kind in FaultKind}
    yield Figure(name="loop_errors", said="Calls that failed.", kind="counter", labels=("kind",), values=values)
