"""From an environment to `Settings`: which of several sources counts, every fault at once, the rule for the folder.

For one variable the first that is set counts: its own name, `<name>_FILE`, a systemd credential, the alias. Empty is
unset. USERNAME and PASSWORD count only together, because some systems always set USERNAME.
"""

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from attrs import Factory, define, frozen

from loop_node.errors import SettingsError
from loop_node.settings.variables import LOOP_REQUIRED, VARIABLES, WITHOUT_EFFECT, Settings, Variable

__all__ = ["read_process_settings", "read_settings"]

CONTAINER_FOLDER: Final = Path("/data")
_PAIRED_ALIASES: Final = ("USERNAME", "PASSWORD")
_SECRET_FILE_MAX_BYTES: Final = 64 * 1024


@frozen(repr=False)  # it may hold a secret
class _Found:
    """A variable's text, under which name it was set, and what the table calls its source."""

    text: str
    name: str
    source: str


@define(repr=False)  # it holds the secrets
class _Reading:
    """One pass over an environment; problems and warnings gather here, the values in `values`."""

    verb: str
    environ: Mapping[str, str]
    problems: list[str] = Factory(list)
    warnings: list[str] = Factory(list)
    values: dict[str, Any] = Factory(dict)
    sources: dict[str, str] = Factory(dict)

    def given(self, name: str) -> str | None:
        """The text of an environment variable; None when it is unset or blank."""
        text = self.environ.get(name, "")
        return text if text.strip() else None


def read_process_settings(verb: str) -> tuple[Settings, list[str]]:
    """Read the environment of this process; as `read_settings`."""
    return read_settings(verb, os.environ, hostname=platform.node() or "unknown")  # noqa: TID251  # the one place


def read_settings(
    verb: str, environ: Mapping[str, str], *, hostname: str, container_folder: Path = CONTAINER_FOLDER
) -> tuple[Settings, list[str]]:
    """Read every setting.

    Touches the disk only to read what `*_FILE`, CREDENTIALS_DIRECTORY and LOOP_SSL_CERT_PATH name and to see whether
    `container_folder` is writable.

    Args:
        verb: What runs; it decides some defaults and what is required.
        environ: The environment.
        hostname: Of this machine, for the node's default name.
        container_folder: Where containers mount their data.

    Returns:
        The settings, and one line for each thing that an operator should know about them.

    Raises:
        SettingsError: With one line for every value that cannot be used and every one that is missing.
    """
    reading = _Reading(verb, environ)
    for field, variable in VARIABLES.items():
        _read_variable(reading, field, variable)
    if "node_name" not in reading.sources:
        reading.values["node_name"] = f"{verb}-{hostname}"
    if "data_folder" not in reading.sources:
        _default_data_folder(reading, container_folder)
    if "local_loop_folder" not in reading.sources and reading.values["data_folder"] is not None:
        reading.values["local_loop_folder"] = reading.values["data_folder"] / "local_loop"
    _check_thresholds(reading)
    _check_credentials(reading)
    _check_loop(reading)
    _check_without_effect(reading)
    if reading.problems:
        raise SettingsError(reading.problems)
    return Settings(verb=verb, sources=reading.sources, **reading.values), reading.warnings


def _read_variable(reading: _Reading, field: str, variable: Variable) -> None:
    found = _find(reading, variable)
    if found is None:
        reading.values[field] = variable.default_for(reading.verb)
        return
    reading.values[field] = _parse(reading, variable, found)
    reading.sources[field] = found.source


def _parse(reading: _Reading, variable: Variable, found: _Found) -> Any:
    kind = variable.kind
    text = found.text if variable.from_file else found.text.strip()
    try:
        if not text.isprintable() and not variable.from_file:
            raise ValueError
        return kind.parse(text)
    except ValueError:
        shown = f"{found.name}={_shown(variable, text)}"
    value = kind.tolerate(text)
    if value is None:
        reading.problems.append(f"{shown} cannot be used: expected {kind.accepted}")
    else:
        spelled = "off" if value is False else value
        reading.warnings.append(f"{shown} is taken as {spelled}: expected {kind.accepted}")
    return value


def _shown(variable: Variable, text: str) -> str:
    """A value as a message may show it: on one line, not too long, without a secret or the user part of an address."""
    if variable.secret:
        return "***"
    without_user = re.sub(r"^([A-Za-z][A-Za-z0-9+.-]*://)?.*@", r"\1***@", text, flags=re.DOTALL)
    return repr(without_user if len(without_user) <= 120 else without_user[:117] + "...")


def _find(reading: _Reading, variable: Variable) -> _Found | None:
    own = reading.given(variable.name)
    if own is not None:
        found: _Found | None = _Found(own, variable.name, f"env {variable.name}")
    else:
        found = _find_in_files(reading, variable) if variable.from_file else None
    alias = _find_alias(reading, variable)
    if found is not None and alias is not None and found.text.strip() != alias.text.strip():
        reading.warnings.append(f"{found.name} and its alias {alias.name} differ: {found.name} counts")
    return found or alias


def _find_alias(reading: _Reading, variable: Variable) -> _Found | None:
    if not variable.alias:
        return None
    if variable.alias in _PAIRED_ALIASES and any(reading.given(name) is None for name in _PAIRED_ALIASES):
        return None
    text = reading.given(variable.alias)
    return None if text is None else _Found(text, variable.alias, f"env {variable.alias}")


