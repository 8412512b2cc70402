"""What the head and the beginning of an HTTP answer say, read without trust. Pure."""

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

import msgspec
from werkzeug.http import parse_options_header

__all__ = ["EXCERPT_CHARS", "LONGEST_WAIT_S", "bare_filename", "date_s", "excerpt", "is_html", "retry_after_s"]

EXCERPT_CHARS: Final = 300
LONGEST_WAIT_S: Final = 3600.0
"""No Retry-After keeps a node away for longer: who would know that it waits for next year?"""

_LONGEST_NAME: Final = 200
_UNPRINTABLE: Final = re.compile(r"[^ -~\xa1-\ud7ff\ue000-\U0010ffff]+")
_UNSAFE_IN_NAMES: Final = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"|?*\ud800-\udfff]')


def date_s(text: str | None) -> float | None:
    """An HTTP date in seconds since the epoch; None for anything else."""
    try:
        moment = parsedate_to_datetime(text or "")
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def retry_after_s(text: str | None, now_s: float) -> float | None:
    """How long Retry-After asks to wait, 0 to LONGEST_WAIT_S; None where it says nothing that can be read.

    Args:
        text: Seconds, or an HTTP date.
        now_s: Seconds since the epoch, best by the clock of whoever wrote the date.
    """
    if text is None:
        return None
    if re.fullmatch(r"[0-9]{1,20}", text.strip()):
        wait_s = float(text)
    elif (moment_s := date_s(text)) is not None:
        wait_s = moment_s - now_s
    else:
        return None
    return min(max(wait_s, 0.0), LONGEST_WAIT_S)


def bare_filename(disposition: str | None) -> str:
    """The file name of a Content-Disposition without any folder; for people to read, "" if there is none."""
    # nodes have always read what follows `filename=`, also where nothing stands before it
    options = parse_options_header(f"_; {disposition or ''}")[1]
    name = re.split(r"[/\\]", options.get("filename", ""))[-1]
    name = _UNSAFE_IN_NAMES.sub("_", name).strip()[:_LONGEST_NAME]
    return "" if name.strip(".") == "" else name


def is_html(content_type: str, body: bytes) -> bool:
    """Whether an answer is a page for a browser: the Learning Loop's API never answers one."""
    return "html" in content_type.lower() or body.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html"))


def excerpt(body: bytes) -> str:
    """What an answer says in at most EXCERPT_CHARS printable characters: the `detail` of JSON, else its beginning."""
    try:
        value = msgspec.json.decode(body)
        detail = value.get("detail", value) if isinstance(value, dict) else value
        text = detail if isinstance(detail, str) else msgspec.json.encode(detail).decode()
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        text = body.decode(errors="replace")
    return _UNPRINTABLE.sub(" ", text).strip()[:EXCERPT_CHARS]
