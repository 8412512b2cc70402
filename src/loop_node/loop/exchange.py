"""One HTTP request and its answer: bodies streamed in both directions, whatever goes wrong named by `faults`.

Redirects are not followed: the API has none, captive portals do. HTTP_PROXY, HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE and
SSL_CERT_DIR are honoured. The one importer of httpx.
"""

import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx
import msgspec
import trio
from attrs import frozen

from loop_node.errors import LoopError, LoopUnavailable, SettingsError

from . import faults
from .answers import date_s, is_html, retry_after_s

__all__ = ["CONNECT_S", "MAX_ANSWER_BYTES", "Answer", "Call", "Exchange", "one_chunk", "open_exchange"]

CONNECT_S: Final = 10.0
MAX_ANSWER_BYTES: Final = 64 * 2**20
"""Of answers that are read into memory."""

_MAX_CONNECTIONS: Final = 20
_KEEP_ALIVE_S: Final = 3.0  # below the 5 s after which web servers hang up: else one call in many meets a closing door
_EXCERPT_BYTES: Final = 16 * 1024
_A_WRONG_CLOCK_S: Final = 24 * 3600.0


async def one_chunk(data: bytes) -> AsyncGenerator[bytes, None]:
    """A body that is in memory."""
    yield data


@frozen(kw_only=True)
class Call:
    """One request; `path` follows `/api`, `chunks` gives the body anew whenever it is sent."""

    method: str
    path: str
    params: Mapping[str, str] = MappingProxyType({})
    headers: Mapping[str, str] = MappingProxyType({})
    chunks: Callable[[], AsyncGenerator[bytes, None]] = lambda: one_chunk(b"")


class Answer:
    """A 2xx that is no page for browsers; its body is still to be read."""

    def __init__(self, response: httpx.Response, where: str) -> None:
        self._response = response
        self._where = where

    def header(self, name: str) -> str | None:
        """The value of a header."""
        value: str | None = self._response.headers.get(name)
        return value

    @property
    def length(self) -> int | None:
        """Bytes of the body, where that is announced."""
        text = self.header("Content-Length") or ""
        return int(text) if text.isdecimal() else None

    def body(self) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The body as it comes; may be left before the end."""
        return _body(self._response)

    async def json(self) -> Any:
        """The body, which has to be JSON."""
        body = await self._whole()
        try:
            return msgspec.json.decode(body)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise faults.not_a_loop(self._where, "no JSON where JSON is due") from None

    async def reply(self) -> Any:
        """The body, on which nothing depends: JSON, else its text, None where it is empty."""
        body = await self._whole()
        if is_html("", body):
            raise faults.not_a_loop(self._where, "a page for browsers")
        try:
            return msgspec.json.decode(body) if body else None
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return body.decode(errors="replace")

    async def _whole(self) -> bytes:
        body = await _beginning(self._response, MAX_ANSWER_BYTES)
        if len(body) > MAX_ANSWER_BYTES:
            raise faults.excessive_answer(self._where, MAX_ANSWER_BYTES)
        return body


class Exchange:
    """Sends requests to one server; made by `open_exchange`.

    Attributes:
        tls_context: Whom to trust.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        url: str,
        tls_context: ssl.SSLContext,
        wall_clock: Callable[[], float],
        on_date: Callable[[float], None],
    ) -> None:
        self.tls_context = tls_context
        self._http = http
        self._url = url
        self._wall_clock = wall_clock
        self._on_date = on_date
        self.where = url + _proxy_note(url)

    def cookies(self) -> dict[str, str]:
        """Name to value."""
        return {cookie.name: cookie.value or "" for cookie in self._http.cookies.jar}

    def forget_cookies(self) -> None:
        """Start anew, as nobody."""
        self._http.cookies.clear()

    @asynccontextmanager
    async def answer(self, call: Call) -> AsyncIterator[Answer]:
        """Send `call` and have its answer.

        Raises:
            LoopError: As `faults` sorts them; also for what happens while the body is read.
        """
        try:
            async with aclosing(call.chunks()) as chunks:
                request = self._http.build_request(
                    call.method, call.path.lstrip("/"), params=call.params or None, headers=call.headers
                )
                request.stream = _Chunks(chunks)
                response = await self._http.send(request, stream=True)
                try:
                    their_now_s = date_s(response.headers.get("Date"))
                    if (error := await self._refusal(response, their_now_s)) is not None:
                        raise error
                    if their_now_s is not None and "Age" not in response.headers:  # a cache tells of another time
                        self._on_date(their_now_s)
                    yield Answer(response, self.where)
                finally:
                    await response.aclose()
        except httpx.HTTPError as error:
            raise await self._explained(error) from error

    async def _refusal(self, response: httpx.Response, their_now_s: float | None) -> LoopError | None:
        content_type = response.headers.get("Content-Type", "")
        if response.is_success:
            return faults.not_a_loop(self.where, "a page for browsers") if is_html(content_type, b"") else None
        now_s = self._wall_clock() if their_now_s is None else their_now_s
        wait_s = retry_after_s(response.headers.get("Retry-After"), now_s)
        body = await _beginning(response, _EXCERPT_BYTES)
        return faults.error_answer(response.status_code, content_type, body, where=self.where, retry_after_s=wait_s)

    async def _explained(self, error: httpx.HTTPError) -> LoopUnavailable:
        if isinstance(error, httpx.ProxyError):
            return faults.proxy_refusal(self.where, str(error))
        if isinstance(error, httpx.TimeoutException):
            return faults.timeout(self.where, "no connection comes about")
        if isinstance(error, httpx.RemoteProtocolError) and not _hung_up(error):
            return faults.not_a_loop(self.where, f"no HTTP: {error}")
        now_s = self._wall_clock()
        if faults.certificate_out_of_date(error):
            their_now_s = await self._ask_date()
            if their_now_s is not None and abs(their_now_s - now_s) > _A_WRONG_CLOCK_S:
                return faults.wrong_clock(self.where, _day(now_s), _day(their_now_s))
        return faults.broken_connection(error, self.where, _day(now_s))

    async def _ask_date(self) -> float | None:
        """What the other side believes the time is, though its certificate looks out of date; nothing is told to it."""
        with trio.move_on_after(CONNECT_S), suppress(httpx.HTTPError):
            async with httpx.AsyncClient(verify=False) as stranger:  # noqa: S501  # only a date is read
                answer = await stranger.head(self._url)
                return date_s(answer.headers.get("Date"))
        return None


