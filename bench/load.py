"""How fast a detector answers, and what it does with more than it can take.

    python bench/load.py http://127.0.0.1:8004 photo.jpg --clients 16 --seconds 30
    python bench/load.py http://127.0.0.1:8004 photo.jpg --rate 100 --seconds 10

A closed loop keeps so many clients busy, each of which asks again as soon as it is answered; an open loop asks at a
fixed rate, however long the answers take. The client is as cheap as it can be, for it shares the machine with the node.
"""

import argparse
import math
from collections import Counter, deque
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import trio
from attrs import Factory, define, frozen

__all__ = ["Answer", "Client", "Tally", "closed_loop", "open_loop", "post_image"]


@frozen
class Answer:
    """An HTTP answer; the headers' names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@define
class Tally:
    """What came of the requests; times in seconds."""

    times_s: dict[int, list[float]] = Factory(dict)
    broken: Counter[str] = Factory(Counter)
    refused: int = 0
    took_s: float = 0.0

    def count(self, status: int, seconds: float) -> None:
        """Note an answer."""
        self.times_s.setdefault(status, []).append(seconds)

    @property
    def statuses(self) -> dict[int, int]:
        """How many answers of which status."""
        return {status: len(times) for status, times in self.times_s.items()}

    @property
    def per_second(self) -> float:
        """Good answers per second."""
        return len(self.times_s.get(200, ())) / self.took_s

    def quantile_s(self, share: float, status: int = 200) -> float:
        """The time within which `share` of the answers of this status came; NaN without any."""
        times = sorted(self.times_s.get(status, ()))
        return times[min(int(share * len(times)), len(times) - 1)] if times else math.nan

    def __str__(self) -> str:
        lines = [f"{self.per_second:.1f} good answers a second over {self.took_s:.1f} s"]
        for status, count in sorted(self.statuses.items()):
            p50, p99 = (self.quantile_s(share, status) * 1000 for share in (0.5, 0.99))
            lines.append(f"{status}: {count} answers, p50 {p50:.1f} ms, p99 {p99:.1f} ms")
        lines += [f"broken: {count} x {what}" for what, count in self.broken.items()]
        return "\n".join([*lines, f"refused connections: {self.refused}"])


@define(eq=False)
class Client:
    """One client with one connection, opened when it is needed and kept while the server lets it."""

    host: str
    port: int
    _stream: trio.SocketStream | None = None
    _rest: bytes = b""

    async def ask(self, request: bytes) -> Answer:
        """Send a request and read the whole answer.

        Raises:
            OSError: No connection could be had.
            trio.BrokenResourceError: The connection ended before the answer did.
        """
        stream = self._stream = self._stream or await trio.open_tcp_stream(self.host, self.port)
        await stream.send_all(request)
        answer = await self._read_answer(stream)
        if answer.headers.get("connection", "").lower() == "close":
            await self.aclose()
        return answer

    async def aclose(self) -> None:
        """Close the connection."""
        if self._stream is not None:
            await self._stream.aclose()
        self._stream, self._rest = None, b""

    async def _read_answer(self, stream: trio.SocketStream) -> Answer:
        while b"\r\n\r\n" not in self._rest:
            await self._read_more(stream)
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        while len(self._rest) < length:
            await self._read_more(stream)
        body, self._rest = self._rest[:length], self._rest[length:]
        return Answer(int(first.split()[1]), headers, body)

    async def _read_more(self, stream: trio.SocketStream) -> None:
        data = await stream.receive_some()
        if not data:
            raise trio.BrokenResourceError("the connection ended before the answer did")
        self._rest += data


def post_image(image: bytes, *, path: str = "/detect", headers: Mapping[str, str] | None = None) -> bytes:
    """A request with the image as its raw body."""
    fields = {"host": "node", "content-type": "image/jpeg", "content-length": str(len(image)), **(headers or {})}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1") + image


async def closed_loop(url: str, request: bytes, *, clients: int, seconds: float) -> Tally:
    """Keep `clients` clients busy; a client ends early when its connection is refused."""
    tally, host, port = Tally(), *_address(url)
    end = trio.current_time() + seconds
    started = trio.current_time()

    async def keep_asking() -> None:
        client = Client(host, port)
        while trio.current_time() < end and await _ask(client, request, tally):
            pass
        await client.aclose()

    async with trio.open_nursery() as nursery:
        for _ in range(clients):
            nursery.start_soon(keep_asking)
    tally.took_s = trio.current_time() - started
    return tally


async def open_loop(url: str, request: bytes, *, rate: float, seconds: float) -> Tally:
    """Ask `rate` times a second, over as many connections as that takes."""
    tally, host, port = Tally(), *_address(url)
    idle: deque[Client] = deque()
    started = trio.current_time()

    async def ask_once() -> None:
        client = idle.pop() if idle else Client(host, port)
        await _ask(client, request, tally)
        idle.append(client)

    async with trio.open_nursery() as nursery:
        for number in range(int(rate * seconds)):
            await trio.sleep_until(started + number / rate)
            nursery.start_soon(ask_once)
    tally.took_s = trio.current_time() - started
    for client in idle:
        await client.aclose()
    return tally


async def _ask(client: Client, request: bytes, tally: Tally) -> bool:
    """Ask once and note what came of it; False when there is nobody to ask any more."""
    started = trio.current_time()
    try:
        answer = await client.ask(request)
    except trio.BrokenResourceError as error:
        tally.broken[str(error.__cause__ or error)] += 1
        await client.aclose()
    except OSError:
        tally.refused += 1
        return False
    else:
        tally.count(answer.status, trio.current_time() - started)
    return True


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or 80


def main() -> None:
    """Run one loop and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("photo", type=Path)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rate", type=float, help="an open loop with so many requests a second")
    options = parser.parse_args()
    request = post_image(options.photo.read_bytes())

    async def run() -> Tally:
        if options.rate:
            return await open_loop(options.url, request, rate=options.rate, seconds=options.seconds)
        return await closed_loop(options.url, request, clients=options.clients, seconds=options.seconds)

    print(trio.run(run))


if __name__ == "__main__":
    main()
