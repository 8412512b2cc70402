"""What keeps a node from its Learning Loop, sorted into kinds, each told in one sentence that names the cure."""

import socket
import ssl
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

from loop_node.errors import LoopError, LoopRefused, LoopUnavailable

from .answers import excerpt, is_html

__all__ = [
    "FaultKind",
    "broken_connection",
    "certificate_out_of_date",
    "error_answer",
    "excessive_answer",
    "not_a_loop",
    "proxy_refusal",
    "refused_login",
    "timeout",
    "wrong_clock",
]


class FaultKind(StrEnum):
    """The kinds, as metrics name them."""

    UNREACHABLE = "unreachable"  # no way there, or the connection broke off
    REFUSED = "refused"  # the machine is there, nothing listens
    TIMEOUT = "timeout"
    DNS = "dns"
    TLS = "tls"
    NOT_A_LOOP = "not_a_loop"
    PROXY = "proxy"
    CLOCK = "clock"
    RATE_LIMITED = "rate_limited"
    FAILED = "failed"  # the Loop itself: 5xx, or an answer it should not give
    LOGIN = "login"


# what OpenSSL calls the reasons, X509_V_ERR_...
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_UNKNOWN_SIGNER: Final = {2, 18, 19, 20, 21}
_OTHER_NAME: Final = {62, 64}

_PAGES_OF_PORTALS: Final = {403, 404, 405}
_REQUEST_TIMEOUT: Final = 408
_PROXY_LOGIN: Final = 407
_TOO_MANY: Final = 429
_NETWORK_LOGIN: Final = 511


