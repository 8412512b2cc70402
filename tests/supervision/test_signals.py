"""Real signals, to this process and to one of its own."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from loop_node.supervision import watch_signals

NODE = """
import trio
from loop_node.supervision import watch_signals

async def main():
    stop = trio.Event()
    async with trio.open_nursery() as node:
        await node.start(watch_signals, stop, node.cancel_scope)
        print("up", flush=True)
        try:
            await stop.wait()
            print("stopping", flush=True)
            {work}
        finally:
            print("cleaned up", flush=True)
        node.cancel_scope.cancel()

trio.run(main)
"""

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


@contextmanager
def process(work: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", NODE.format(work=work)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as node:
        try:
            assert line(node) == "up"
            yield node
        finally:
            node.kill()


def line(node: subprocess.Popen[str]) -> str:
    assert node.stdout is not None
    return node.stdout.readline().strip()


@posix
@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_work_finish(number: signal.Signals) -> None:
    """One signal: what is in flight is finished, exit 0."""
    with process("await trio.sleep(0.1); print('finished', flush=True)") as node:
        node.send_signal(number)
        assert [line(node) for _ in range(3)] == ["stopping", "finished", "cleaned up"]
        assert node.wait(10) == 0


@posix
@pytest.mark.process
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_ends_it_at_once(second: signal.Signals) -> None:
    """Two signals: work is cancelled, cleaned up, exit 0."""
    with process("await trio.sleep_forever()") as node:
        node.send_signal(signal.SIGTERM)
        assert line(node) == "stopping"
        node.send_signal(second)
        assert line(node) == "cleaned up"
        assert node.wait(10) == 0


@posix
@pytest.mark.process
def test_the_third_signal_kills_a_hanging_clean_up() -> None:
    """Three signals: the process dies by the signal even if its clean-up would never end."""
    hang = """
            try:
                await trio.sleep_forever()
            finally:
                print('hanging', flush=True)
                with trio.CancelScope(shield=True):
                    await trio.sleep_forever()
    """
    with process(hang.strip()) as node:
        node.send_signal(signal.SIGTERM)
        assert line(node) == "stopping"
        node.send_signal(signal.SIGTERM)
        assert line(node) == "hanging"
        node.send_signal(signal.SIGTERM)
        assert node.wait(10) == -signal.SIGTERM


async def test_handlers_are_put_back(caplog: pytest.LogCaptureFixture) -> None:
    """Both steps are logged by the signal's name, and after the second one the old handlers are in force again."""
    caplog.set_level("INFO")
    before = signal.getsignal(signal.SIGTERM)
    stop = trio.Event()
    async with trio.open_nursery() as node:
        await node.start(watch_signals, stop, node.cancel_scope)
        assert not stop.is_set()
        signal.raise_signal(signal.SIGTERM)
        await stop.wait()
        assert not node.cancel_scope.cancel_called
        signal.raise_signal(signal.SIGINT)
        await trio.sleep_forever()
    assert signal.getsignal(signal.SIGTERM) is before
    assert [message.split(":")[0] for message in caplog.messages] == ["SIGTERM", "SIGINT again"]