def _find_in_files(reading: _Reading, variable: Variable) -> _Found | None:
    file_variable = f"{variable.name}_FILE"
    path_text = reading.given(file_variable)
    if path_text is not None:
        return _found_in(reading, variable, file_variable, Path(path_text.strip()))
    folder = reading.given("CREDENTIALS_DIRECTORY")
    for name in (variable.name, variable.name.lower()):
        if folder is not None and _is_file(Path(folder, name)):
            return _found_in(reading, variable, "CREDENTIALS_DIRECTORY", Path(folder, name))
    return None


def _found_in(reading: _Reading, variable: Variable, pointer: str, path: Path) -> _Found | None:
    try:
        text = _secret_text(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path, bytes that are not UTF-8, too long
        reason = error.strerror if isinstance(error, OSError) else "not one line of UTF-8 text"
        # whoever put the secret itself where its path belongs must not find it in a log
        shown = repr(str(path)) if path.is_absolute() else "***"
        reading.problems.append(
            f"{pointer}={shown} cannot be used: {reason}; expected the path of a file with the secret"
        )
        return None
    return _Found(text, f"{variable.name} (from {pointer})", f"file {pointer}") if text.strip() else None


def _secret_text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(_SECRET_FILE_MAX_BYTES + 1)
    if len(content) > _SECRET_FILE_MAX_BYTES:
        raise ValueError
    return content.decode().rstrip("\r\n")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _default_data_folder(reading: _Reading, container_folder: Path) -> None:
    """STATE_DIRECTORY (systemd; the first of several), the container's folder, the user's state folder."""
    first = reading.environ.get("STATE_DIRECTORY", "").split(":")[0].strip()
    try:
        if first:
            reading.values["data_folder"] = _absolute(first)
            reading.sources["data_folder"] = "env STATE_DIRECTORY"
        elif container_folder.is_dir() and os.access(container_folder, os.W_OK | os.X_OK):
            reading.values["data_folder"] = container_folder
        else:
            reading.values["data_folder"] = _user_state_folder(reading) / "loop-node"
    except (OSError, ValueError, RuntimeError):
        reading.problems.append(
            "DATA_FOLDER is not set, and neither STATE_DIRECTORY nor HOME is an absolute path: expected a path"
        )


def _user_state_folder(reading: _Reading) -> Path:
    """Of the XDG base directories (relative ones are to be ignored), or where Windows keeps such things."""
    for name in ("XDG_STATE_HOME", "LOCALAPPDATA"):
        folder = Path(reading.given(name) or ".")
        if folder.is_absolute():
            return folder
    return _absolute(reading.given("HOME") or str(Path.home())) / ".local" / "state"


def _absolute(text: str) -> Path:
    """A folder that nobody named for us: a relative one would be the working directory."""
    path = Path(text)
    if not path.is_absolute():
        raise ValueError
    return path


def _check_thresholds(reading: _Reading) -> None:
    low, high = reading.values["min_uncertain_threshold"], reading.values["max_uncertain_threshold"]
    if low is not None and high is not None and low > high:
        reading.problems.append(
            f"MIN_UNCERTAIN_THRESHOLD={low} is above MAX_UNCERTAIN_THRESHOLD={high}: expected it not to be"
        )


def _check_credentials(reading: _Reading) -> None:
    if reading.given("PASSWORD") is not None and reading.given("USERNAME") is None:
        reading.warnings.append(
            "PASSWORD is ignored: it counts only together with USERNAME; LOOP_PASSWORD is meant for this"
        )
    username, password = reading.values["loop_username"], reading.values["loop_password"]
    if (username is None) != (password is None) and not reading.problems:
        there, missing = ("LOOP_USERNAME", "LOOP_PASSWORD") if password is None else ("LOOP_PASSWORD", "LOOP_USERNAME")
        reading.warnings.append(f"{there} is set but {missing} is not: the node cannot log in")


def _check_loop(reading: _Reading) -> None:
    values, verb = reading.values, reading.verb
    if verb in {"loop", "demo"}:  # they are, or bring, the Learning Loop
        return
    if "loop_host" not in reading.sources:
        if verb in LOOP_REQUIRED:
            accepted = VARIABLES["loop_host"].kind.accepted
            reading.problems.append(f"LOOP_HOST is not set: the {verb} needs a Learning Loop; expected {accepted}")
        else:
            reading.warnings.append("LOOP_HOST is not set: this node stands alone, without a Learning Loop")
        return
    missing = [VARIABLES[field].name for field in ("loop_organization", "loop_project") if values[field] is None]
    if missing and verb not in LOOP_REQUIRED:
        names = " and ".join(missing)
        reading.warnings.append(
            f"{names} not set, only the Learning Loop's address ({reading.sources['loop_host']}): "
            "this node serves, but neither follows a model nor uploads images"
        )


def _check_without_effect(reading: _Reading) -> None:
    for name, reason in WITHOUT_EFFECT.items():
        if (reading.given(name) or "0").strip().lower() not in {"0", "false"}:
            reading.warnings.append(f"{name} has no effect: {reason}")
