"""Secrets from files, and where the data goes; on real folders."""
# ruff: noqa: S105  # made-up passwords

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loop_node.errors import SettingsError
from loop_node.settings import Settings, read_process_settings, read_settings

NOBODY = 65534


@contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Root may write everywhere; for the length of the block it is somebody else."""
    was = os.getresuid()
    if was[0] == 0:
        os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(*was)


def read(**environ: str) -> Settings:
    return read_settings("detector", environ, hostname="pc7")[0]


def problem_of(**environ: str) -> str:
    with pytest.raises(SettingsError) as raised:
        read(**environ)
    (problem,) = raised.value.problems
    return problem


class TestSecretFiles:
    def test_a_secret_may_come_from_a_file(self, tmp_path: Path):
        (tmp_path / "user").write_text("me")
        (tmp_path / "word").write_text(" keeps its spaces \r\n")
        settings = read(LOOP_USERNAME_FILE=str(tmp_path / "user"), LOOP_PASSWORD_FILE=str(tmp_path / "word"))
        assert (settings.loop_username, settings.loop_password) == ("me", " keeps its spaces ")
        assert settings.sources["loop_password"] == "file LOOP_PASSWORD_FILE"

    def test_the_variable_itself_beats_its_file_and_the_file_the_alias(self, tmp_path: Path):
        (tmp_path / "word").write_text("from file")
        file = str(tmp_path / "word")
        assert read(LOOP_PASSWORD="plain", LOOP_PASSWORD_FILE=file).loop_password == "plain"
        assert read(LOOP_PASSWORD_FILE=file, USERNAME="u", PASSWORD="alias").loop_password == "from file"

    def test_an_empty_file_is_unset(self, tmp_path: Path):
        (tmp_path / "word").write_text("\n")
        assert read(LOOP_PASSWORD_FILE=str(tmp_path / "word")).loop_password is None

    def test_a_missing_file_is_a_problem_that_names_it(self, tmp_path: Path):
        problem = problem_of(LOOP_PASSWORD_FILE=str(tmp_path / "none"))
        assert problem.startswith(f"LOOP_PASSWORD_FILE='{tmp_path}/none' cannot be used: No such file")

    def test_a_password_where_its_path_belongs_is_not_shown(self):
        assert "hunter22" not in problem_of(LOOP_PASSWORD_FILE="hunter22")

    @pytest.mark.parametrize("content", [b"\xff\xfe", b"x" * 70_000])
    def test_a_file_that_is_no_short_text_is_a_problem(self, tmp_path: Path, content: bytes):
        (tmp_path / "word").write_bytes(content)
        assert "not one line of UTF-8 text" in problem_of(LOOP_PASSWORD_FILE=str(tmp_path / "word"))

    def test_two_lines_are_no_password(self, tmp_path: Path):
        (tmp_path / "word").write_text("hunter22\nhunter33\n")
        problem = problem_of(LOOP_PASSWORD_FILE=str(tmp_path / "word"))
        assert problem.startswith("LOOP_PASSWORD (from LOOP_PASSWORD_FILE)=*** cannot be used")

    def test_a_folder_is_no_password(self, tmp_path: Path):
        assert "LOOP_PASSWORD_FILE" in problem_of(LOOP_PASSWORD_FILE=str(tmp_path))

    @pytest.mark.parametrize("name", ["LOOP_PASSWORD", "loop_password"])
    def test_systemd_credentials_are_found_in_either_case(self, tmp_path: Path, name: str):
        (tmp_path / name).write_text("from systemd\n")
        settings = read(CREDENTIALS_DIRECTORY=str(tmp_path))
        assert settings.loop_password == "from systemd"
        assert settings.sources["loop_password"] == "file CREDENTIALS_DIRECTORY"

    @pytest.mark.parametrize("folder", ["/" + "x" * 5000, "/nul\0"])
    def test_a_credentials_folder_that_cannot_be_is_nothing(self, folder: str):
        assert read(CREDENTIALS_DIRECTORY=folder).loop_password is None

    def test_a_credentials_folder_without_ours_is_nothing(self, tmp_path: Path):
        assert read(CREDENTIALS_DIRECTORY=str(tmp_path)).loop_password is None
        assert read(CREDENTIALS_DIRECTORY=str(tmp_path / "none")).loop_password is None


def test_a_certificate_file_must_be_there(tmp_path: Path):
    (tmp_path / "ca.pem").write_text("x")
    assert read(LOOP_SSL_CERT_PATH=str(tmp_path / "ca.pem")).loop_ssl_cert_path == tmp_path / "ca.pem"
    assert problem_of(LOOP_SSL_CERT_PATH=str(tmp_path)).startswith("LOOP_SSL_CERT_PATH=")
    assert problem_of(LOOP_SSL_CERT_PATH="/" + "x" * 5000).startswith("LOOP_SSL_CERT_PATH=")


class TestDataFolder:
    def folder(self, container_folder: Path, **environ: str) -> Path:
        return read_settings("detector", environ, hostname="pc7", container_folder=container_folder)[0].data_folder

    def test_data_folder_beats_all(self, tmp_path: Path):
        assert self.folder(tmp_path, DATA_FOLDER="/d", STATE_DIRECTORY="/s", HOME="/h") == Path("/d")

    def test_then_the_first_state_directory(self, tmp_path: Path):
        assert self.folder(tmp_path, STATE_DIRECTORY="/s:/t", HOME="/h") == Path("/s")

    def test_then_the_container_folder(self, tmp_path: Path):
        assert self.folder(tmp_path, HOME="/h") == tmp_path
        assert self.folder(tmp_path, STATE_DIRECTORY=":", HOME="/h") == tmp_path

    def test_then_the_users_state_folder(self, tmp_path: Path):
        none = tmp_path / "none"
        assert self.folder(none, XDG_STATE_HOME="/x", HOME="/h") == Path("/x/loop-node")
        assert self.folder(none, XDG_STATE_HOME="relative", HOME="/h") == Path("/h/.local/state/loop-node")

    def test_a_file_is_no_container_folder(self, tmp_path: Path):
        (tmp_path / "data").touch()
        assert self.folder(tmp_path / "data", HOME="/h") == Path("/h/.local/state/loop-node")

    def test_a_container_folder_must_be_writable(self):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o555)
            with as_ordinary_user():
                found = self.folder(Path(folder), HOME="/h")
        assert found == Path("/h/.local/state/loop-node")

    def test_it_is_never_found_in_the_working_directory(self, tmp_path: Path):
        for name in ("HOME", "STATE_DIRECTORY"):
            with pytest.raises(SettingsError, match="DATA_FOLDER is not set"):
                self.folder(tmp_path / "none", **{name: "relative"})

    def test_a_folder_that_is_named_may_be_relative_and_becomes_absolute(self, tmp_path: Path):
        assert self.folder(tmp_path, DATA_FOLDER="here") == Path.cwd() / "here"

    def test_its_source_is_told(self):
        assert read(STATE_DIRECTORY="/s").sources["data_folder"] == "env STATE_DIRECTORY"


def test_the_process_is_read_with_its_own_host_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NODE_NAME", raising=False)
    monkeypatch.setenv("NODE_PORT", "4321")
    settings, _ = read_process_settings("detector")
    assert settings.node_port == 4321
    assert settings.node_name == f"detector-{socket.gethostname()}"