@asynccontextmanager
async def open_exchange(
    url: str,
    *,
    ca_file: Path | None = None,
    connect_s: float = CONNECT_S,
    wall_clock: Callable[[], float] = time.time,
    on_date: Callable[[float], None] = lambda _theirs_s: None,
) -> AsyncIterator[Exchange]:
    """Requests to `url`; nothing is asked yet.

    Args:
        url: With scheme, without a path.
        ca_file: Certificates (PEM) to trust beside those of the system.
        connect_s: Limit of finding the name, connecting and TLS; for all that follows the caller sets one.
        wall_clock: Seconds since the epoch.
        on_date: Told the other side's clock, seconds since the epoch, with every good answer.

    Raises:
        SettingsError: The address, the certificates or the proxy cannot be used.
    """
    tls_context = await trio.to_thread.run_sync(_trusting, ca_file)
    try:
        http = httpx.AsyncClient(
            verify=tls_context,
            timeout=httpx.Timeout(None, connect=connect_s),
            limits=httpx.Limits(max_connections=_MAX_CONNECTIONS, keepalive_expiry=_KEEP_ALIVE_S),
            headers={"User-Agent": "loop-node", "Accept": "*/*", "Accept-Encoding": "identity"},
            base_url=f"{url}/api/",
        )
    except (httpx.InvalidURL, ValueError, ImportError):  # their texts may hold the proxy's password
        raise SettingsError(["LOOP_HOST, HTTP_PROXY or HTTPS_PROXY is no address that can be used"]) from None
    async with http:
        yield Exchange(http, url, tls_context, wall_clock, on_date)


class _Chunks(httpx.AsyncByteStream):
    """A body whose generator is closed by us: Trio warns of ones that are left to the garbage collector."""

    def __init__(self, chunks: AsyncGenerator[bytes, None]) -> None:
        self._chunks = chunks

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks


@asynccontextmanager
async def _body(response: httpx.Response) -> AsyncIterator[AsyncIterator[bytes]]:
    chunks = response.aiter_raw()
    try:
        yield chunks
    finally:
        # httpx nests generators, and Trio warns of ones that are collected halfway: cancelled, each comes to its end
        with trio.CancelScope(shield=True) as scope, suppress(httpx.HTTPError):
            scope.cancel()
            await _exhaust(chunks)


async def _exhaust(chunks: AsyncIterator[bytes]) -> None:
    async for _ in chunks:
        pass


async def _beginning(response: httpx.Response, max_bytes: int) -> bytes:
    """All of the body, or a little more than `max_bytes` of it."""
    read = bytearray()
    async with _body(response) as chunks:
        async for chunk in chunks:
            read += chunk
            if len(read) > max_bytes:
                break
    return bytes(read)


def _trusting(ca_file: Path | None) -> ssl.SSLContext:
    """Whom to trust: the system, the authorities that httpx brings along, and `ca_file`. Blocking."""
    try:
        context = httpx.create_ssl_context()  # reads SSL_CERT_FILE and SSL_CERT_DIR
        context.load_default_certs()
    except OSError as error:
        raise SettingsError([f"SSL_CERT_FILE or SSL_CERT_DIR: no certificates can be read there: {error}"]) from None
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:
            raise SettingsError([f"LOOP_SSL_CERT_PATH: no certificates (PEM) in {ca_file}: {error}"]) from None
        # home-made authorities seldom follow every rule of form, and some name the Loop's own certificate
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _proxy_note(url: str) -> str:
    """Which setting leads through a proxy, never its value: that may hold a password."""
    parts = urlsplit(url)
    used = [scheme for scheme in (parts.scheme, "all") if scheme in getproxies()]
    if not used or proxy_bypass(parts.hostname or ""):
        return ""
    return f" (through the proxy of {used[0].upper()}_PROXY)"


def _hung_up(error: httpx.RemoteProtocolError) -> bool:
    """Whether the other side closed the connection, rather than said something that is no HTTP."""
    return any(said in str(error) for said in ("disconnected", "closed connection"))


def _day(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).date().isoformat()
