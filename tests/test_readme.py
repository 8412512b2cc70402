"""README says what is true."""

import re
from pathlib import Path

import trio

from loop_node.settings import settings_markdown

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_its_settings_table_is_the_products() -> None:
    """Made by `settings_markdown()`, and still the same."""
    _, _, rest = README.partition("<!-- settings: made by `settings_markdown()` -->\n")
    table, end, _ = rest.partition("<!-- /settings -->")
    assert end
    assert table == settings_markdown()


def test_quick_start_is_two_lines() -> None:
    """One to see it, one to test it; CI runs the second as it stands."""
    section = README.partition("## Quick start")[2].partition("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    assert len(blocks) == 2
    assert all(block.count("\n") == 1 for block in blocks)
    assert blocks[1] in (Path(__file__).parents[1] / ".ci" / "run").read_text()


def test_every_event_is_listed() -> None:
    """So is the table of events."""
    from loop_node.detector.detection import Detector  # slow
    from loop_node.detector.events import detector_events  # the same
    from loop_node.detector.models import ModelLoader  # the same
    from loop_node.detector.state import DetectorState  # the same
    from loop_node.inference.engine import Engine  # the same

    state, engine = DetectorState(), Engine()
    events = detector_events(Detector(engine, 1, trio.CapacityLimiter(1)), state, ModelLoader(engine, state, None))
    for event in events:
        assert f"`{event}`" in README


def test_every_endpoint_is_listed() -> None:
    """The table of endpoints leaves none out."""
    import trio  # the same

    from loop_node.detector.detection import Detector  # the same
    from loop_node.detector.models import ModelLoader  # the same
    from loop_node.detector.rest import detector_endpoints  # slow
    from loop_node.detector.state import DetectorState  # slow
    from loop_node.inference.engine import Engine  # the same

    state, engine = DetectorState(), Engine()
    loader = ModelLoader(engine, state, None)
    detector = Detector(engine, 1, trio.CapacityLimiter(1))
    endpoints = detector_endpoints(detector, state, loader, has_backdoor=True)
    for endpoint in endpoints:
        assert f"`{endpoint.method} {endpoint.path}`" in README


def test_the_management_api_is_listed() -> None:
    """Each of its paths, as README abbreviates them."""
    from loop_node.local_loop.management import management_endpoints  # slow

    class AnyLoop:
        max_batch_bytes = 1

    for endpoint in management_endpoints(AnyLoop()):  # type: ignore[arg-type]  # the table asks for no more
        *_, last = endpoint.path.split("/")
        assert endpoint.method in README
        assert re.search(rf"{last.split(':')[-1].strip('<>')}\b|/{{p}}`|/{{n}}`", README), endpoint.path


def test_the_loops_verbs_are_listed() -> None:
    """All of them."""
    from loop_node.cli.loop_verbs import ASKING_VERBS

    assert all(f"`{verb}`" in README for verb in ASKING_VERBS)
