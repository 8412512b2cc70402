"""The log: one line a record, for people or as JSON, and never a secret in it.

Text is masked as it leaves, after formatting, so that neither a message nor its arguments nor a traceback can carry a
secret past the mask. What is masked: the secrets that are named, the user part of URLs, and the values of the headers
Authorization, Proxy-Authorization, Cookie and Set-Cookie in the forms in which headers get logged.

An error of our own tree is written for the person who has to act: its message is logged, its traceback only while
`loop_node` logs at DEBUG.
"""

import json
import logging
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, TextIO
from urllib.parse import quote, quote_plus

from loop_node.errors import LoopNodeError

__all__ = ["Redactor", "configure_logging", "set_debug"]

_OURS: Final = "loop_node"
_QUIET: Final = ("hypercorn", "quart", "httpx", "httpcore", "h2", "hpack", "wsproto", "trio-websocket", "PIL")
_MASK: Final = "***"
_SHORTEST_SECRET: Final = 4
_USER_PART: Final = re.compile(r"(?<=://)[^/\s?#]*@")
_HEADER: Final = re.compile(
    r"""(?P<name>\b(?:(?:proxy-)?authorization|(?:set-)?cookie)\b)
        (?:(?P<pair>\\*['"]\s*[:,]\s*b?\\*(?P<quote>['"]))(?:\\.|(?!(?P=quote)).)*   # 'name': 'value' or (b'name', b'value')
          |(?P<plain>\s*[:=]\s*)[^\r\n]+)                                     # name: value""",
    re.IGNORECASE | re.VERBOSE,
)
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNPRINTABLE_BUT_NEWLINE: Final = re.compile(_UNPRINTABLE.pattern.replace(r"\x00-\x1f", r"\x00-\x09\x0b-\x1f"))
_COLORS: Final = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[1;31m"}


class Redactor:
    """Masks secrets in text.

    Args:
        secrets: Values to mask wherever they appear, also as URLs, JSON and `repr` spell them. Ones shorter than four
            characters are not looked for: they are parts of ordinary words.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        spellings = {
            spelling for secret in secrets if len(secret) >= _SHORTEST_SECRET for spelling in _spellings(secret)
        }
        longest_first = sorted(spellings, key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, text: str) -> str:
        """The text without its secrets."""
        if self._secrets is not None:
            text = self._secrets.sub(_MASK, text)
        text = _USER_PART.sub(f"{_MASK}@", text)
        return _HEADER.sub(_mask_header, text)


def configure_logging(
    level: str, log_format: str, stream: TextIO, *, no_color: bool = False, secrets: Iterable[str] = ()
) -> None:
    """Send all records of this process to `stream`; called again, it replaces what it did before.

    Args:
        level: Least severity, by name; of third-party loggers WARNING at least.
        log_format: "console" (time, severity, logger, message; a traceback follows on indented lines) or "json" (ts in
            UTC, level, logger, message, exception; always one line).
        stream: Where to write.
        no_color: No colours on the console; there are none either where `stream` is no terminal.
        secrets: What never to write.
    """
    redact = Redactor(secrets)
    handler = _LineHandler(stream)
    if log_format == "json":
        handler.setFormatter(_JsonFormatter(redact))
    else:
        handler.setFormatter(_ConsoleFormatter(redact, color=stream.isatty() and not no_color))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _LineHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    set_debug(False)


def set_debug(on: bool) -> None:
    """Let this package log at DEBUG, or again as it was configured."""
    logging.getLogger(_OURS).setLevel(logging.DEBUG if on else logging.NOTSET)


class _LineHandler(logging.StreamHandler[TextIO]):
    """Writes records; one that cannot be formatted becomes a line about that, without its arguments."""

    def handleError(self, record: logging.LogRecord) -> None:
        place = f"{record.filename}:{record.lineno}"
        message = f"a log record of {place} could not be written: {sys.exc_info()[0]}"
        told = logging.LogRecord(record.name, logging.ERROR, record.pathname, record.lineno, message, None, None)
        with suppress(OSError, ValueError):  # the stream itself fails or is closed: nowhere left to say it
            self.stream.write(self.format(told) + self.terminator)


class _Formatter(logging.Formatter):
    """What both forms share: the message and the traceback as masked text."""

    def __init__(self, redact: Redactor) -> None:
        super().__init__()
        self._redact = redact

    def _message(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        error = _own_error(record)
        if error is not None and _text_of(error) not in message:
            message = f"{message}: {_text_of(error)}"
        return self._redact(message)

    def _exception(self, record: logging.LogRecord) -> str | None:
        if record.exc_info is None or record.exc_info[0] is None:
            return None
        if _own_error(record) is not None and not logging.getLogger(_OURS).isEnabledFor(logging.DEBUG):
            return None
        return self._redact(self.formatException(record.exc_info))


class _ConsoleFormatter(_Formatter):
    def __init__(self, redact: Redactor, *, color: bool) -> None:
        super().__init__(redact)
        self._color = color

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().isoformat(" ", "milliseconds")
        severity = f"{record.levelname:8}"
        if self._color and record.levelname in _COLORS:
            severity = f"{_COLORS[record.levelname]}{severity}\x1b[0m"
        line = f"{time} {severity} {record.name}: {_UNPRINTABLE.sub(_escaped, self._message(record))}"
        exception = self._exception(record)
        if exception is None:
            return line
        return "\n    ".join([line, *_UNPRINTABLE_BUT_NEWLINE.sub(_escaped, exception).split("\n")])


class _JsonFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": self._message(record),
        }
        exception = self._exception(record)
        if exception is not None:
            fields["exception"] = exception
        return json.dumps(fields)


def _own_error(record: logging.LogRecord) -> BaseException | None:
    """The error a record tells of, if it is one of our tree or a group of nothing else."""
    error = record.exc_info[1] if record.exc_info else None
    return error if error is not None and all(isinstance(leaf, LoopNodeError) for leaf in _leaves(error)) else None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _leaves(member)
    else:
        yield error


def _text_of(error: BaseException) -> str:
    return "; ".join(str(leaf) for leaf in _leaves(error))


def _spellings(secret: str) -> set[str]:
    escaped = (
        json.dumps(secret),
        json.dumps(secret, ensure_ascii=False),
        repr(secret),
        ascii(secret),
        repr(secret.encode())[1:],
    )
    return {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), *(text[1:-1] for text in escaped)}


def _mask_header(match: re.Match[str]) -> str:
    return f"{match['name']}{match['pair'] or match['plain']}{_MASK}"


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
