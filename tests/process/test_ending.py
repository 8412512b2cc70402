"""How a node ends: on one signal in good order, on two at once, and never with anything left behind."""

import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

pytestmark = [pytest.mark.process, pytest.mark.skipif("sys.platform == 'win32'", reason="POSIX signals")]

SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
END_S = 5


@SIGNALS
async def test_an_idle_node_ends_in_good_order(nodes: Any, tmp_path: Path, number: signal.Signals) -> None:
    """Exit 0 within 5 s, with idle connections open; nothing is left in the folder for temporary files."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    node = await nodes.start_ready("detector", MODEL="coco", TMPDIR=temporary)
    async with node.client() as client:
        await client.get("/healthz")
        with trio.fail_after(END_S):
            assert await node.stop(number) == 0
    assert "Traceback" not in node.log
    assert not list(temporary.iterdir())


@SIGNALS
async def test_what_is_in_flight_is_answered(nodes: Any, logic: Any, small_jpeg: bytes, number: signal.Signals) -> None:
    """The signal comes while images are looked at and wait: all are answered, then comes exit 0."""
    node = await nodes.start_ready("detector", *logic.write_held())
    answers: list[httpx.Response] = []

    async def ask(client: httpx.AsyncClient) -> None:
        answers.append(await client.post("/detect", files={"file": small_jpeg}))

    async with node.client() as client, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask, client)
        await node.until(logic.inside, "a held request")
        node.process.send_signal(number)
        await node.until(lambda: number.name in node.log, "word of the signal")
        logic.release()
    assert [answer.status_code for answer in answers] == [200] * 5
    with trio.fail_after(END_S):
        assert await node.ended() == 0
    assert "Traceback" not in node.log


@SIGNALS
async def test_the_second_signal_ends_it_at_once(
    nodes: Any, logic: Any, small_jpeg: bytes, number: signal.Signals
) -> None:
    """Not even a request that never ends holds up the second signal."""
    node = await nodes.start_ready("detector", *logic.write_held())

    async def ask() -> None:
        async with node.client() as client:
            with pytest.raises(httpx.TransportError):
                await client.post("/detect", files={"file": small_jpeg})

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await node.until(logic.inside, "a held request")
        node.process.send_signal(number)
        await node.until(lambda: "second signal" in node.log, "word of the first signal")
        with trio.fail_after(2.5):  # the orderly end would take 4 s
            await node.stop(number)
    assert "Traceback" not in node.log


async def test_a_request_that_never_ends_does_not_hold_up_the_end(nodes: Any, logic: Any, small_jpeg: bytes) -> None:
    """One signal and a hanging logic: exit 0 all the same, within 5 s."""
    node = await nodes.start_ready("detector", *logic.write_held())

    async def ask() -> None:
        async with node.client() as client:
            with pytest.raises(httpx.TransportError):
                await client.post("/detect", files={"file": small_jpeg})

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await node.until(logic.inside, "a held request")
        with trio.fail_after(END_S + 1):  # the second is the interpreter's own end on a busy machine
            assert await node.stop() == 0


@SIGNALS
async def test_a_model_that_is_being_built_does_not_hold_up_the_end(
    nodes: Any, logic: Any, number: signal.Signals
) -> None:
    """The signal comes while a factory builds for ever."""
    logic.write_held()
    logic.path.write_text(logic.path.read_text().replace("return Logic()", "Logic().evaluate(None)"))
    node = await nodes.start("detector", *logic.option)
    await node.until(logic.inside, "a build")
    async with node.client() as client:
        assert (await client.get("/readyz")).status_code == 503
        with trio.fail_after(END_S):
            assert await node.stop(number) == 0
    assert "Traceback" not in node.log


async def test_a_compilation_does_not_hold_up_the_end(nodes: Any) -> None:
    """The signal comes as soon as there is an address, while OpenVINO compiles."""
    node = await nodes.start("detector", MODEL="coco")
    with trio.fail_after(END_S):
        assert await node.stop() == 0
    assert "Traceback" not in node.log


@SIGNALS
@pytest.mark.parametrize("after_s", [0.05, 0.15, 0.3])
async def test_a_signal_at_any_moment_of_a_build_ends_it_cleanly(
    nodes: Any, number: signal.Signals, after_s: float
) -> None:
    """A thread that is left behind inside OpenVINO takes nobody with it."""
    node = await nodes.start("detector", MODEL="coco")
    await node.until(lambda: "building model" in node.log, "word of the build")
    await trio.sleep(after_s)  # the moment within the build is what this is about
    with trio.fail_after(END_S):
        assert await node.stop(number) == 0
    assert "terminate called" not in node.log


async def test_the_second_signal_does_not_wait_for_who_does_not_read(nodes: Any) -> None:
    """Not even for answers that are stuck on their way out."""
    node = await nodes.start("detector")
    async with AsyncExitStack() as connections, trio.open_nursery() as nursery:
        for _ in range(3):
            stream = await trio.open_tcp_stream("127.0.0.1", int(node.url.rpartition(":")[2]))
            await connections.enter_async_context(stream)
            nursery.start_soon(stream.send_all, b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nhost: x\r\n\r\n" * 20)
        node.process.send_signal(signal.SIGTERM)
        await node.until(lambda: "a second signal" in node.log, "word of the first signal")
        with trio.fail_after(2):
            assert await node.stop(signal.SIGTERM) == 0
        nursery.cancel_scope.cancel()
