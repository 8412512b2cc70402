"""kill -9 for real: a process that updates its model over and over, and what the next one finds on the disk."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import loop_node

pytestmark = pytest.mark.process

NAMES = Path(__file__).with_name("conftest.py")

PROGRAM = """
import importlib.util, itertools, os, signal, sys
from pathlib import Path
import trio

spec = importlib.util.spec_from_file_location("names", sys.argv[1])
names = sys.modules["names"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(names)
folder, task = Path(sys.argv[2]), sys.argv[3]
paperwork = names.Paperwork()

def build(root):
    if (root / "model.txt").read_text() == "kills":
        os.kill(os.getpid(), signal.SIGKILL)
    return paperwork.build(root)

async def main():
    loop = names.PaperLoop()
    machines = names.Machines(folder, loop, paperwork)
    async with machines.start(build=build) as machine:
        if task == "update":
            await machine.settle()
            first = int((machine.version or "1.0").split(".")[1]) + 1
            for number in itertools.count(first):
                loop.publish(f"1.{number}")
                await machine.settle()
                print(machine.version, flush=True)
        await machine.settle()
        if task == "kill":
            loop.publish("1.0")
            await machine.settle()
        if task != "look":
            loop.publish("2.0", names.model_zip("2.0", {"model.txt": "kills"}))
            await machine.settle()
        print(machine.version, machine.state.errors, flush=True)

trio.run(main)
"""


def run(folder: Path, task: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(NAMES), str(folder), task],
        env={"PYTHONPATH": str(Path(loop_node.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_model_that_kills_the_process_does_so_once(tmp_path: Path) -> None:
    """The next process serves the model before it, and leaves the killer alone until its time."""
    killed = run(tmp_path, "kill")
    _, error = killed.communicate(timeout=30)
    assert killed.returncode == -9, error
    said, error = run(tmp_path, "target").communicate(timeout=30)
    assert said.startswith("1.0 {'model': 'model 2.0: the process ended while it was being built'"), error


def test_a_model_is_there_after_a_kill_at_any_moment(tmp_path: Path) -> None:
    """Without a network, and never an older one than the last that was seen to serve."""
    dice = random.Random(7)
    for _ in range(6):
        process = run(tmp_path, "update")
        assert process.stdout is not None
        seen = [process.stdout.readline().strip() for _ in range(dice.randint(1, 4))]
        try:
            process.wait(dice.random() / 20)
        except subprocess.TimeoutExpired:
            process.kill()
        rest, error = process.communicate(timeout=30)
        last = [*seen, *rest.split()][-1]
        assert last, error
        said, error = run(tmp_path, "look").communicate(timeout=30)
        found, _, errors = said.strip().partition(" ")
        assert number(found) >= number(last), error
        assert errors == "{}"
    record: dict[str, Any] = json.loads((tmp_path / "model_store.json").read_text())
    assert record["building"] is None


def number(version: str) -> int:
    return int(version.split(".")[1])
