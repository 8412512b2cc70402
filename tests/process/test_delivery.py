"""The way of images from clients to the Learning Loop, through the outbox of a real process; Loops that make it hard."""

import json
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from launching import PATIENCE_S, Node
from learning_loops import Arrival, FakeLoop, RealLoop
from scripted import Reply, reply

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

CAUSES = {"uncertain", "segmentation_detection", "unexpected_observations_count"}
BATCH = 20
"""Images in one request to the Learning Loop."""
Detectors = Callable[..., Any]


def figures(text: str) -> Counter[str]:
    """What `/metrics` says, samples of one name added up."""
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name.removeprefix("loopnode_")] += int(sample.value)
    return found


async def read_figures(node: Node) -> Counter[str]:
    """Of the outbox, whose accounts hold at every moment."""
    async with node.client() as client:
        found = figures((await client.get("/metrics")).text)
    left = found["outbox_uploaded_total"] + found["outbox_dropped_total"] + found["outbox_dead_total"]
    assert found["outbox_stored_total"] == left + found["outbox_items"]
    return found


async def until_figure(node: Node, name: str, wanted: int, patience_s: float = PATIENCE_S) -> Counter[str]:
    with trio.move_on_after(patience_s):
        while (found := await read_figures(node))[name] != wanted:
            await trio.sleep(0.1)
        return found
    pytest.fail(f"{name} is {found[name]}, not {wanted}; the log says\n{node.log}")


async def upload(client: httpx.AsyncClient, jpeg: bytes, *sources: str, priority: bool = False) -> int:
    """The status of the answer."""
    metadata = json.dumps([{"source": source} for source in sources])
    files = [("files", (f"{source}.jpg", jpeg)) for source in sources]
    params = {"upload_priority": str(priority).lower()}
    return (await client.post("/upload", files=files, data={"metadata": metadata}, params=params)).status_code


async def test_what_detections_and_clients_leave_arrives(
    loop: RealLoop, detector: Detectors, small_jpeg: bytes
) -> None:
    """All of `all`, of `filtered` what has a cause, each cause a tag; the accounts hold at every moment under load."""
    node = await detector(loop.node.url)

    async def ask(client: httpx.AsyncClient, autoupload: str) -> None:
        headers = {"autoupload": autoupload, "tags": autoupload, "source": autoupload}
        for _ in range(60):
            answer = await client.post("/detect", files={"file": small_jpeg}, headers=headers)
            assert answer.status_code == 200
            assert answer.json()["tags"] == [autoupload]

    async def hand_in(client: httpx.AsyncClient, *, priority: bool) -> None:
        for _ in range(30):
            assert await upload(client, small_jpeg, "client", "client", priority=priority) == 200

    async with node.client() as client:
        async with trio.open_nursery() as nursery:
            for autoupload in ("all", "filtered", "disabled"):
                nursery.start_soon(ask, client, autoupload)
            for priority in (True, False):
                nursery.start_soon(lambda given: hand_in(client, priority=given), priority)
            accounts = [await read_figures(node) for _ in range(20)]
        final = await until_figure(node, "outbox_items", 0)
    assert len({account["outbox_stored_total"] for account in accounts}) > 5  # they were looked at while it went on
    assert final["outbox_uploaded_total"] == final["outbox_stored_total"]
    arrived = await loop.images()
    assert len(arrived) == len({image["name"] for image in arrived}) == final["outbox_uploaded_total"]
    by_source = Counter(image["source"] for image in arrived)
    assert (by_source["client"], by_source["all"], by_source["disabled"]) == (120, 60, 0)
    tags = {source: [] for source in by_source}  # type: dict[str, list[set[str]]]
    for image in arrived:
        tags[image["source"]].append({tag["name"] for tag in image["tags"]})
    assert all(found == {"picked_by_system"} for found in tags["client"])
    assert all(found == {"all"} for found in tags["all"])
    assert by_source["filtered"] > 0
    assert all("filtered" in found and found & CAUSES for found in tags["filtered"])
    assert sum(len(found & CAUSES) for found in tags["filtered"]) == final["active_learning_selected_total"]
    assert "Traceback" not in node.log


async def test_a_stopped_outbox_keeps_and_a_started_one_sends(
    fake: FakeLoop, detector: Detectors, small_jpeg: bytes
) -> None:
    """`stopped`: images are kept and none goes out; `continuous_upload`: all of them do."""
    node = await detector(fake.url)
    async with node.client() as client:
        assert (await client.put("/outbox_mode", content="stopped")).json() == "OK"
        assert await upload(client, small_jpeg, "a", "b", "c") == 200
        assert (await client.get("/outbox_mode")).text == "stopped"
        polls = len(fake.statuses)
        await client.put("/operation_mode", content="detecting")  # which is told to the Loop, so time has passed
        await fake.until(lambda: len(fake.statuses) > polls, "a status")
        assert fake.requests == []
        assert (await read_figures(node))["outbox_items"] == 3
        assert (await client.put("/outbox_mode", content="continuous_upload")).json() == "OK"
        await fake.until(lambda: fake.sources() == {"a", "b", "c"}, "the images")


