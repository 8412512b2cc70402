"""`loop-node outbox`: what an operator sees and does, on a folder that a detector has left."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from loop_node import cli
from loop_node.detector.outbox import Limits, open_outbox
from loop_node.schemas.detections import ImageMetadata
from loop_node.supervision import Criticality, Health, Task, supervise

Verb = Callable[..., str]


async def fill(folder: Path, images: int) -> None:
    """An outbox as a detector leaves it that could not send."""
    async with open_outbox(folder, Limits(free_bytes=0)) as outbox, trio.open_nursery() as nursery:
        writer = Task(name="writer", run=outbox.run_writer, criticality=Criticality.VITAL)
        await nursery.start(partial(supervise, [writer], health=Health()))
        for number in range(images):
            await outbox.store(b"\xff\xd8" + bytes(1000), ImageMetadata(source=str(number)), priority=number == 0)
        nursery.cancel_scope.cancel()


@pytest.fixture
def verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Verb:
    """Runs the verb; gives what it said."""
    monkeypatch.setenv("DATA_FOLDER", str(tmp_path))

    def run(*arguments: str, code: int = 0) -> str:
        assert cli.main(["outbox", *arguments]) == code
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return said.out + said.err

    return run


def test_without_an_outbox_it_says_where_it_looked(verb: Verb, tmp_path: Path) -> None:
    """And ends with 1, whatever is asked."""
    for action in (["ls"], ["stats"], ["retry"], ["drop", "--all"], ["export", str(tmp_path / "x")]):
        assert f"there is no outbox in {tmp_path / 'outbox'}" in verb(*action, code=1)


def test_what_lies_there_is_listed_exported_and_dropped(verb: Verb, tmp_path: Path) -> None:
    """In the order in which it is sent: priority, then the newest."""
    trio.run(fill, tmp_path / "outbox", 3)
    lines = verb("ls").splitlines()
    assert [line.split()[1] for line in lines] == ["priority", "normal", "normal"]
    first = lines[0].split()[0]
    assert "normal          2 images" in verb("stats")
    assert "exported: 3 of 3" in verb("export", str(tmp_path / "out"))
    assert len(list((tmp_path / "out").glob("*.jpg"))) == len(list((tmp_path / "out").glob("*.json"))) == 3
    assert "exported: 1 of 1" in verb("export", str(tmp_path / "one"), first)
    assert "put back: 0 of 0" in verb("retry")
    assert "name the images" in verb("drop", code=1)
    assert "deleted: 1 of 1" in verb("drop", first)
    assert "no image in the outbox is called" in verb("drop", first, code=1)
    assert "deleted: 2 of 2" in verb("drop", "--all")
    assert verb("ls") == ""


def test_a_folder_that_cannot_be_written_is_named(verb: Verb, tmp_path: Path) -> None:
    """Without a traceback."""
    trio.run(fill, tmp_path / "outbox", 1)
    (tmp_path / "file").write_text("")
    assert "file" in verb("export", str(tmp_path / "file"), code=1)
