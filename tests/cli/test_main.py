"""The command line: what each verb says, and with which code it ends."""

from pathlib import Path

import pytest

from loop_node import cli


def test_wrong_settings_are_named_all_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two faults, one start, exit 78."""
    monkeypatch.setenv("NODE_PORT", "eighty")
    monkeypatch.setenv("MAX_QUEUE", "-1")
    assert cli.main(["detector"]) == 78
    said = capsys.readouterr().err
    assert "NODE_PORT='eighty' cannot be used" in said
    assert "MAX_QUEUE='-1' cannot be used" in said
    assert "Traceback" not in said


def test_settings_are_printed_without_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table of a verb, with the values in force."""
    monkeypatch.setenv("LOOP_PASSWORD", "open sesame")
    monkeypatch.setenv("LOOP_USERNAME", "me")
    assert cli.main(["settings", "trainer"]) == 78  # it lacks a Learning Loop
    monkeypatch.setenv("LOOP_HOST", "loop.local")
    assert cli.main(["settings", "trainer"]) == 0
    said = capsys.readouterr().out
    assert "8005" in said
    assert "sesame" not in said


@pytest.mark.parametrize("arguments", [[], ["fly"], ["detector", "--wings"], ["settings", "bird"]])
def test_an_unknown_verb_or_option_is_a_usage_error(arguments: list[str]) -> None:
    """Exit 2, from argparse."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize("arguments", [["--help"], ["detector", "--help"], ["--version"]])
def test_help_and_version_end_well(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 0
    assert "loop-node" in capsys.readouterr().out


def test_a_logic_that_cannot_be_found_is_a_settings_fault(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 78 and the option's name."""
    assert cli.main(["detector", "--logic", "nowhere.py:Factory"]) == 78
    assert "--logic nowhere.py:Factory: there is no file nowhere.py" in capsys.readouterr().err


def test_a_file_of_ones_own_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, without a traceback."""
    monkeypatch.setenv("LOOP_HOST", "http://127.0.0.1:1")
    monkeypatch.setenv("DATA_FOLDER", str(tmp_path))
    broken, good = tmp_path / "photos" / "broken.jpg", tmp_path / "good.jpg"
    broken.parent.mkdir()
    broken.symlink_to("/nowhere")
    good.write_bytes(b"\xff\xd8\xff")
    (tmp_path / "coco.json").write_text(
        '{"images": [{"file_name": "a", "id": []}], "annotations": [], "categories": []}'
    )
    for arguments, named in (
        (["import", "o/p", str(broken.parent)], "broken.jpg cannot be used: No such file"),
        (["model", "upload", "o/p", str(tmp_path / "none.zip")], "none.zip cannot be used: No such file"),
        (["import", "o/p", str(good), "--annotations", str(tmp_path / "coco.json")], "coco.json is no COCO file"),
    ):
        assert cli.main(["loop", *arguments]) == 1
        said = capsys.readouterr().err
        assert named in said
        assert "Traceback" not in said
