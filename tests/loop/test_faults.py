"""Kinds of faults from errors as the network raises them."""

import socket
import ssl

import pytest

from loop_node.errors import LoopRefused, LoopUnavailable
from loop_node.loop.faults import broken_connection, error_answer


def distrust(code):
    error = ssl.SSLCertVerificationError("certificate verify failed")
    error.verify_code, error.verify_message = code, "as OpenSSL says"
    return error


def led_to(cause, *, grouped=False):
    """An error as httpx raises it: what is the matter stands causes below."""
    inner = OSError("all attempts failed")
    inner.__cause__ = ExceptionGroup("", [OSError("other"), cause]) if grouped else cause
    outer = RuntimeError("")
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(
    ("cause", "kind", "cure"),
    [
        (distrust(10), "tls", "have it renewed"),
        (distrust(9), "tls", "set the clock here, which says 2026-11-24"),
        (distrust(20), "tls", "LOOP_SSL_CERT_PATH"),
        (distrust(18), "tls", "LOOP_SSL_CERT_PATH"),
        (distrust(62), "tls", "LOOP_HOST"),
        (distrust(26), "tls", "as OpenSSL says"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "tls", "write http://"),
        (socket.gaierror(-2, "Name or service not known"), "dns", "check LOOP_HOST"),
        (ConnectionRefusedError(111, "refused"), "refused", "the port in LOOP_HOST"),
        (TimeoutError(110, "timed out"), "timeout", "overloaded"),
        (OSError(101, "Network is unreachable"), "unreachable", "check the network"),
    ],
)
def test_kinds(cause, kind, cure, grouped):
    """However deep the cause lies, and whether it is one of several addresses'."""
    fault = broken_connection(led_to(cause, grouped=grouped), "https://loop", "2026-11-24")
    assert fault.kind == kind
    assert cure in str(fault)
    assert "https://loop" in str(fault)


@pytest.mark.parametrize("status", [400, 401, 404, 409, 413, 418, 422])
def test_refusals(status):
    """The Loop's no: its status and what it said; no page for browsers makes a 413 anything else."""
    error = error_answer(status, "application/json", b'{"detail": "no"}', where="x")
    assert isinstance(error, LoopRefused)
    assert (error.status, error.excerpt) == (status, "no")
    assert isinstance(error_answer(413, "text/html", b"<html>", where="x"), LoopRefused)


@pytest.mark.parametrize("status", [300, 304, 399, 407, 408, 429, 500, 511, 599])
def test_not_now(status):
    """All others are worth another try."""
    assert isinstance(error_answer(status, "", b"", where="x"), LoopUnavailable)
