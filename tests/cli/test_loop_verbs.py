"""What people ask a Learning Loop for: refusals, lists with nothing in them, imports that end in the middle."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from attrs import define, field

from loop_node import cli

JPEG = b"\xff\xd8\xff\xe0"
Answer = tuple[int, Any] | Callable[[], tuple[int, Any]]


@define(eq=False)
class Loop:
    """A Learning Loop that answers as it was told to, `{}` by default, and remembers what it was asked."""

    answers: dict[str, list[Answer]] = field(factory=dict)
    asked: list[str] = field(factory=list)

    def answer(self, method: str, path: str) -> tuple[int, Any]:
        """The next of this request's answers; the last one again and again."""
        self.asked.append(f"{method} {path}")
        answers = self.answers.get(f"{method} {path}", [(200, {})])
        answer = answers[0] if len(answers) == 1 else answers.pop(0)
        return answer() if callable(answer) else answer


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Loop]:
    """At LOOP_HOST."""
    loop = Loop()

    class Handler(BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            self.close_connection = True
            self.raw_requestline = self.rfile.readline()
            if not self.raw_requestline or not self.parse_request():
                return
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, said = loop.answer(self.command, self.path)
            body = msgspec.json.encode(said)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("LOOP_HOST", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("DATA_FOLDER", str(tmp_path / "data"))
        yield loop
        server.shutdown()
        thread.join()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of 60 files that begin like a JPEG: two batches."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(60):
        (folder / f"{index:02}.jpg").write_bytes(JPEG)
    return folder


def test_files_that_are_no_jpeg_are_named_before_anything_is_sent(
    loop: Loop, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first 20 of them, and how many more."""
    for index in range(22):
        (photos / f"png{index:02}.jpg").write_bytes(b"\x89PNG")
    (photos / "zempty.jpg").touch()
    assert cli.main(["loop", "import", "o/p", str(photos)]) == 1
    said = capsys.readouterr().err
    assert "nothing was imported" in said
    assert "png00.jpg is no JPEG" in said
    assert "png19.jpg is no JPEG; and 3 more files" in said
    assert "png20.jpg" not in said
    assert loop.asked == []


def test_an_import_that_is_refused_in_the_middle_says_how_far_it_came(
    loop: Loop, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that nobody imports the images before a second time."""
    loop.answers["POST /api/local/o/p/import"] = [(200, {"imported": 50}), (507, {"detail": "the disk is full"})]
    assert cli.main(["loop", "import", "o/p", str(photos)]) == 1
    said = capsys.readouterr()
    assert "50 of 60 images were imported before this, up to " in said.err
    assert "49.jpg; importing them again would store them twice" in said.err
    assert "the disk is full" in said.err
    assert "imported 60" not in said.out


def test_an_import_that_is_interrupted_says_how_far_it_came(loop: Loop, photos: Path) -> None:
    """Ctrl-C during the second batch: the same sentence, exit 130, no traceback."""
    asked, over = threading.Event(), threading.Event()

    def never() -> tuple[int, Any]:
        asked.set()
        over.wait(30)
        return 500, {}

    loop.answers["POST /api/local/o/p/import"] = [(200, {"imported": 50}), never]
    with subprocess.Popen(
        [sys.executable, "-m", "loop_node", "loop", "import", "o/p", str(photos)],
        env=os.environ | {"PYTHONPATH": str(Path(sys.modules["loop_node"].__file__ or "").parents[1])},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert asked.wait(30)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
        finally:
            over.set()
            process.kill()
    assert process.returncode == 130
    assert "50 of 60 images were imported before this" in said
    assert "Traceback" not in said


def test_what_answers_may_be_no_loop(loop: Loop, capsys: pytest.CaptureFixture[str]) -> None:
    """A detector knows no login."""
    loop.answers["POST /api/login"] = [(404, {"detail": "there is no POST /api/login"})]
    assert cli.main(["loop", "nodes"]) == 1
    assert "is no Learning Loop (it knows no login): check LOOP_HOST" in capsys.readouterr().err


def test_a_refused_login_is_told_without_the_password(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a sentence that stays whole whatever the password is."""
    monkeypatch.setenv("LOOP_USERNAME", "me")
    monkeypatch.setenv("LOOP_PASSWORD", "wrong")
    loop.answers["POST /api/login"] = [(401, {"detail": "wrong user name or password"})]
    assert cli.main(["loop", "nodes"]) == 1
    said = capsys.readouterr().err
    assert "does not let in the user me with this password: check LOOP_USERNAME and LOOP_PASSWORD" in said
    assert "***" not in said
    assert "wrong" not in said


@pytest.mark.parametrize("name", ["LOOP_USERNAME", "LOOP_PASSWORD"])
def test_half_a_login_is_a_settings_fault(
    loop: Loop, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it is for the Loop itself."""
    monkeypatch.setenv(name, "me")
    assert cli.main(["loop", "nodes"]) == 78
    assert "LOOP_USERNAME and LOOP_PASSWORD: the Learning Loop's user needs both" in capsys.readouterr().err
    assert loop.asked == []


@pytest.mark.parametrize(
    ("arguments", "path", "thing"),
    [
        (["project", "ls"], "/api/projects", "projects"),
        (["model", "ls", "o/p"], "/api/o/projects/p/models", "models"),
        (["train", "ls", "o/p"], "/api/local/o/p/trainings", "trainings"),
        (["nodes"], "/api/local/nodes", "nodes"),
    ],
)
def test_a_list_with_nothing_in_it_says_so(
    loop: Loop, arguments: list[str], path: str, thing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Silence could be anything."""
    loop.answers[f"GET {path}"] = [(200, {thing: []})]
    assert cli.main(["loop", *arguments]) == 0
    assert capsys.readouterr().out == f"no {thing}\n"


def test_a_project_is_deleted_only_on_purpose(loop: Loop, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --yes it is told what would go, with it what went."""
    loop.answers["GET /api/local/o/p"] = [(200, {"images": {"inbox": 1, "trash": 2}})]
    loop.answers["GET /api/o/projects/p/models"] = [(200, {"models": [{}]})]
    assert cli.main(["loop", "project", "delete", "o/p"]) == 1
    assert "nothing was deleted; with --yes this goes for good: o/p: 3 images, 1 model" in capsys.readouterr().err
    assert not any(asked.startswith("DELETE") for asked in loop.asked)
    assert cli.main(["loop", "project", "delete", "o/p", "--yes", "--keep-images"]) == 0
    assert capsys.readouterr().out == "deleted o/p: 3 images, 1 model (the image files are in kept_images)\n"
    assert loop.asked[-1] == "DELETE /api/o/projects/p?keep_images=true"


def test_images_are_downloaded_once(loop: Loop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And it is said how many were there."""
    loop.answers["GET /api/o/projects/p/data"] = [(200, {"image_ids": ["a", "b"]})]
    folder = tmp_path / "back"
    folder.mkdir()
    (folder / "a.jpg").touch()
    assert cli.main(["loop", "images", "download", "o/p", str(folder)]) == 0
    assert capsys.readouterr().out == f"wrote 1 image to {folder} (there already: 1)\n"
    assert sorted(file.name for file in folder.iterdir()) == ["a.jpg", "b.jpg"]


def test_a_reader_that_has_seen_enough_is_no_fault(loop: Loop) -> None:
    """`| head -1` ends nothing but the output."""
    loop.answers["GET /api/o/projects/p/data"] = [(200, {"image_ids": ["x" * 36] * 10_000})]
    verb = f"{sys.executable} -m loop_node loop images ls o/p"
    done = subprocess.run(
        ["/bin/bash", "-o", "pipefail", "-c", f"{verb} | head -1"],
        env=os.environ | {"PYTHONPATH": str(Path(sys.modules["loop_node"].__file__ or "").parents[1])},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "x" * 36 + "\n", "")


def test_help_tells_what_the_verbs_talk_to(capsys: pytest.CaptureFixture[str]) -> None:
    """The three variables, and that the Loop itself runs without a verb."""
    with pytest.raises(SystemExit):
        cli.main(["loop", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "Without a VERB, run a Learning Loop on this machine" in said
    for name in ("LOOP_HOST", "LOOP_USERNAME", "LOOP_PASSWORD"):
        assert name in said
