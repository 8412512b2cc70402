"""One line a record, nothing secret in it, and what PUT /debug_logging turns."""
# ruff: noqa: S105  # made-up passwords

import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loop_node.errors import LoopNodeError, ModelError, NoModel
from loop_node.logs import Redactor, configure_logging, set_debug

SECRET = 'pa55"w\u00f6rd/@:&\\x'
log = logging.getLogger("loop_node.detector")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Puts the process's loggers back."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    set_debug(False)


def lines_of(
    write: Callable[[], None], log_format: str = "console", level: str = "INFO", **options: object
) -> list[str]:
    stream = io.StringIO()
    configure_logging(level, log_format, stream, secrets=[SECRET], **options)  # type: ignore[arg-type]  # a test's shortcut
    write()
    return stream.getvalue().splitlines()


def raise_and_log(error: BaseException) -> None:
    try:
        raise error
    except (Exception, BaseExceptionGroup):
        log.exception("it failed")


class TestConsole:
    def test_a_record_is_one_line_with_time_severity_logger_and_message(self):
        (line,) = lines_of(lambda: log.info("ready after %d ms", 7))
        date, time, severity, logger, message = line.split(maxsplit=4)
        assert (severity, logger, message) == ("INFO", "loop_node.detector:", "ready after 7 ms")
        assert (len(date), time[2], time[8]) == (10, ":", ".")

    def test_control_characters_cannot_forge_a_line(self):
        (line,) = lines_of(lambda: log.info("tag %s", "a\r\n2026 ERROR\x1b[2J\u2028\udc80"))
        assert line.endswith(r"tag a\r\n2026 ERROR\x1b[2J\u2028\udc80")

    def test_a_foreign_error_comes_with_its_traceback_indented(self):
        line, *traceback = lines_of(lambda: raise_and_log(KeyError("x")))
        assert line.endswith("it failed")
        assert traceback[0] == "    Traceback (most recent call last):"
        assert traceback[-1] == "    KeyError: 'x'"
        assert all(line.startswith("    ") for line in traceback)

    def test_a_terminal_gets_colours_unless_told_not_to(self):
        for stream, no_color, coloured in [
            (Terminal(), False, True),
            (Terminal(), True, False),
            (io.StringIO(), False, False),
        ]:
            configure_logging("INFO", "console", stream, no_color=no_color)
            log.error("x")
            assert ("\x1b[" in stream.getvalue()) is coloured


class TestJson:
    def test_a_record_is_one_object_on_one_line(self):
        (line,) = lines_of(lambda: log.warning("two\nlines \udc80 %s", "\u00e4"), "json")
        record = json.loads(line)
        assert set(record) == {"ts", "level", "logger", "message"}
        assert (record["level"], record["logger"], record["message"]) == (
            "WARNING",
            log.name,
            "two\nlines \udc80 \u00e4",
        )
        assert record["ts"].endswith("+00:00")

    def test_an_exception_is_one_field(self):
        (line,) = lines_of(lambda: raise_and_log(KeyError("x")), "json")
        assert json.loads(line)["exception"].endswith("KeyError: 'x'")


class TestOurOwnErrors:
    @pytest.mark.parametrize(
        "error",
        [ModelError("no layout fits"), ExceptionGroup("", [ExceptionGroup("", [ModelError("no layout fits")])])],
    )
    def test_the_message_is_logged_without_a_traceback(self, error: Exception):
        (line,) = lines_of(lambda: raise_and_log(error))
        assert line.endswith("it failed: no layout fits")
        (line,) = lines_of(lambda: raise_and_log(error), "json")
        assert "exception" not in json.loads(line)

    def test_a_message_that_holds_the_error_is_not_repeated(self):
        error = ModelError("no layout fits")
        (line,) = lines_of(lambda: log.error("skipped: %s", error, exc_info=error))
        assert line.endswith("skipped: no layout fits")

    def test_the_traceback_is_there_at_debug(self):
        assert lines_of(lambda: raise_and_log(NoModel("none yet")), level="DEBUG")[-1].endswith("NoModel: none yet")

    def test_a_group_with_one_foreign_error_shows_its_traceback(self):
        group = ExceptionGroup("both", [ModelError("x"), ValueError("foreign")])
        assert any("ValueError: foreign" in line for line in lines_of(lambda: raise_and_log(group)))


class TestLevels:
    def test_debug_is_turned_on_and_back_to_what_was_configured(self):
        def write() -> None:
            for on in (True, False):
                set_debug(on)
                log.debug("debugging")
                log.info("informing")

        assert [line.split()[-1] for line in lines_of(write)] == ["debugging", "informing", "informing"]
        assert [line.split()[-1] for line in lines_of(write, level="WARNING")] == ["debugging", "informing"]
        assert len(lines_of(write, level="DEBUG")) == 4

    def test_third_parties_speak_from_warning_up_and_never_below_the_level(self):
        def write() -> None:
            for name in ("hypercorn.error", "httpx", "quart.app"):
                logging.getLogger(name).info("chatter")
                logging.getLogger(name).warning("matter")

        assert [line.split()[-1] for line in lines_of(write, level="DEBUG")] == ["matter"] * 3
        assert lines_of(write, level="ERROR") == []

    def test_an_implementers_own_logger_is_heard(self):
        assert len(lines_of(lambda: logging.getLogger("my_logic").info("built"))) == 1

    def test_configured_twice_it_still_writes_once(self):
        first = io.StringIO()
        configure_logging("INFO", "console", first)
        assert len(lines_of(lambda: log.info("once"))) == 1
        assert first.getvalue() == ""

    def test_another_handler_of_the_process_is_left_alone(self, caplog: pytest.LogCaptureFixture):
        lines_of(lambda: log.info("seen by both"))
        assert "seen by both" in caplog.text