def lay_old_images(outbox: Path, jpeg: bytes) -> set[str]:
    """What older software leaves, in its three layouts; the sources of the images."""
    for number, (folder, stem) in enumerate(
        [("", "image"), ("", "image_{}"), ("normal", "image_{}"), ("priority", "image_{}")]
    ):
        moment = f"2026-11-2{number}_02:34:25.99801{number}"
        place = outbox / folder / moment
        place.mkdir(parents=True)
        (place / f"{stem.format(moment)}.jpg").write_bytes(jpeg)
        metadata = {"source": f"old-{number}", "tags": ["t"], "created": moment}
        (place / f"{stem.format(moment)}.json").write_text(json.dumps(metadata))
    return {f"old-{number}" for number in range(4)}


async def test_outboxes_of_older_software_are_taken_over(
    loop: RealLoop, detector: Detectors, small_jpeg: bytes, tmp_path: Path
) -> None:
    """All three layouts arrive, and nothing of them is left."""
    outbox = tmp_path / "data" / "outbox"
    expected = lay_old_images(outbox, small_jpeg)
    node = await detector(loop.node.url)
    await until_figure(node, "outbox_uploaded_total", 4)
    assert {image["source"] for image in await loop.images()} == expected
    assert not list(outbox.rglob("*2026-11-2*"))


REFUSALS = {"bad-400": 400, "bad-413": 413, "bad-422": 422, "bad-500": 500}


def picky(images: Sequence[Arrival]) -> Reply | None:
    """Refuses a request for the worst image in it."""
    statuses = sorted(REFUSALS[image.source] for image in images if image.source in REFUSALS)
    return reply(statuses[-1], {"detail": f"I do not like {statuses[-1]}"}) if statuses else None


async def test_a_bad_image_holds_up_nobody(
    fake: FakeLoop, detector: Detectors, small_jpeg: bytes, tmp_path: Path
) -> None:
    """Good ones arrive at once, refused ones are dead after the third try, with the reason; what failed at the Loop waits."""
    fake.judge = picky
    node = await detector(fake.url)
    dead = tmp_path / "data" / "outbox" / "dead"
    async with node.client() as client:
        await client.put("/outbox_mode", content="stopped")
        good = [f"good-{number}" for number in range(56)]
        everything = [*good]
        for place, bad in enumerate(REFUSALS):
            everything.insert(15 * place + 3, bad)
        for start in range(0, len(everything), 10):
            assert await upload(client, small_jpeg, *everything[start : start + 10]) == 200
        await client.put("/outbox_mode", content="continuous_upload")
        began_s = trio.current_time()
        await until_figure(node, "outbox_uploaded_total", len(good))
        good_took_s = trio.current_time() - began_s
        assert not list(dead.glob("*.jpg"))
        assert await upload(client, small_jpeg, "late") == 200
        await until_figure(node, "outbox_uploaded_total", len(good) + 1)
        await until_figure(node, "outbox_dead_total", 3, patience_s=60)
        dead_took_s = trio.current_time() - began_s
    taken = Counter(image.source for images in fake.requests if picky(images) is None for image in images)
    assert taken == Counter([*good, "late"])
    reasons = sorted(json.loads(file.read_text())["reason"] for file in dead.glob("*.reason.json"))
    assert [reason for reason in reasons if "400" in reason or "413" in reason or "422" in reason] == reasons
    assert len(reasons) == len(list(dead.glob("*.jpg"))) == 3
    alone = Counter(images[0].source for images in fake.requests if len(images) == 1)
    assert all(alone[source] >= 2 for source in ("bad-400", "bad-413", "bad-422"))
    assert (await read_figures(node))["outbox_items"] == 1  # the one at which the Loop itself fails
    assert good_took_s < 20 < dead_took_s
    assert await node.stop() == 0


@pytest.mark.parametrize("killed", [False, True], ids=["node lives", "node is killed"])
async def test_a_loop_that_takes_images_and_cannot_say_so(
    fake: FakeLoop, detector: Detectors, small_jpeg: bytes, killed: bool
) -> None:
    """It commits, then the connection breaks: those images come again, one request's worth, under the same names."""
    cuts = iter([True])

    async def cut(_stream: trio.abc.Stream) -> None:
        if killed:
            node.process.send_signal(signal.SIGKILL)

    fake.judge = lambda _images: cut if next(cuts, False) else None
    node = await detector(fake.url)
    async with node.client() as client:
        await client.put("/outbox_mode", content="stopped")
        sources = [f"image-{number}" for number in range(45)]
        for start in range(0, len(sources), 15):
            assert await upload(client, small_jpeg, *sources[start : start + 15]) == 200
        await client.put("/outbox_mode", content="continuous_upload")
    if killed:
        await node.ended()
        node = await detector(fake.url)
    await until_figure(node, "outbox_items", 0)
    names = {image.source: image.name for image in fake.arrived}
    assert names.keys() == set(sources)
    assert all(names[image.source] == image.name for image in fake.arrived)
    assert len(fake.arrived) - len(sources) == len(fake.requests[0]) <= BATCH
