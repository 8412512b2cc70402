"""A real process whose disk is full in three ways: uploads are refused, detections go on, and room is used again."""

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import loop_node
from launching import Launcher, Node
from learning_loops import PROJECT, FakeLoop

pytestmark = [pytest.mark.process, pytest.mark.skipif("sys.platform != 'linux'", reason="limits of Linux")]

FILLER_BYTES = 512 << 20
SMALL_DISK_BYTES = 16 << 20
Detectors = Callable[..., Any]


async def hand_in(node: Node, jpeg: bytes, source: str) -> int:
    async with node.client() as client:
        return (await client.post("/upload", files={"files": jpeg}, params={"source": source})).status_code


async def full_disk_costs_uploads_only(
    node: Node, fake: FakeLoop, jpeg: bytes, *, make_room: Callable[[], None], refusal: int = 507
) -> None:
    """What has to hold of a node whose disk is full now and has room after `make_room`."""
    for _ in range(3):
        assert await hand_in(node, jpeg, "too much") == refusal
    async with node.client() as client:
        for _ in range(10):
            answer = await client.post("/detect", files={"file": jpeg}, headers={"autoupload": "all"})
            assert answer.status_code == 200
        assert (await client.get("/readyz")).status_code == 200
        tasks = (await client.get("/healthz")).json()["tasks"]
        assert {name: task["restarts"] for name, task in tasks.items()} == dict.fromkeys(tasks, 0)
    assert fake.sources() <= {"early"}
    make_room()
    assert await hand_in(node, jpeg, "late") == 200
    await fake.until(lambda: "late" in fake.sources(), "what was kept")
    assert "Traceback" not in node.log
    assert await node.stop() == 0


async def test_no_room_above_the_reserve(
    fake: FakeLoop, detector: Detectors, small_jpeg: bytes, tmp_path: Path
) -> None:
    """MIN_FREE_DISK_BYTES is undercut, until somebody deletes a large file."""
    filler = tmp_path / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, FILLER_BYTES)
    reserve_bytes = shutil.disk_usage(tmp_path).free + FILLER_BYTES // 2
    node = await detector(fake.url, MIN_FREE_DISK_BYTES=reserve_bytes)
    await full_disk_costs_uploads_only(node, fake, small_jpeg, make_room=filler.unlink)


async def test_files_that_may_not_grow(fake: FakeLoop, detector: Detectors, photos: Path) -> None:
    """The kernel refuses the write itself (RLIMIT_FSIZE), which is a 503 as any failure but a full disk, until the limit is lifted."""
    jpeg = (photos / "rocket.jpg").read_bytes()
    node = await detector(fake.url, MIN_FREE_DISK_BYTES=0)
    assert await hand_in(node, jpeg, "early") == 200
    await fake.until(lambda: "early" in fake.sources(), "the first image")
    _, hard = resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (64 << 10, hard))  # the image has more, the log less

    def lift() -> None:
        resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (hard, hard))

    await full_disk_costs_uploads_only(node, fake, jpeg, make_room=lift, refusal=503)


def fill(path: Path) -> None:
    """Write until there is no byte left."""
    with path.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))


def has_namespaces() -> bool:
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.mark.skipif("not has_namespaces()", reason="a disk of one's own needs a mount namespace; the others need none")
async def test_a_disk_without_a_byte_left(
    fake: FakeLoop, nodes: Launcher, small_jpeg: bytes, examples: Path, tmp_path: Path
) -> None:
    """A small file system of its own, filled to the last byte: ENOSPC, until the file that fills it is deleted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size={SMALL_DISK_BYTES} none "$0" && exec "$@"'
    node_command = [sys.executable, "-m", "loop_node", "detector", "--logic"]
    logic = f"{examples / 'mock_detector' / 'mock_detector.py'}:MockDetectorFactory"
    node = nodes.launch_program(
        ["unshare", "-rm", "sh", "-c", mount, str(disk), *node_command, logic],
        PYTHONPATH=Path(loop_node.__file__).parents[1],
        DATA_FOLDER=disk / "data",
        LOOP_HOST=fake.url,
        MIN_FREE_DISK_BYTES=0,
        **PROJECT,
    )
    await node.until_listening()
    assert await hand_in(node, small_jpeg, "early") == 200
    await fake.until(lambda: "early" in fake.sources(), "the first image")
    filler = Path(f"/proc/{node.process.pid}/root{disk}/filler")
    fill(filler)
    await full_disk_costs_uploads_only(node, fake, small_jpeg, make_room=filler.unlink)
