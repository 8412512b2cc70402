"""`/metrics`, read by Prometheus' own parser."""

from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from loop_node.serving.app import create_app
from loop_node.serving.metrics import Figure, single
from loop_node.supervision import Criticality, Health


async def test_rooms_tell_their_figures_when_asked(serve: Any) -> None:
    """Each time anew; with the node's tasks and its process beside them."""
    asked = []
    health = Health()
    health.register("reader", Criticality.VITAL)
    health.tasks["reader"].restarts = 3

    def room() -> list[Figure]:
        asked.append(1)
        drops = Figure(
            name="drops", said="Lost.", kind="counter", labels=("reason",), values={("full",): 2, ("old",): 0}
        )
        return [single("waiting", "Waiting.", len(asked)), drops]

    app = create_app("t", [], health=health, not_ready=list, max_body_bytes=1000, figures=[room])
    async with serve(app) as served, httpx.AsyncClient(base_url=served.url, trust_env=False) as client:
        for times in (1, 2):
            answer: httpx.Response = await client.get("/metrics")
            assert answer.headers["content-type"].startswith("text/plain")
            found = {
                (sample.name, *sample.labels.values()): sample.value
                for family in text_string_to_metric_families(answer.text)
                for sample in family.samples
            }
            assert found["loopnode_waiting",] == times
        assert (found["loopnode_drops_total", "full"], found["loopnode_drops_total", "old"]) == (2, 0)
        assert found["loopnode_task_restarts_total", "reader"] == 3
        assert any(name == "loopnode_build_info" for name, *_ in found)
        assert found["process_resident_memory_bytes",] > 1e6
        assert "/metrics" not in (await client.get("/openapi.json")).text
