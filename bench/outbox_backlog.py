"""What a large backlog costs: time to ready, memory, open files.

    python bench/outbox_backlog.py --images 100000 --bytes 2000

Fills a folder, then opens it in a process of its own with both tasks running, waits until an image was stored and ten
requests were sent, and compares with an empty outbox in another process.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import trio

from loop_node.detector.outbox import Limits, OutgoingImage, Queue, open_outbox
from loop_node.detector.outbox.item import Content, file_name, item_id, pack
from loop_node.detector.outbox.store import FIRST_SEQUENCE
from loop_node.schemas.detections import ImageMetadata

__all__ = ["fill", "measure"]

WATCHED_REQUESTS = 10


class Handle:
    """A task's handle that tells nobody."""

    def ready(self) -> None:
        """See `TaskHandle`."""

    def waiting(self, reason: str) -> nullcontext[None]:  # noqa: ARG002  # as its protocol has it
        """See `TaskHandle`."""
        return nullcontext()


def fill(folder: Path, images: int, jpeg_bytes: int) -> None:
    """Put that many normal images there, without the care that real ones are stored with."""
    normal = folder / Queue.NORMAL.value
    normal.mkdir(parents=True)
    jpeg, tail = pack(Content(b"\xff\xd8" + bytes(jpeg_bytes), b'{"tags": []}'))
    for number in range(images):
        name = file_name(item_id(FIRST_SEQUENCE + number, f"{number:016x}"), len(jpeg) + len(tail))
        (normal / name).write_bytes(jpeg + tail)


def rss_bytes() -> int:
    """Memory that is resident now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def open_files() -> int:
    """Descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def measure(folder: Path) -> dict[str, float]:
    """Open the outbox and let it work for a moment."""
    before_bytes, began_s = rss_bytes(), time.perf_counter()
    most_files, requests, enough = 0, 0, trio.Event()

    async def send(images: Sequence[OutgoingImage]) -> None:  # noqa: ARG001  # all are taken
        nonlocal most_files, requests
        most_files, requests = max(most_files, open_files()), requests + 1
        if requests == WATCHED_REQUESTS:
            enough.set()

    limits = Limits(normal_images=10**7, total_bytes=2**50, free_bytes=0)
    async with open_outbox(folder, limits) as outbox, trio.open_nursery() as nursery:
        ready_s, files = time.perf_counter() - began_s, open_files()
        opened_bytes, most_files = rss_bytes(), files
        pending = outbox.stats().images[Queue.NORMAL]
        nursery.start_soon(outbox.run_writer, Handle())
        await outbox.store(b"\xff\xd8", ImageMetadata(), priority=True)
        stored_s = time.perf_counter() - began_s
        if pending:
            nursery.start_soon(partial(outbox.run_drainer, send, Handle()))
            await enough.wait()
        nursery.cancel_scope.cancel()
    return {
        "pending": pending,
        "ready_s": ready_s,
        "first_stored_s": stored_s,
        "rss_growth_at_ready_mb": (opened_bytes - before_bytes) / 1e6,
        "rss_growth_mb": (rss_bytes() - before_bytes) / 1e6,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "open_files": most_files,
    }


def main() -> None:
    """Fill, measure, print."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--images", type=int, default=100_000)
    options.add_argument("--bytes", type=int, default=2000, help="of each JPEG")
    options.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.measure:
        print(json.dumps(trio.run(measure, given.measure)))
        return
    with tempfile.TemporaryDirectory() as place:
        fill(Path(place) / "full", given.images, given.bytes)
        for name in ("empty", "full"):
            command = [sys.executable, __file__, "--measure", str(Path(place) / name)]
            result = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            print(f"{name}:", ", ".join(f"{key} {value:.3g}" for key, value in result.items()))


if __name__ == "__main__":
    main()
