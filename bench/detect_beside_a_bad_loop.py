"""What a Learning Loop that swallows everything costs detections, beside a good one and none.

    python bench/detect_beside_a_bad_loop.py [--rounds 10] [--requests 40] [--mock]

Three detectors with the bundled model are asked by turns by one client that asks again when it is answered: one with an
embedded Learning Loop, one whose Loop takes connections and never answers, one without a Loop. All images of the first
two go into their outboxes. Printed are the percentiles of `/detect` and the ratios of the 99th to that without a Loop.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

import trio

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests" / "process")]
from load import Client, Tally, post_image  # noqa: E402  # likewise

from launching import Launcher, Node  # noqa: E402  # found by the line above
from learning_loops import PROJECT, RealLoop  # noqa: E402  # likewise
from scripted import start_serving  # noqa: E402  # likewise

PHOTO = ROOT / "src" / "loop_node" / "bundled" / "photos" / "astronaut.jpg"
LOGIC = f"{ROOT / 'examples' / 'mock_detector' / 'mock_detector.py'}:MockDetectorFactory"
AIM = 1.10


async def silence(_stream: trio.SocketStream) -> None:
    """A black hole."""
    await trio.sleep_forever()


async def ask(node: Node, request: bytes, requests: int, tally: Tally) -> None:
    """One client, one request after another."""
    client = Client(*node.address)
    for _ in range(requests):
        began_s = trio.current_time()
        answer = await client.ask(request)
        tally.count(answer.status, trio.current_time() - began_s)
        tally.took_s += trio.current_time() - began_s
    await client.aclose()


async def run(launcher: Launcher, *, rounds: int, requests: int, mock: bool) -> dict[str, Tally]:
    """The answers of each detector, by what it has for a Learning Loop."""
    arguments = ["--logic", LOGIC] if mock else []
    model = {} if mock else {"MODEL": "coco"}
    request = post_image(PHOTO.read_bytes(), headers={"autoupload": "all"})
    async with trio.open_nursery() as nursery:
        hole = await start_serving(nursery, silence)
        loop = await launcher.start("loop")
        async with loop.client() as person:
            await RealLoop(loop, person).prepare()
        urls = {"a good Loop": loop.url, "a black hole": f"http://127.0.0.1:{hole}"}
        detectors = {
            name: await launcher.start_ready("detector", *arguments, LOOP_HOST=url, **PROJECT, **model)
            for name, url in urls.items()
        }
        detectors["no Loop"] = await launcher.start_ready("detector", *arguments, **model)
        tallies = {name: Tally() for name in detectors}
        for node in detectors.values():
            await ask(node, request, 20, Tally())  # warms up
        for number in range(rounds):
            for name in sorted(detectors, reverse=bool(number % 2)):  # who follows whom changes
                await ask(detectors[name], request, requests, tallies[name])
        nursery.cancel_scope.cancel()
    return tallies


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--requests", type=int, default=40, help="per round and detector")
    parser.add_argument(
        "--mock", action="store_true", help="a logic that looks at nothing: all the rest is more visible"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        launcher = Launcher(Path(folder))
        try:
            measure = partial(run, launcher, rounds=options.rounds, requests=options.requests, mock=options.mock)
            tallies = trio.run(measure)
        finally:
            launcher.kill_all()
    alone_s = tallies["no Loop"].quantile_s(0.99)
    for name, tally in tallies.items():
        assert set(tally.statuses) == {200}, tally
        p50, p99 = (tally.quantile_s(share) * 1000 for share in (0.5, 0.99))
        print(f"{name:12}  p50 {p50:6.1f} ms  p99 {p99:6.1f} ms  p99 / no Loop {p99 / 1000 / alone_s:.2f}")
    ratio = tallies["a black hole"].quantile_s(0.99) / tallies["a good Loop"].quantile_s(0.99)
    print(f"a black hole / a good Loop: p99 {ratio:.2f} (aim: <= {AIM})")


if __name__ == "__main__":
    main()
