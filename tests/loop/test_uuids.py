"""A node keeps its id as long as it keeps its name."""

import json
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from loop_node.loop.uuids import node_uuid


def test_an_id_is_made_once(tmp_path):
    """Names differ neither in case nor in spaces; other nodes in the file keep theirs."""
    folder = tmp_path / "data"
    made = node_uuid(folder, "Detector PC7")
    assert uuid.UUID(made).version == 4
    assert node_uuid(folder, "detector_pc7") == made
    other = node_uuid(folder, "other")
    assert json.loads((folder / "uuids.json").read_text()) == {"detector_pc7": made, "other": other}
    assert [path.name for path in folder.iterdir()] == ["uuids.json"]


def test_the_file_of_an_older_node_is_read(tmp_path):
    """Whatever else stands in it."""
    known = str(uuid.uuid4())
    (tmp_path / "uuids.json").write_text(json.dumps({"a": known, "b": None}))
    assert node_uuid(tmp_path, "A") == known
    assert uuid.UUID(node_uuid(tmp_path, "b"))
    assert json.loads((tmp_path / "uuids.json").read_text())["a"] == known


def test_nodes_that_share_a_folder_and_start_together(tmp_path):
    """None loses its id to another."""
    names = [f"node {number}" for number in range(20)]
    with ThreadPoolExecutor(20) as starts:
        made = list(starts.map(lambda name: node_uuid(tmp_path, name), names))
    assert [node_uuid(tmp_path, name) for name in names] == made


@pytest.mark.parametrize("damaged", [b"", b'{"a": "3c20', b"[]", b"\xff\xfe\x00", b"[" * 100_000, b"\x00" * 4096])
def test_a_damaged_file_is_set_aside(tmp_path, damaged, caplog):
    """Never fatal, and what was there can still be looked at."""
    (tmp_path / "uuids.json").write_bytes(damaged)
    made = node_uuid(tmp_path, "a")
    assert node_uuid(tmp_path, "a") == made
    assert (tmp_path / "uuids.json.broken").read_bytes() == damaged
    assert "set aside as uuids.json.broken" in caplog.text


def test_the_rest_of_a_crash_is_no_obstacle(tmp_path):
    """A file that was never finished is written over."""
    (tmp_path / "uuids.json.unfinished").write_text('{"a": "tru')
    made = node_uuid(tmp_path, "a")
    assert node_uuid(tmp_path, "a") == made


def test_a_folder_that_cannot_be_written(tmp_path, caplog):
    """The node runs, with an id for this time."""
    (tmp_path / "data").write_text("a file where the folder should be")
    assert uuid.UUID(node_uuid(tmp_path / "data", "a"))
    assert "cannot be kept" in caplog.text
