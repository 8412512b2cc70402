"""A detector whose Learning Loop is out of reach in every way that networks know: it works on, and says what is wrong."""

import datetime as dt
import socket
import struct
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trustme
from attrs import define, frozen

from launching import PATIENCE_S, Launcher, Node
from learning_loops import PROJECT, FakeLoop
from scripted import Behaviour, Request, ScriptedServer, read_request, reply

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

SECRETS = {"LOOP_USERNAME": "robot", "LOOP_PASSWORD": "hunter2-secret"}
PAGE = reply(200, b"<!DOCTYPE html><html>Please accept our terms</html>", Content_Type="text/html")
YESTERDAY = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
PROMPT_S = 1.0
"""For any answer of a node, however busy the machine; a node that waits for its Learning Loop takes 10 s and more."""


async def silence(_stream: trio.abc.Stream) -> None:
    await trio.sleep_forever()


async def drip(stream: trio.abc.Stream) -> None:
    """One byte a second."""
    await read_request(stream)
    for byte in reply(200, {}):
        await stream.send_all(bytes([byte]))
        await trio.sleep(1)


async def reset_in_the_body(stream: Any) -> None:
    await read_request(stream)
    await stream.send_all(reply(200, b"[", Content_Length=100))
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await trio.aclose_forcefully(stream)


def says(answer: bytes, login: bytes = b"") -> Behaviour:
    """The same to everything, but perhaps to the login."""

    def script(request: Request) -> bytes:
        return login if login and request.target == "/api/login" else answer

    return ScriptedServer(script).serve


LOGIN = reply(200, {}, Set_Cookie="session=1")


@frozen(kw_only=True)
class Network:
    """A bad one: what is served instead of the Learning Loop (None: nothing listens), and the kind that is to be told.

    Attributes:
        certificate: With TLS: "good", "expired" or "unknown".
    """

    name: str
    behaviour: Behaviour | None
    kind: str
    certificate: str = ""


NETWORKS = [
    Network(name="black hole", behaviour=silence, kind="timeout", certificate="good"),
    Network(name="never answers", behaviour=silence, kind="timeout"),
    Network(name="1 B/s", behaviour=drip, kind="timeout"),
    Network(name="reset", behaviour=reset_in_the_body, kind="unreachable"),
    Network(name="portal", behaviour=says(PAGE), kind="not_a_loop"),
    Network(name="expired", behaviour=says(LOGIN), kind="tls", certificate="expired"),
    Network(name="unknown", behaviour=says(LOGIN), kind="tls", certificate="unknown"),
    Network(name="nobody", behaviour=None, kind="refused"),
    Network(name="500", behaviour=says(reply(500, b"oops"), LOGIN), kind="failed"),
    Network(name="password", behaviour=says(reply(401, b"no: hunter2-secret")), kind="login"),
    Network(name="429", behaviour=says(reply(429, b"slow down", Retry_After=3), LOGIN), kind="rate_limited"),
]


@define
class Case:
    """A node in a bad network, and the Learning Loop that will be there later."""

    network: Network
    node: Node
    loop: FakeLoop
    sentence: str = ""


def certificates(folder: Path) -> dict[str, trustme.LeafCert | None]:
    """Certificates by name; only the authority of the first two is known to nodes, by `folder`/ca.pem."""
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return {
        "": None,
        "good": authority.issue_cert("127.0.0.1"),
        "expired": authority.issue_cert("127.0.0.1", not_after=YESTERDAY, not_before=YESTERDAY - dt.timedelta(days=9)),
        "unknown": stranger.issue_cert("127.0.0.1"),
    }


async def slowest_answer_s(node: Node, jpeg: bytes, rounds: int = 8) -> float:
    """Of everything that clients and operators ask a node."""
    slowest_s = 0.0
    async with node.client() as client:
        calls: list[Callable[[], Awaitable[httpx.Response]]] = [
            partial(client.post, "/detect", files={"file": jpeg}, headers={"autoupload": "all"}),
            partial(client.post, "/upload", files={"files": jpeg}, params={"source": "client"}),
            *(partial(client.get, path) for path in ("/about", "/readyz", "/healthz", "/metrics", "/outbox_mode")),
        ]
        for _ in range(rounds):
            for call in calls:
                began_s = trio.current_time()
                answer = await call()
                slowest_s = max(slowest_s, trio.current_time() - began_s)
                assert answer.status_code == 200, answer.text
    return slowest_s


