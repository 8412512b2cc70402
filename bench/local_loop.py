"""The embedded Learning Loop with 10,000 images of 200 KB: how long, how much memory.

    python bench/local_loop.py [--images 10000] [--kib 200]

Prints the time and the rate of the import, the largest resident memory of the Loop, and the time of a page of 100 records, of
a list of ids by state and of an image, as median and 99th percentile.
"""

import argparse
import io
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import click
import httpx
import numpy as np
import trio
from PIL import Image

BATCH = 50
AT_ONCE = 2


def photo(kib: int) -> bytes:
    """A JPEG of about this size: a smooth picture with noise, 1280 x 720."""
    dice = np.random.default_rng(1)
    smooth = np.linspace(0, 200, 1280 * 720 * 3).reshape(720, 1280, 3)
    for noise in range(2, 80, 2):
        pixels = np.clip(smooth + dice.normal(0, noise, smooth.shape), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
        if buffer.tell() >= kib << 10:
            break
    return buffer.getvalue()


def figure(process: subprocess.Popen[str], name: str) -> float:
    """A figure of the process's status, in MB."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    assert found
    return int(found[1]) * 1024 / 1e6


async def fill(client: httpx.AsyncClient, images: int, jpeg: bytes) -> None:
    """Import them in batches, some at once; each has an end of its own."""
    starts = iter(range(0, images, BATCH))
    with click.progressbar(length=images, label="import", file=sys.stderr) as bar:

        async def importer() -> None:
            for start in starts:
                files = [
                    ("files", (f"{number:06}.jpg", jpeg + number.to_bytes(4, "big")))
                    for number in range(start, min(start + BATCH, images))
                ]
                answer = await client.post("/api/local/bench/bench/import", files=files)
                assert answer.status_code == 200, answer.text
                bar.update(len(files))

        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(importer)


async def times_ms(ask: Callable[[int], Awaitable[httpx.Response]], times: int) -> str:
    """Median and 99th percentile of so many calls."""
    taken = []
    for number in range(times):
        started = time.perf_counter()
        answer = await ask(number)
        taken.append((time.perf_counter() - started) * 1000)
        assert answer.status_code == 200, answer.text
    return f"{statistics.median(taken):7.1f} ms median, {statistics.quantiles(taken, n=100)[98]:7.1f} ms p99"


async def measure(url: str, process: subprocess.Popen[str], images: int, jpeg: bytes) -> None:
    """All of it, on a Loop that is empty."""
    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as client:
        await client.post("/api/login", data={"username": "admin", "password": "admin"})
        await client.post("/api/local/projects", json={"organization": "bench", "project": "bench"})
        print(f"{images} images of {len(jpeg) / 1000:.0f} KB; at the start {figure(process, 'VmRSS'):.0f} MB resident")
        started = time.perf_counter()
        await fill(client, images, jpeg)
        took_s = time.perf_counter() - started
        print(f"import           {took_s:7.1f} s, {images / took_s:.0f} images/s")
        project = "/api/bench/projects/bench"
        ids = (await client.get(f"{project}/data?state=inbox")).json()["image_ids"]
        assert len(ids) == images

        def page(number: int) -> Awaitable[httpx.Response]:
            start = number * 100 % max(images - 100, 1)
            return client.get(f"{project}/images", params={"ids": ",".join(ids[start : start + 100])})

        print(f"100 records      {await times_ms(page, 200)}")
        print(f"ids by state     {await times_ms(lambda _: client.get(f'{project}/data?state=inbox'), 50)}")
        print(f"an image         {await times_ms(lambda n: client.get(f'{project}/images/{ids[n]}/main'), 500)}")
        print(f"memory           {figure(process, 'VmHWM'):7.0f} MB at most")


def main() -> None:
    """Start a Loop, measure it, end it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--kib", type=int, default=195)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "DATA_FOLDER": folder, "NODE_PORT": "0", "NODE_HOST": "127.0.0.1"}
        command = [sys.executable, "-m", "loop_node", "loop"]
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            url = next(found[0] for line in process.stderr if (found := re.search(r"http://\S+\d", line)))
            try:
                trio.run(measure, url, process, options.images, photo(options.kib))
            finally:
                process.terminate()


if __name__ == "__main__":
    main()
