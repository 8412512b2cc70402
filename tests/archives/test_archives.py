import os
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loop_node.archives import copy_entries, unpack
from loop_node.errors import ModelError


def _zip(path, entries: dict[str, bytes]):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/out", "..\\out", "C:out", "a/.."])
def test_nothing_is_written_outside_of_the_folder(tmp_path, name):
    """Names that climb, are absolute or mean a drive are refused, and what was unpacked before them is gone."""
    archive = _zip(tmp_path / "bad.zip", {"model.onnx": b"x", name: b"evil"})
    with pytest.raises(ModelError, match="names a file outside of its folder"):
        unpack(archive, tmp_path / "into")
    assert list((tmp_path / "into").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.zip", "into"]


def test_symbolic_links_are_refused(tmp_path):
    """A link would lead whatever follows it out of the folder."""
    link = zipfile.ZipInfo("model.onnx")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(link, "/etc/hostname")
    with pytest.raises(ModelError, match="symbolic link: "):
        unpack(tmp_path / "bad.zip", tmp_path / "into")


def test_a_bomb_is_stopped_at_the_bound(tmp_path):
    """What counts is what comes out, over all entries, not what the directory claims."""
    archive = _zip(tmp_path / "bomb.zip", {"a": bytes(600_000), "b": bytes(600_000)})
    with pytest.raises(ModelError, match="unpacks to more than 1000000 bytes"):
        unpack(archive, tmp_path / "into", max_bytes=1_000_000)
    assert list((tmp_path / "into").iterdir()) == []
    assert unpack(archive, tmp_path / "into", max_bytes=1_200_000).is_dir()


def test_too_many_entries_are_refused(tmp_path):
    """Before the first is unpacked."""
    archive = _zip(tmp_path / "many.zip", {str(number): b"" for number in range(5)})
    with pytest.raises(ModelError, match="has 5 entries, more than 4"):
        unpack(archive, tmp_path / "into", max_entries=4)


def test_an_encrypted_zip_is_refused(tmp_path):
    """The error says that it is encrypted."""
    archive = _zip(tmp_path / "secret.zip", {"model.onnx": b"x"})
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.index(signature) + offset
        struct.pack_into("<H", content, place, 1)
    archive.write_bytes(content)
    with pytest.raises(ModelError, match="encrypted"):
        unpack(archive, tmp_path / "into")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    """No traceback of the operating system reaches the operator."""
    (tmp_path / "into").write_text("a file is in the way")
    with pytest.raises(ModelError, match=r"cannot be unpacked: .*into"):
        unpack(_zip(tmp_path / "m.zip", {"model.onnx": b"x"}), tmp_path / "into")


def test_a_file_twice_is_refused(tmp_path):
    """The second would hide what the first one was."""
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        archive.writestr("model.onnx", "a")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("model.onnx", "b")
    with pytest.raises(ModelError, match="cannot be unpacked"):
        unpack(tmp_path / "twice.zip", tmp_path / "into")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_zip_is_refused_or_whole(tmp_path, data):
    """Cut or with flipped bytes: a ModelError or a folder, never anything else and never rubbish beside it."""
    content = bytearray(
        _zip(tmp_path / "good.zip", {"a/model.onnx": b"weights" * 50, "model.json": b"{}"}).read_bytes()
    )
    content = content[: data.draw(st.integers(0, len(content)))]
    for place in data.draw(st.lists(st.integers(0, max(0, len(content) - 1)), max_size=3)):
        if content:
            content[place] ^= data.draw(st.integers(1, 255))
    (tmp_path / "damaged.zip").write_bytes(content)
    into = tmp_path / "into"
    before = set(into.iterdir()) if into.exists() else set()
    try:
        folder = unpack(tmp_path / "damaged.zip", into)
    except ModelError:
        folder = None
    after = set(into.iterdir()) if into.exists() else set()
    assert after - before <= {folder}


def test_what_a_killed_unpacking_left_is_swept(tmp_path):
    """After a day; younger leftovers may belong to another node at work."""
    old, young = tmp_path / "into" / "unfinished-old", tmp_path / "into" / "unfinished-young"
    for left in (old, young):
        (left / "model").mkdir(parents=True)
    os.utime(old, (0, 0))
    unpack(_zip(tmp_path / "good.zip", {"model.onnx": b"x"}), tmp_path / "into")
    assert not old.exists()
    assert young.exists()


def test_two_nodes_may_unpack_the_same_zip(tmp_path, monkeypatch):
    """Whoever comes second uses what the first has put there, and nests nothing in it."""
    archive = _zip(tmp_path / "good.zip", {"model.onnx": b"x"})
    first = unpack(archive, tmp_path / "into")
    with monkeypatch.context() as blind:  # as it looks to one that asked before the other was done
        blind.setattr(Path, "is_dir", lambda path, seen=[]: path != first or bool(seen.append(path)) or len(seen) > 1)
        assert unpack(archive, tmp_path / "into") == first
    assert [path.name for path in first.iterdir()] == ["model.onnx"]
    assert list((tmp_path / "into").iterdir()) == [first]


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED])
def test_damage_inside_any_compression_is_a_bad_zip(tmp_path, method):
    """Whatever the decompressor raises."""
    path = tmp_path / "damaged.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("model.onnx", bytes(range(256)) * 100)
    content = bytearray(path.read_bytes())
    content[50:70] = bytes(byte ^ 0xFF for byte in content[50:70])
    path.write_bytes(content)
    with pytest.raises(ModelError, match="damaged"):
        unpack(path, tmp_path / "into")


@pytest.mark.parametrize("names", [[""], ["."], ["n" * 256], ["a", "a/b"], ["a/b", "a"]])
def test_names_that_no_folder_can_hold_are_not_copied(tmp_path, names):
    """Whoever unpacks the copy would find out, and that is too late."""
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), b"x")
    with (
        zipfile.ZipFile(tmp_path / "copy.zip", "w") as sink,
        pytest.raises(ModelError, match=r"no file can have|twice"),
    ):
        copy_entries(tmp_path / "bad.zip", sink, called="bad.zip")


def test_a_crowd_is_refused_before_it_is_read(tmp_path, monkeypatch):
    """By what the end of the zip announces, comment or none, also beyond what 16 bits can tell."""
    archive = tmp_path / "crowd.zip"
    with zipfile.ZipFile(archive, "w") as crowd:
        crowd.comment = b"PK of many"
        for number in range(70_000):
            crowd.writestr(zipfile.ZipInfo(str(number)), b"")
    monkeypatch.setattr("loop_node.archives.zipfile.ZipFile", None)  # would be a TypeError
    with pytest.raises(ModelError, match="has 70000 entries, more than 10000"):
        unpack(archive, tmp_path / "into")
