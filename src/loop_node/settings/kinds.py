"""Kinds of values: how the text of a variable becomes a typed value, and what is said to be accepted."""

import ipaddress
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from attrs import frozen

__all__ = [
    "BIND_HOST",
    "DEVICE",
    "EXACT_FLAG",
    "FILE",
    "FLAG",
    "LOOP_ADDRESS",
    "NAME",
    "ORIGINS",
    "PATH",
    "PRESENCE",
    "SECRET",
    "TEXT",
    "VERSION_CONTROL",
    "WEIGHT_TYPE",
    "Kind",
    "choice",
    "number",
    "whole_number",
]

T = TypeVar("T")

_FLAGS = {"1": True, "true": True, "0": False, "false": False}
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_ADDRESS = re.compile(r"(?:https?://)?(?P<host>\[[^\[\]]*\]|[^:/?#@\[\]]+)(?::(?P<port>[0-9]{1,5}))?", re.IGNORECASE)


def _never(_text: str) -> None:
    return None


@frozen(kw_only=True)
class Kind(Generic[T]):
    """How one kind of value is written.

    Attributes:
        accepted: What an operator may write, as words that follow "expected".
        parse: From stripped, printable, non-empty text to the value; raises ValueError for anything else.
        tolerate: For text that `parse` refuses but that the nodes this one replaces started with: the value they
            gave it. None where they refused it too. It comes with a warning.
    """

    accepted: str
    parse: Callable[[str], T]
    tolerate: Callable[[str], T | None] = _never


def choice(*words: str) -> Kind[str]:
    """One of some words, in any case; the value is the word as it is spelled here."""
    by_folded = {word.casefold(): word for word in words}

    def parse(text: str) -> str:
        if text.casefold() not in by_folded:
            raise ValueError
        return by_folded[text.casefold()]

    return Kind(accepted=" or ".join(filter(None, [", ".join(words[:-1]), words[-1]])), parse=parse)


def whole_number(low: int, high: int) -> Kind[int]:
    """A decimal integer, both bounds included."""

    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return Kind(accepted=f"a whole number from {low} to {high}", parse=parse)


def number(low: float, high: float) -> Kind[float]:
    """A finite decimal number, both bounds included."""

    def parse(text: str) -> float:
        value = float(text)
        if not math.isfinite(value) or not low <= value <= high:
            raise ValueError
        return value

    return Kind(accepted=f"a number from {low:.15g} to {high:.15g}", parse=parse)


def _flag(text: str) -> bool:
    if text.lower() not in _FLAGS:
        raise ValueError
    return _FLAGS[text.lower()]


def _exact_flag(text: str) -> bool:
    if text not in {"1", "true", "True", "0", "false", "False"}:
        raise ValueError
    return _flag(text)


def _off(_text: str) -> bool:
    return False


def _version_control(text: str) -> str:
    if text.casefold() not in {"follow_loop", "pause"}:
        raise ValueError
    return text.casefold()


def _weight_type_without_calibration(text: str) -> str | None:
    return "FP16" if text.upper() == "INT8" else None


def _name(text: str) -> str:
    if len(text) > 200 or text in {".", ".."} or "/" in text or "\\" in text:
        raise ValueError
    return text


def _is_host(text: str) -> bool:
    if ":" in text:
        return _is_ipv6(text)
    return len(text) <= 253 and _HOST_NAME.fullmatch(text) is not None


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _bind_host(text: str) -> str:
    host = text.removeprefix("[").removesuffix("]")
    if not _is_host(host):
        raise ValueError
    return host


def _loop_address(text: str) -> str:
    """A host with an optional port and scheme; one closing slash is dropped, a path or credentials are refused."""
    address = text.removesuffix("/")
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match["port"] or 1) <= 65535:
        raise ValueError
    host = match["host"]
    if not (_is_ipv6(host[1:-1]) if host.startswith("[") else _is_host(host)):
        raise ValueError
    return address


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(part.strip() for part in text.split(",") if part.strip())
    if not origins or any("://" not in origin and origin != "*" for origin in origins):
        raise ValueError
    return tuple(origin if origin == "*" else _loop_address(origin) for origin in origins)


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:  # a "~" without a home folder
        raise ValueError from None


def _file(text: str) -> Path:
    path = _path(text)
    try:
        readable = path.is_file() and os.access(path, os.R_OK)
    except OSError:
        readable = False
    if not readable:
        raise ValueError
    return path


def _device(text: str) -> str:
    if not re.fullmatch(r"AUTO|CPU|(?:GPU|NPU)(?:\.[0-9]{1,2})?", text.upper()):
        raise ValueError
    return text.upper()


def _secret(text: str) -> str:
    if re.search(r"[\x00-\x1f\x7f-\x9f]", text):
        raise ValueError
    return text.encode().decode()  # lone surrogates, the mark of bytes that are not UTF-8, are a ValueError


TEXT = Kind(accepted="text", parse=str)
SECRET = Kind(accepted="one line of UTF-8 text without control characters", parse=_secret)
NAME = Kind(accepted="a name of at most 200 characters, without slashes", parse=_name)
PRESENCE = Kind(accepted="anything", parse=lambda _: True)
FLAG = Kind(accepted="1 or true, 0 or false", parse=_flag, tolerate=_off)
EXACT_FLAG = Kind(accepted="1, true or True; 0, false or False", parse=_exact_flag, tolerate=_off)
VERSION_CONTROL = Kind(accepted="follow_loop or pause", parse=_version_control, tolerate=lambda _: "follow_loop")
WEIGHT_TYPE = Kind(
    accepted="FP16 or FP32", parse=choice("FP16", "FP32").parse, tolerate=_weight_type_without_calibration
)
BIND_HOST = Kind(accepted="a host name or an IP address", parse=_bind_host)
LOOP_ADDRESS = Kind(accepted="host, host:port, or http(s)://host:port without path or user", parse=_loop_address)
ORIGINS = Kind(accepted="origins like https://host:port, separated by commas, or *", parse=_origins)
PATH = Kind(accepted="a path", parse=_path)
FILE = Kind(accepted="the path of a file that can be read", parse=_file)
DEVICE = Kind(accepted="AUTO, CPU, GPU, NPU, or one of several like GPU.1", parse=_device)