class TestFaults:
    def test_a_record_that_cannot_be_formatted_is_told_without_its_arguments(self, capsys: pytest.CaptureFixture[str]):
        logging.getLogger().handlers.clear()  # pytest's own would raise
        (line,) = lines_of(lambda: log.info("%d images", SECRET))
        assert "a log record of test_logs.py:" in line
        assert "pa55" not in line
        assert capsys.readouterr() == ("", "")

    def test_a_closed_stream_is_no_reason_to_fail(self, capsys: pytest.CaptureFixture[str]):
        stream = io.StringIO()
        configure_logging("INFO", "console", stream)
        stream.close()
        log.info("into the void")
        assert capsys.readouterr() == ("", "")

    def test_a_stream_that_cannot_spell_a_character_gets_a_line_about_it(self):
        raw = io.BytesIO()
        configure_logging("INFO", "console", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
        log.info("Gr\u00fc\u00dfe")
        assert b"could not be written" in raw.getvalue()


LEAKS: dict[str, Callable[[], None]] = {
    "message": lambda: log.info(f"logging in with {SECRET}"),  # noqa: G004  # the point
    "argument": lambda: log.info("logging in with %s", SECRET),
    "repr": lambda: log.info("form %r", {"password": SECRET}),
    "json": lambda: log.info("form %s", json.dumps({"password": SECRET})),
    "bytes": lambda: log.info("form %s", SECRET.encode()),
    "url encoded": lambda: log.info("form %s", "username=u&password=pa55%22w%C3%B6rd%2F%40%3A%26%5Cx"),
    "traceback": lambda: raise_and_log(ValueError(SECRET)),
    "own error": lambda: raise_and_log(LoopNodeError(f"refused {SECRET}")),
    "user part": lambda: log.info("proxy %s", "http://me:pa55word@proxy:3128/"),
    "user parts": lambda: log.info("GET https://pa55@loop.local/x, then http://u:pa55@b"),
    "header line": lambda: log.info("Authorization: Bearer pa55 word"),
    "header dict": lambda: log.info("headers %s", {"Proxy-Authorization": "Basic pa55", "accept": "*"}),
    "header pairs": lambda: log.info("headers %s", [(b"cookie", b'session="pa55"'), (b"accept", b"*")]),
    "header json": lambda: log.info("headers %s", json.dumps({"set-cookie": 'a="pa55"; pa55'})),
    "escaped header json": lambda: log.info("body %r", json.dumps({"Authorization": "Bearer pa55'"})),
    "cookie": lambda: log.info("Cookie=pa55"),
}


@pytest.mark.parametrize("log_format", ["console", "json"])
@pytest.mark.parametrize("way", LEAKS)
def test_a_secret_reaches_no_line(log_format: str, way: str):
    lines = lines_of(LEAKS[way], log_format)
    assert lines
    assert not any("pa55" in line for line in lines)
    assert any("***" in line for line in lines)


def test_what_surrounds_a_secret_stays():
    redact = Redactor(["hunter22"])
    assert redact("GET http://me:x@loop.local/api?x=1 as hunter22!") == "GET http://***@loop.local/api?x=1 as ***!"
    assert redact("[(b'cookie', b'a=b'), (b'accept', b'*')]") == "[(b'cookie', b'***'), (b'accept', b'*')]"
    assert (
        redact("no cookie was set, mail to a@b.c, see http://a/b@c")
        == "no cookie was set, mail to a@b.c, see http://a/b@c"
    )


def test_a_secret_that_holds_another_is_masked_whole():
    assert Redactor(["abcd", "abcdefgh"])("abcdefgh") == "***"


def test_a_very_short_secret_does_not_shred_the_log():
    assert Redactor(["e", ""])("some message") == "some message"


@given(secret=st.text(min_size=4, max_size=20), before=st.text(max_size=10), after=st.text(max_size=10))
@settings(max_examples=200, deadline=None)
def test_any_secret_is_masked_in_any_surroundings(secret: str, before: str, after: str):
    redacted = Redactor([secret])(f"{before}{secret}{after}")
    assert secret not in redacted or secret in f"{before}***{after}"


@given(
    message=st.text(max_size=60) | st.binary(max_size=60).map(lambda content: content.decode(errors="surrogateescape"))
)
@settings(max_examples=200, deadline=None)
def test_any_message_is_one_line_in_both_forms(message: str):
    assert len(lines_of(lambda: log.info("%s", message))) == 1
    (line,) = lines_of(lambda: log.info("%s", message), "json")
    assert isinstance(json.loads(line), dict)
