"""Heads and beginnings of answers, also hostile ones."""

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_node.loop.answers import LONGEST_WAIT_S, bare_filename, date_s, excerpt, is_html, retry_after_s


@given(st.one_of(st.text(), st.integers().map(str), st.floats().map(str)), st.floats(0, 1e10))
def test_a_wait_is_bounded(text, now_s):
    """Whatever the header says: nothing, or 0 s to an hour."""
    wait_s = retry_after_s(text, now_s)
    assert wait_s is None or 0 <= wait_s <= LONGEST_WAIT_S


@given(st.integers(0, 3600), st.datetimes(datetime(1980, 1, 1), datetime(2100, 1, 1)))  # noqa: DTZ001  # naive for hypothesis
def test_both_forms_of_a_wait(wait_s, now):
    """Seconds, and a date that far from now."""
    now_s = now.replace(tzinfo=UTC, microsecond=0).timestamp()
    assert retry_after_s(f" {wait_s} ", now_s) == wait_s
    later = format_datetime(datetime.fromtimestamp(now_s + wait_s, UTC), usegmt=True)
    assert retry_after_s(later, now_s) == wait_s


@pytest.mark.parametrize("text", [None, "", "soon", "1.5", "-3", "Thu, 99 Foo 2026"])
def test_no_wait(text):
    """What cannot be read says nothing."""
    assert retry_after_s(text, 0) is None


def test_dates():
    """As HTTP writes them; anything else is None."""
    assert date_s("Thu, 01 Jan 1970 00:01:00 GMT") == 60
    assert date_s("Thu, 01 Jan 1970 00:01:00 -0000") == 60
    assert date_s(None) is None
    assert date_s("Fri, 31 Dec 99999 23:59:59 GMT") is None


@given(st.text())
def test_a_file_name_is_never_a_path(name):
    """No folder, no drive, no control character, and short, whatever the header says."""
    for disposition in (
        f'attachment; filename="{name}"',
        f"attachment; filename={name}",
        f"attachment; filename*=UTF-8''{name}",
    ):
        bare = bare_filename(disposition)
        assert not set(bare) & set('/\\:\0\n\r"')
        assert bare not in {".", ".."}
        assert len(bare) <= 200
        bare.encode()


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        (None, ""),
        ("attachment", ""),
        ('attachment; filename="model.zip"', "model.zip"),
        ("attachment; filename=model.zip", "model.zip"),
        ('filename="../../etc/passwd"', "passwd"),
        (r'attachment; filename="C:\\temp\\x.zip"', "x.zip"),
        ("attachment; filename*=UTF-8''M%C3%B6del.zip", "Mödel.zip"),
        ('attachment; filename=".."', ""),
    ],
)
def test_file_names(disposition, name):
    """Quoted, bare, encoded; folders are dropped."""
    assert bare_filename(disposition) == name


@given(st.binary(max_size=2000))
def test_an_excerpt_is_short_and_printable(body):
    """Whatever came."""
    text = excerpt(body)
    assert len(text) <= 300
    assert not any(ord(character) < 32 or 127 <= ord(character) < 161 for character in text)
    text.encode()


def test_pages_are_known_without_a_header():
    """By the header or by the first tag."""
    assert is_html("text/html; charset=utf-8", b"")
    assert is_html("application/xhtml+xml", b"")
    assert is_html("", b"\r\n  <!DOCTYPE HTML>")
    assert is_html("application/json", b"<html lang=de>")
    assert not is_html("application/json", b'{"a": "<html>"}')
