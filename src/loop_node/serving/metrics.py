"""`/metrics` for Prometheus: what each room knows of itself, read at the moment it is asked for.

Rooms tell plain figures; nothing counts twice, and what belongs together is read together.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Final, Literal, TypeVar

import trio
from attrs import frozen
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from quart import Response

from loop_node.supervision import Health

from .openapi import Endpoint

__all__ = ["Figure", "Figures", "by_label", "metrics_endpoint", "single"]

Name = TypeVar("Name", bound=str)

_PREFIX: Final = "loopnode_"


@frozen(kw_only=True)
class Figure:
    """One metric.

    Attributes:
        name: Without the product's prefix, and for a counter without `_total`.
        said: What it is, in one line.
        labels: Names of its labels; their values come from finite sets.
        values: Label values to figure.
    """

    name: str
    said: str
    kind: Literal["counter", "gauge"] = "gauge"
    labels: tuple[str, ...] = ()
    values: Mapping[tuple[str, ...], float]


Figures = Callable[[], Iterable[Figure]]
"""What a room knows of itself, now."""


def single(name: str, said: str, value: float, *, kind: Literal["counter", "gauge"] = "gauge") -> Figure:
    """A metric without labels."""
    return Figure(name=name, said=said, kind=kind, values={(): value})


def by_label(
    name: str, said: str, label: str, values: Mapping[Name, float], *, kind: Literal["counter", "gauge"] = "gauge"
) -> Figure:
    """A metric with one label."""
    return Figure(name=name, said=said, kind=kind, labels=(label,), values={(key,): one for key, one in values.items()})


def metrics_endpoint(rooms: Iterable[Figures], health: Health) -> Endpoint:
    """`GET /metrics` over these rooms, the node's tasks and its process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Rooms([*rooms, _node_figures(health)]))
    ProcessCollector(registry=registry)

    async def metrics() -> Response:
        await trio.lowlevel.checkpoint()
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

    return Endpoint(method="GET", path="/metrics", handle=metrics, summary="Figures for Prometheus.", is_page=True)


def _node_figures(health: Health) -> Figures:
    def figures() -> Iterator[Figure]:
        yield Figure(name="build_info", said="The program.", labels=("version",), values={(version("loop-node"),): 1})
        restarts = {name: record.restarts for name, record in health.tasks.items()}
        yield by_label("task_restarts", "How often a task came back after a crash.", "task", restarts, kind="counter")

    return figures


@frozen(eq=False)
class _Rooms:
    rooms: list[Figures]

    def collect(self) -> Iterator[Metric]:
        for room in self.rooms:
            for figure in room():
                yield _family(figure)


def _family(figure: Figure) -> Metric:
    kind = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
    family = kind(_PREFIX + figure.name, figure.said, labels=figure.labels)
    for labels, value in figure.values.items():
        family.add_metric(labels, value)
    return family
