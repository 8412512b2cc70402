"""What a detector tells at `/metrics`."""

from collections.abc import Iterator

from attrs import frozen

from loop_node.inference.engine import Engine
from loop_node.loop.faults import FaultKind
from loop_node.loop.link_state import LinkState
from loop_node.serving.metrics import Figure, by_label, single

from .active_learning import ActiveLearning
from .outbox import Outbox, OutboxStats

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
        said = "How often a cause chose an image for the Learning Loop."
        yield by_label("active_learning_selected", said, "cause", self.learning.counts(), kind="counter")
        if (model := self.engine.model) is not None:
            information = model.information
            yield Figure(
                name="model_info",
                said="The model that serves.",
                labels=("version", "id", "device"),
                values={(information.version, information.id, model.device): 1},
            )
        if self.link is not None:
            yield from _link(self.link)


def _outbox(stats: OutboxStats) -> Iterator[Figure]:
    yield by_label("outbox_items", "Images that wait.", "queue", stats.images)
    yield by_label("outbox_bytes", "Their bytes.", "queue", stats.size_bytes)
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
    yield by_label("outbox_dropped", "Images that were dropped.", "reason", stats.dropped, kind="counter")


def _link(link: LinkState) -> Iterator[Figure]:
    is_connected = link.fault is None and link.reached is not None
    yield single("loop_connected", "Whether the Learning Loop answered the last call.", is_connected)
    counts = {kind.value: link.error_counts[kind] for kind in FaultKind}
    yield by_label("loop_errors", "Calls that failed.", "kind", counts, kind="counter")
