"""A detector killed again and again while images come in and go out: what was acknowledged reaches the Learning Loop.

CRASH_CYCLES (50) says how often; `nox -s crash` does it a thousand times.
"""

import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio
from attrs import Factory, define

from launching import Launcher, Node

pytestmark = [
    pytest.mark.process,
    # the client leaves the bodies of requests that a kill broke off to the garbage collector
    pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning"),
]

CYCLES = int(os.environ.get("CRASH_CYCLES", "50"))
UPLOADERS = 3
BATCH = 20
"""Images in one request to the Learning Loop: what a crash may repeat."""

LOGIN = {"username": "admin", "password": "admin"}
PROJECT = "/api/o/projects/p"


@define
class Oracle:
    """What clients sent and what they were told is kept; an image is known by its `source`."""

    acknowledged: set[str] = Factory(set)
    sent: set[str] = Factory(set)
    numbers: Iterator[int] = Factory(lambda: iter(range(10**9)))

    def has_heard(self, enough: int) -> bool:
        return len(self.acknowledged) >= enough

    def new(self, count: int) -> list[str]:
        names = [f"image-{next(self.numbers)}" for _ in range(count)]
        self.sent.update(names)
        return names


async def upload(url: str, oracle: Oracle, jpeg: bytes, dice: random.Random) -> None:
    """Upload images, priority ones among them, until the node is gone."""
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
        with suppress(httpx.HTTPError):
            while True:
                names = oracle.new(dice.randint(1, 3))
                metadata = "[" + ", ".join(f'{{"source": "{name}"}}' for name in names) + "]"
                files = [("files", (f"{name}.jpg", jpeg)) for name in names]
                params = {"upload_priority": dice.choice(["true", "false"])}
                answer = await client.post("/upload", files=files, data={"metadata": metadata}, params=params)
                if answer.status_code == 200:
                    oracle.acknowledged.update(names)


async def detect(url: str, jpeg: bytes) -> None:
    """Detections that keep their images beside, until the node is gone."""
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as client:
        with suppress(httpx.HTTPError):
            while True:
                headers = {"autoupload": "all", "source": "detect", "content-type": "image/jpeg"}
                await client.post("/detect", content=jpeg, headers=headers)


@pytest.mark.timeout(60 + CYCLES * 30)
async def test_no_acknowledged_image_is_lost(
    nodes: Launcher, tmp_path: Path, small_jpeg: bytes, examples: Path
) -> None:
    """Each one arrives, whatever the moment of the kill; some twice, under the same name, a request's worth at most."""
    dice, oracle = random.Random(11), Oracle()
    loop = await nodes.start("loop")
    async with loop.client() as client:
        await client.post("/api/login", data=LOGIN)
        await client.post("/api/local/projects", json={"organization": "o", "project": "p"})

    async def start() -> Node:
        logic = f"{examples / 'mock_detector' / 'mock_detector.py'}:MockDetectorFactory"
        return await nodes.start(
            "detector",
            "--logic",
            logic,
            DATA_FOLDER=tmp_path / "data",
            LOOP_HOST=loop.url,
            LOOP_ORGANIZATION="o",
            LOOP_PROJECT="p",
            MAX_OUTBOX_SIZE=1_000_000,
        )

    for cycle in range(CYCLES):
        node = await start()
        enough = len(oracle.acknowledged) + 1
        async with trio.open_nursery() as nursery:
            for _ in range(UPLOADERS):
                nursery.start_soon(upload, node.url, oracle, small_jpeg, dice)
            nursery.start_soon(detect, node.url, small_jpeg)
            await node.until(partial(oracle.has_heard, enough), f"an acknowledgement in cycle {cycle}")
            await trio.sleep(dice.uniform(0, 0.5))  # some moment of what is under way
            node.process.kill()
        node.process.wait()

    node = await start()
    await until_empty(node)
    assert await node.stop() == 0
    arrived = await arrivals(loop)
    by_source = Counter(source for _, source in arrived)
    assert oracle.acknowledged - by_source.keys() == set()
    assert by_source.keys() - oracle.sent <= {"detect"}
    twice = [name for name, count in Counter(name for name, _ in arrived).items() if count > 1]
    assert len(twice) <= BATCH * CYCLES
    per_name = dict(arrived)
    assert Counter(source for source in per_name.values() if source != "detect").most_common(1)[0][1] == 1
    print(f"{len(oracle.acknowledged)} acknowledged, {len(arrived)} arrived, {len(twice)} twice, {CYCLES} kills")


async def until_empty(node: Node, patience_s: float = 120) -> None:
    """Until nothing waits in its outbox."""
    async with node.client() as client:
        with trio.fail_after(patience_s):
            while True:
                figures = (await client.get("/metrics")).text
                if all(f'loopnode_outbox_items{{queue="{queue}"}} 0.0' in figures for queue in ("normal", "priority")):
                    return
                await trio.sleep(0.1)


async def arrivals(loop: Node, chunk: int = 100) -> list[tuple[str, str]]:
    """Name and source of each image at the Learning Loop."""
    async with loop.client() as client:
        await client.post("/api/login", data=LOGIN)
        ids = (await client.get(f"{PROJECT}/data")).json()["image_ids"]
        found = []
        for start in range(0, len(ids), chunk):
            params = {"ids": ",".join(ids[start : start + chunk])}
            records = (await client.get(f"{PROJECT}/images", params=params)).json()["images"]
            found += [(record["name"], record["source"]) for record in records]
        return found