async def until_told(case: Case) -> None:
    """Until `/about` and health name the kind and the sentence."""
    async with case.node.client() as client:
        with trio.fail_after(PATIENCE_S):
            while (link := (await client.get("/about")).json()["loop"])["kind"] != case.network.kind:
                await trio.sleep(0.05)
            assert link["connected"] is False
            case.sentence = link["reason"]
            while True:
                tasks = (await client.get("/healthz")).json()["tasks"]
                if tasks["model_watcher"]["state"] == tasks["status_reporter"]["state"] == "waiting":
                    break
                await trio.sleep(0.05)
        assert "\n" not in case.sentence
        assert SECRETS["LOOP_PASSWORD"] not in case.sentence
        assert ": " in case.sentence  # what is wrong: what helps
        assert case.sentence in tasks["model_watcher"]["reason"]
        assert case.sentence in tasks["status_reporter"]["reason"]
        assert (await client.get("/readyz")).status_code == 200


async def until_back(case: Case, images: int) -> None:
    """Until everything that was to be told and sent is there."""
    loop, node = case.loop, case.node
    await node.until(lambda: len({image.name for image in loop.arrived}) == images, f"{images} images")
    await node.until(lambda: loop.statuses, "a status")
    async with node.client() as client:
        with trio.fail_after(PATIENCE_S):
            while (about := (await client.get("/about")).json())["errors"]:
                await trio.sleep(0.05)
    assert about["loop"] | {"clock_skew_s": 0} == {
        "connected": True, "kind": None, "reason": None, "since": None, "clock_skew_s": 0,
    }  # fmt: skip
    told = f"the Learning Loop is out of reach ({case.network.kind}): "
    assert node.log.count(told) == 1
    assert told + case.sentence in node.log
    assert node.log.count("the Learning Loop is out of reach") <= 2  # the calls under way are cut off at the change
    assert node.log.count("the Learning Loop is back") == 1
    assert "Traceback" not in node.log
    assert SECRETS["LOOP_PASSWORD"] not in node.log


async def test_a_detector_works_on_in_every_bad_network(
    nodes: Launcher, nursery: trio.Nursery, tmp_path: Path, small_jpeg: bytes, examples: Path
) -> None:
    """It answers as promptly as one without a Loop, says what is wrong, once, and catches up when the Loop is there."""
    logic = f"{examples / 'mock_detector' / 'mock_detector.py'}:MockDetectorFactory"
    issued = certificates(tmp_path)
    alone = await nodes.start_ready("detector", "--logic", logic)
    cases = []
    for network in NETWORKS:
        loop = FakeLoop()
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            loop.port = reserved.getsockname()[1]
        if network.behaviour is not None:
            await loop.serve(nursery, network.behaviour, issued[network.certificate])
        ca = {"LOOP_SSL_CERT_PATH": tmp_path / "ca.pem"} if network.certificate else {}
        node = nodes.launch("detector", "--logic", logic, LOOP_HOST=loop.url, **(PROJECT | SECRETS | ca))
        cases.append(Case(network, node, loop))

    async def in_all(step: Callable[[Case], Awaitable[None]]) -> None:
        async def named(case: Case) -> None:
            try:
                await step(case)
            except BaseException as error:
                error.add_note(f"network: {case.network.name}; the log says\n{case.node.log}")
                raise

        async with trio.open_nursery() as all_cases:
            for case in cases:
                all_cases.start_soon(named, case)

    async def start(case: Case) -> None:
        await case.node.until_listening()
        await case.node.until_ready()

    async def heal(case: Case) -> None:
        certificate = issued["good"] if case.network.certificate else None
        await case.loop.serve(nursery, certificate=certificate)
        await until_back(case, images=2 * 8)

    await in_all(start)
    slowest_alone_s = await slowest_answer_s(alone, small_jpeg)
    for case in cases:
        slowest_s = await slowest_answer_s(case.node, small_jpeg)
        assert slowest_s < max(PROMPT_S, 10 * slowest_alone_s), f"{case.network.name}: {slowest_s} s"
    await in_all(until_told)
    await in_all(heal)
    nursery.cancel_scope.cancel()
