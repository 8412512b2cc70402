"""Socket.IO `detect` with a raw 1280x720x3 array and nothing to see: our detector against the existing nodes' stack.

One python-socketio client, as robots use it, talks to both servers by turns, so that whatever else the machine does hits both. Prints
the medians and their ratio per transport; the aim is a ratio of 0.75 or less.
"""

import argparse
import asyncio
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import socketio

HERE = Path(__file__).parent
IMAGE = {"image": {"bytes": os.urandom(1280 * 720 * 3), "dtype": "uint8", "shape": [720, 1280, 3]}}
AIM = 0.75


async def connect(port: int, transport: str) -> socketio.AsyncClient:
    """Connect as a robot does."""
    client = socketio.AsyncClient(reconnection=False)
    await client.connect(f"http://127.0.0.1:{port}", transports=[transport], socketio_path="/ws/socket.io")
    return client


async def time_call(client: socketio.AsyncClient) -> float:
    """Time one round trip, in milliseconds."""
    began = time.perf_counter()
    answer = await client.call("detect", IMAGE, timeout=60)
    assert answer["box_detections"] == []
    return (time.perf_counter() - began) * 1000


async def compare(ports: dict[str, int], transport: str, rounds: int) -> float:
    """Print the medians of both servers; give their ratio."""
    clients = {name: await connect(port, transport) for name, port in ports.items()}
    times_ms: dict[str, list[float]] = {name: [] for name in clients}
    for number in range(rounds + 10):
        for name, client in clients.items():
            taken_ms = await time_call(client)
            if number >= 10:
                times_ms[name].append(taken_ms)
    for client in clients.values():
        await client.disconnect()
    medians_ms = {name: statistics.median(times) for name, times in times_ms.items()}
    ratio = medians_ms["ours"] / medians_ms["upstream"]
    columns = "  ".join(f"{name} {median_ms:6.2f} ms" for name, median_ms in medians_ms.items())
    print(f"socketio {transport:9}  {columns}  ratio {ratio:.2f}  (aim <= {AIM})")
    return ratio


def start_ours() -> tuple[subprocess.Popen[str], int]:
    """Start the detector; gives its process and its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "loop_node", "detector", "--logic", f"{HERE / 'nothing.py'}:NothingFactory"],
        env=os.environ | {"NODE_HOST": "127.0.0.1", "NODE_PORT": "0"},
        stderr=subprocess.PIPE,
        text=True,
    )
    port = None
    for line in process.stderr or ():
        if found := re.search(r"listening on http://127.0.0.1:(\d+)", line):
            port = int(found[1])
        if "serves on" in line and port is not None:
            return process, port
    raise RuntimeError("the detector did not start")


def start_upstream() -> tuple[subprocess.Popen[str], int]:
    """Start the other stack; gives its process and its port."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "socketio_upstream_server.py")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def cpu_s(process: subprocess.Popen[str]) -> float:
    """CPU seconds a process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Start both servers, compare them, stop them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args().rounds
    started = {"ours": start_ours(), "upstream": start_upstream()}
    processes = {name: process for name, (process, _) in started.items()}
    ports = {name: port for name, (_, port) in started.items()}
    try:
        for transport in ("websocket", "polling"):
            before = {name: cpu_s(process) for name, process in processes.items()}
            asyncio.run(compare(ports, transport, rounds))
            used_ms = {name: (cpu_s(processes[name]) - before[name]) * 1000 / (rounds + 10) for name in processes}
            print(f"{'':20}server CPU per call: " + "  ".join(f"{name} {ms:.2f} ms" for name, ms in used_ms.items()))
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