def broken_connection(error: BaseException, where: str, today: str) -> LoopUnavailable:
    """What is wrong when a connection cannot be made or breaks off.

    Args:
        error: Looked through with its causes.
        where: The address that was asked, as operators know it.
        today: The date by this computer's clock: a wrong one makes good certificates bad.
    """
    causes = tuple(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _unavailable(FaultKind.TLS, _distrust(cause, where, today))
        if isinstance(cause, ssl.SSLError):
            said = (getattr(cause, "reason", None) or str(cause)).lower().replace("_", " ")
            cure = "if it speaks http only, write http:// before the name in LOOP_HOST"
            return _unavailable(FaultKind.TLS, f"no TLS connection with {where} ({said}): {cure}")
        if isinstance(cause, socket.gaierror):
            cure = "check LOOP_HOST for typing errors, and the DNS server of this computer"
            return _unavailable(FaultKind.DNS, f"the name in {where} is not known here: {cure}")
        if isinstance(cause, ConnectionRefusedError):
            cure = "check that the Learning Loop runs, and the port in LOOP_HOST"
            return _unavailable(FaultKind.REFUSED, f"nothing listens at {where}: {cure}")
        if isinstance(cause, TimeoutError):
            return timeout(where, "the network gave up waiting")
    said = next((str(cause) for cause in reversed(causes) if str(cause)), type(error).__name__)
    cure = "check the network and the firewalls between"
    return _unavailable(FaultKind.UNREACHABLE, f"no connection to {where}, or it broke off ({said}): {cure}")


def certificate_out_of_date(error: BaseException) -> bool:
    """Whether a connection failed for a certificate's dates: its owner's fault, or that of this computer's clock."""
    return any(
        isinstance(cause, ssl.SSLCertVerificationError) and cause.verify_code in (_NOT_YET_VALID, _EXPIRED)
        for cause in _causes(error)
    )


def wrong_clock(where: str, today: str, their_day: str) -> LoopUnavailable:
    """This computer's clock is so wrong that good certificates look bad."""
    wrong = f"the clock of this computer says {today}, that of {where} {their_day}"
    return _unavailable(FaultKind.CLOCK, f"{wrong}: set the clock here, or certificates look expired or too new")


def timeout(where: str, waited: str) -> LoopUnavailable:
    """Nothing came, or not enough of it."""
    cure = "check the network, and whether the Learning Loop is overloaded"
    return _unavailable(FaultKind.TIMEOUT, f"{where} does not answer in time ({waited}): {cure}")


def not_a_loop(where: str, said: str) -> LoopUnavailable:
    """Somebody else answers: a captive portal, a router, another web server."""
    cure = "check LOOP_HOST, and whether the network here wants a log-in by browser first"
    return _unavailable(FaultKind.NOT_A_LOOP, f"what answers at {where} is not a Learning Loop ({said}): {cure}")


def excessive_answer(where: str, max_bytes: int) -> LoopUnavailable:
    """More than anybody could want to read."""
    return _unavailable(FaultKind.FAILED, f"{where} answers with more than {max_bytes} bytes: see its log")


def proxy_refusal(where: str, said: str) -> LoopUnavailable:
    """The proxy in between will not pass us on."""
    cure = "check HTTP_PROXY and HTTPS_PROXY, also the user and password in them, or except the Loop by NO_PROXY"
    return _unavailable(FaultKind.PROXY, f"the proxy before {where} answered {said}: {cure}")


def refused_login(status: int, said: str) -> LoopRefused:
    """The user name or the password is wrong, or there is no login at that place."""
    cure = "check LOOP_USERNAME and LOOP_PASSWORD, and LOOP_HOST"
    return LoopRefused(status, f"the login was refused ({said}): {cure}", kind=FaultKind.LOGIN)


def error_answer(
    status: int, content_type: str, body: bytes, *, where: str, retry_after_s: float | None = None
) -> LoopError:
    """What an HTTP answer that is none of 2xx means.

    Args:
        status: The HTTP status.
        content_type: The header.
        body: Its beginning.
        where: The address that was asked, as operators know it.
        retry_after_s: How long the Loop asked to be left alone.
    """
    said = f"HTTP {status}: {excerpt(body)}".removesuffix(": ")
    if status == _PROXY_LOGIN:
        return proxy_refusal(where, said)
    if status < 400 or status == _NETWORK_LOGIN:
        return not_a_loop(where, f"HTTP {status}, which sends us elsewhere")
    if status in _PAGES_OF_PORTALS and is_html(content_type, body):
        return not_a_loop(where, f"HTTP {status} with a page for browsers")
    if status == _REQUEST_TIMEOUT:
        return timeout(where, said)
    if status == _TOO_MANY:
        text = f"{where} is asked too often ({said}): calls are slowed down until it allows more"
        return _unavailable(FaultKind.RATE_LIMITED, text, retry_after_s)
    if status >= 500:
        text = f"the Learning Loop at {where} fails ({said}): see its log; the call is repeated later"
        return _unavailable(FaultKind.FAILED, text, retry_after_s)
    return LoopRefused(status, excerpt(body))


def _unavailable(kind: FaultKind, sentence: str, retry_after_s: float | None = None) -> LoopUnavailable:
    return LoopUnavailable(sentence, kind=kind, retry_after_s=retry_after_s)


def _distrust(error: ssl.SSLCertVerificationError, where: str, today: str) -> str:
    certificate = f"the certificate of {where}"
    if error.verify_code == _EXPIRED:
        return f"{certificate} has expired: have it renewed, or set the clock here, which says {today}"
    if error.verify_code == _NOT_YET_VALID:
        return f"{certificate} is not valid yet: set the clock here, which says {today}, or have it made anew"
    if error.verify_code in _UNKNOWN_SIGNER:
        cure = "name a file with the certificate of its signer (PEM) in LOOP_SSL_CERT_PATH"
        return f"{certificate} is signed by nobody whom this computer trusts: {cure}"
    if error.verify_code in _OTHER_NAME:
        return f"{certificate} is made for another name: use the name it is made for in LOOP_HOST"
    return f"{certificate} is not trusted ({error.verify_message}): have it made anew"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what it groups, and what led to it."""
    yield error
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _causes(member)
    if (before := error.__cause__ or error.__context__) is not None:
        yield from _causes(before)
