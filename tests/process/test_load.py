"""Many clients, too many clients, and clients whose images take for ever.

The suite runs a short form, on a model that takes time but no CPU, because the machine may be too slow to work off what
16 clients sent within the seconds that a stop may take. LOAD_SECONDS=30 gives all on the real model. The figures are
printed.
"""

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from PIL import Image

pytestmark = pytest.mark.process

LOAD_SECONDS = float(os.environ.get("LOAD_SECONDS", "4"))
IN_FULL = "LOAD_SECONDS" in os.environ
CLIENTS = 16
END_S = 5


def say(figures: object) -> None:
    print(f"\n{figures}")  # noqa: T201 # pytest shows it on request


@pytest.fixture(scope="module")
def photo_jpeg(photos: Path, encoded: Callable[..., bytes]) -> bytes:
    """A photo of 512 x 512 pixels."""
    with Image.open(photos / "astronaut.png") as photo:
        return encoded(photo, "JPEG", quality=90)


@pytest.mark.timeout(60 + LOAD_SECONDS)
async def test_parallel_clients_see_no_error(nodes: Any, load: Any, photo_jpeg: bytes) -> None:
    """16 clients that never pause: every request is answered well, and memory does not grow."""
    node = await nodes.start_ready("detector", MODEL="coco")
    request = load.post_image(photo_jpeg)
    await load.closed_loop(node.url, request, clients=CLIENTS, seconds=LOAD_SECONDS / 8)
    before_kib = node.status("VmRSS")
    tally = await load.closed_loop(node.url, request, clients=CLIENTS, seconds=LOAD_SECONDS)
    grown_kib = node.status("VmRSS") - before_kib
    say(f"{tally}\nmemory: {before_kib >> 10} MiB, then {grown_kib:+} KiB, {node.status('Threads')} threads")
    assert not tally.broken
    assert not tally.refused
    assert set(tally.statuses) == {200}
    assert tally.statuses[200] >= CLIENTS
    assert grown_kib < 32_000  # what 16 images in other places of the heap may cost
    assert await node.stop() == 0
    assert "Traceback" not in node.log


@pytest.mark.parametrize("headers", [{}, {"connection": "close"}], ids=["kept connections", "new connections"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_a_signal_under_load_breaks_no_request(
    nodes: Any, load: Any, logic: Any, photo_jpeg: bytes, number: signal.Signals, headers: dict[str, str]
) -> None:
    """A client sees whole answers and then a refused connection; exit 0 within 5 s."""
    model = ["--model", "coco"] if IN_FULL else logic.write("time.sleep(0.02)", attributes="max_in_flight = 2")
    node = await nodes.start_ready("detector", *model)
    request = load.post_image(photo_jpeg, headers=headers)
    tallies = []

    async def keep_asking() -> None:
        tallies.append(await load.closed_loop(node.url, request, clients=CLIENTS, seconds=math.inf))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_asking)
        with trio.move_on_after(1):  # all are in full flow by then
            await trio.sleep_forever()
        node.process.send_signal(number)
        with trio.fail_after(END_S + 1):  # the second is for a busy machine
            assert await node.ended() == 0
    (tally,) = tallies
    say(tally)
    assert not tally.broken
    assert set(tally.statuses) == {200}
    assert tally.statuses[200] >= CLIENTS
    assert tally.refused == CLIENTS
    assert "Traceback" not in node.log
    assert "ERROR" not in node.log


async def test_the_rest_answers_while_every_request_is_held(nodes: Any, logic: Any, small_jpeg: bytes) -> None:
    """A blocked engine blocks detections alone: a full line is 503, and all that was taken is answered in the end."""
    node = await nodes.start_ready("detector", *logic.write_held("max_in_flight = 2"), MAX_QUEUE=2)
    answers: list[httpx.Response] = []

    async def ask(client: httpx.AsyncClient) -> None:
        answers.append(await client.post("/detect", files={"file": small_jpeg}))

    async with node.client() as client, trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(ask, client)
        await node.until(lambda: logic.inside() == 2 and len(answers) == 4, "2 + 2 places taken")
        assert [answer.status_code for answer in answers] == [503] * 4
        assert all(int(answer.headers["retry-after"]) > 0 and "detail" in answer.json() for answer in answers)
        described = (await client.get("/openapi.json")).json()["paths"]
        paths = {path for path, methods in described.items() if "get" in methods}
        for path in sorted(paths | {"/openapi.json", "/docs", "/docs/swagger-ui-bundle.js"}):
            with trio.fail_after(1):
                assert (await client.get(path)).status_code == 200
        with trio.fail_after(1):
            assert (await client.put("/debug_logging", content=b"off")).status_code == 200
        logic.release()
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [503] * 4
    assert await node.stop() == 0


async def test_overload_costs_nothing_but_the_surplus(nodes: Any, load: Any, logic: Any, small_jpeg: bytes) -> None:
    """At twice what it can do, a node does what it can, refuses the rest at once, and keeps nobody waiting for long."""
    look_s, max_queue = 0.04, 8
    node = await nodes.start_ready("detector", *logic.write(f"time.sleep({look_s})"), MAX_QUEUE=max_queue)
    request = load.post_image(small_jpeg)
    peak = await load.closed_loop(node.url, request, clients=4, seconds=1.5)
    before_kib = node.status("VmRSS")
    over = await load.open_loop(node.url, request, rate=2 * peak.per_second, seconds=2.5)
    grown_kib = node.status("VmRSS") - before_kib
    say(f"peak: {peak}\noverload: {over}\nmemory: {grown_kib:+} KiB")
    assert not over.broken
    assert not over.refused
    assert set(over.statuses) == {200, 503}
    assert over.per_second >= 0.9 * peak.per_second
    assert over.quantile_s(0.5) < 2 * (max_queue + 1) * look_s
    assert over.quantile_s(0.5, status=503) < over.quantile_s(0.5)
    assert grown_kib < 32_000
    assert await node.stop() == 0
    assert "Traceback" not in node.log


async def test_a_client_that_gives_up_frees_its_place(nodes: Any, logic: Any, small_jpeg: bytes) -> None:
    """Requests whose clients have gone leave the line, so that the living are served."""
    node = await nodes.start_ready("detector", *logic.write_held(), MAX_QUEUE=2)

    async def give_up() -> None:
        async with node.client() as client:
            await client.post("/detect", files={"file": small_jpeg})

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(give_up)
        await node.until(logic.inside, "a held request")
        nursery.cancel_scope.cancel()
    logic.release()
    async with node.client() as client:
        with trio.fail_after(20):
            while (await client.post("/detect", files={"file": small_jpeg})).status_code != 200:
                await trio.lowlevel.checkpoint()
    assert await node.stop() == 0
    assert "Traceback" not in node.log
