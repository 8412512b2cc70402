"""REST calls to a Learning Loop: one session, every fault told in words, nothing that hangs.

Every call is bounded: connecting by CONNECT_S, a JSON call as a whole by `timeout_s`, up- and downloads by a pace
(no 64 KiB within `timeout_s` is a timeout), an answer that is read into memory by MAX_JSON_BYTES. When to try again is
the caller's to decide. Redirects are not followed: the API has none, captive portals do.

With credentials a login precedes the first call. A 401 later means that the session has ended: log in again, repeat
once. Callers that find so at the same time share one login, and its failure.
"""

import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx
import msgspec
import trio
from attrs import field, frozen

from loop_node.errors import LoopError, LoopRefused, LoopUnavailable, SettingsError

from . import faults
from .answers import bare_filename, date_s, is_html, retry_after_s
from .downloads import Download, OnReceived, store
from .link_state import LinkState
from .multipart import FilePart, prepare_form
from .pace import Pace

__all__ = ["CONNECT_S", "MAX_JSON_BYTES", "LoopAccess", "LoopClient", "open_loop_client"]

T = TypeVar("T")

CONNECT_S: Final = 10.0
MAX_JSON_BYTES: Final = 64 * 2**20
_ERROR_BYTES: Final = 16 * 1024
_MAX_CONNECTIONS: Final = 20
_KEEP_ALIVE_S: Final = 3.0  # below the 5 s after which web servers hang up: else one call in many meets a closing door
_A_WRONG_CLOCK_S: Final = 24 * 3600.0
_NEED_OF_LOGIN: Final = 401
_WRONG_LOGIN: Final = {400, 401, 403, 422}


@frozen(kw_only=True)
class LoopAccess:
    """Where a Learning Loop is and who asks.

    Attributes:
        url: With scheme, without a path: see `loop_url`.
        username: None asks without a login.
        password: Likewise.
        ca_file: Certificates (PEM) to trust beside those of the system.
    """

    url: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None

    @property
    def has_login(self) -> bool:
        """Whether calls are made with a login."""
        return bool(self.username and self.password)


@frozen(kw_only=True)
class _Call:
    """One request; `chunks` gives its body anew whenever it is sent."""

    method: str
    path: str
    params: Mapping[str, str] = MappingProxyType({})
    headers: Mapping[str, str] = MappingProxyType({})
    chunks: Callable[[], AsyncGenerator[bytes, None]] = lambda: _once(b"")


@asynccontextmanager
async def open_loop_client(
    access: LoopAccess, *, timeout_s: float = 60, wall_clock: Callable[[], float] = time.time
) -> AsyncIterator["LoopClient"]:
    """A client for the Learning Loop at `access.url`; nothing is asked before the first call.

    HTTP_PROXY, HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR are honoured.

    Args:
        access: Where, and as whom.
        timeout_s: Limit of a JSON call as a whole; of up- and downloads for each 64 KiB.
        wall_clock: Seconds since the epoch.

    Raises:
        SettingsError: The address, the certificates or the proxy cannot be used.
    """
    tls_context = await trio.to_thread.run_sync(_trusting, access.ca_file)
    try:
        http = httpx.AsyncClient(
            verify=tls_context,
            timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s), pool=None),
            limits=httpx.Limits(max_connections=_MAX_CONNECTIONS, keepalive_expiry=_KEEP_ALIVE_S),
            headers={"User-Agent": "loop-node", "Accept": "*/*", "Accept-Encoding": "identity"},
            base_url=f"{access.url}/api/",
        )
    except (httpx.InvalidURL, ValueError, ImportError):  # the error of the latter two may hold the proxy's password
        raise SettingsError(["LOOP_HOST, HTTP_PROXY or HTTPS_PROXY is no address that can be used"]) from None
    async with http:
        yield LoopClient(http, access, tls_context, timeout_s=timeout_s, wall_clock=wall_clock)


class LoopClient:
    """Asks one Learning Loop; made by `open_loop_client`. Paths are what follows `/api`, with a slash before it.

    All calls raise:

    - LoopUnavailable: not reached, or it failed: worth trying again, after `retry_after_s` if that is not None.
    - LoopRefused: it said no, or refused the login (`kind` is "login" then).

    Attributes:
        link: What the calls so far tell of the connection.
        tls_context: Whom to trust, also for the Socket.IO link.
    """

    def __init__(
        self,
        http: httpx.AsyncClient,
        access: LoopAccess,
        tls_context: ssl.SSLContext,
        *,
        timeout_s: float,
        wall_clock: Callable[[], float],
    ) -> None:
        self.link = LinkState(wall_clock)
        self.tls_context = tls_context
        self._http = http
        self._access = access
        self._timeout_s = timeout_s
        self._wall_clock = wall_clock
        self._where = access.url + _proxy_note(access.url)
        self._logged_in = False
        self._login = trio.Lock()
        self._login_attempts = 0
        self._login_failure: LoopError | None = None

    async def get_json(
        self, path: str, *, params: Mapping[str, str] | None = None, limit_s: float | None = None
    ) -> Any:
        """The parsed answer of a GET; `limit_s` instead of `timeout_s` bounds the call as a whole."""
        call = _Call(method="GET", path=path, params=params or {})
        return await self._exchange(call, Pace(limit_s or self._timeout_s), self._json)

    async def send_json(self, method: str, path: str, body: Any, *, limit_s: float | None = None) -> Any:
        """Send `body` as JSON; the parsed answer, its text where it is no JSON, None where it is empty."""
        data = msgspec.json.encode(body)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(data))}
        call = _Call(method=method, path=path, headers=headers, chunks=lambda: _once(data))
        return await self._exchange(call, Pace(limit_s or self._timeout_s), self._reply)

    async def send_files(
        self,
        method: str,
        path: str,
        parts: Sequence[FilePart],
        *,
        fields: Mapping[str, Sequence[str]] = MappingProxyType({}),
        on_progress: Callable[[int, int], None] = lambda _sent_bytes, _all_bytes: None,
    ) -> Any:
        """Send files as a form, those on disk without reading them into memory; returns as `send_json`.

        After an error or a cancellation it is not known whether the Loop took them.

        Raises:
            OSError: A file is not there, cannot be read, or has become shorter meanwhile.
        """
        form = await prepare_form(parts, fields)
        pace = Pace(self._timeout_s)

        async def chunks() -> AsyncGenerator[bytes, None]:
            sent_bytes = 0
            async with aclosing(form.chunks()) as pieces:
                async for piece in pieces:
                    yield piece  # noqa: ASYNC119  # `_answer` closes the generator; asked for the next, httpx has sent this one
                    sent_bytes += len(piece)
                    pace.advance(len(piece))
                    on_progress(sent_bytes, form.length)

        headers = {"Content-Type": form.content_type, "Content-Length": str(form.length)}
        return await self._exchange(_Call(method=method, path=path, headers=headers, chunks=chunks), pace, self._reply)

    async def download(
        self,
        path: str,
        to: Path,
        *,
        max_bytes: int,
        on_progress: OnReceived = lambda _received_bytes, _all_bytes: None,
    ) -> Download:
        """Stream the answer of a GET into the new file `to`; after an error or a cancellation there is no such file.

        Raises:
            TooLarge: It is larger than `max_bytes`.
            StorageFull: There is no room on the disk.
            OSError: The file is there already, or cannot be written.
        """
        pace = Pace(self._timeout_s)

        async def receive(response: httpx.Response) -> Download:
            announced_bytes = _length(response)
            received_bytes = 0

            def received(size_bytes: int, all_bytes: int | None) -> None:
                nonlocal received_bytes
                pace.advance(size_bytes - received_bytes)
                received_bytes = size_bytes
                on_progress(size_bytes, all_bytes)

            async with _body(response) as chunks:
                size_bytes = await store(
                    chunks, to, max_bytes=max_bytes, announced_bytes=announced_bytes, on_received=received
                )
            return Download(filename=bare_filename(response.headers.get("Content-Disposition")), size_bytes=size_bytes)

        return await self._exchange(_Call(method="GET", path=path), pace, receive)

    async def login(self, *, again: bool = False) -> None:
        """Have a session, for its cookies: log in unless we are, or `again`. Without credentials: nothing."""
        if self._access.has_login and (again or not self._logged_in):
            await self._bounded(Pace(self._timeout_s), lambda: self._log_in(self._login_attempts))

    def session_cookies(self) -> dict[str, str]:
        """Name to value, as the last login left them."""
        return {cookie.name: cookie.value or "" for cookie in self._http.cookies.jar}

    async def _exchange(self, call: _Call, pace: Pace, consume: Callable[[httpx.Response], Awaitable[T]]) -> T:
        return await self._bounded(pace, lambda: self._with_session(call, consume))

    async def _bounded(self, pace: Pace, work: Callable[[], Awaitable[T]]) -> T:
        with self._observed():
            with pace.scope:
                return await work()
            raise faults.timeout(self._where, f"nothing, or too little, within {pace.limit_s:g} s")

    @contextmanager
    def _observed(self) -> Iterator[None]:
        """Keep `link` true."""
        try:
            yield
        except LoopUnavailable as error:
            self.link.lost(error.kind, str(error))
            raise
        except LoopRefused as error:
            if error.kind:
                self.link.lost(error.kind, error.excerpt)
            else:
                self.link.stands()
            raise
        else:
            self.link.stands()

    async def _with_session(self, call: _Call, consume: Callable[[httpx.Response], Awaitable[T]]) -> T:
        if self._access.has_login and not self._logged_in:
            await self._log_in(self._login_attempts)
        seen = self._login_attempts
        try:
            async with self._answer(call) as response:
                return await consume(response)
        except LoopRefused as refusal:
            if refusal.status != _NEED_OF_LOGIN or not self._access.has_login:
                raise
        await self._log_in(seen)
        async with self._answer(call) as response:
            return await consume(response)

    async def _log_in(self, seen: int) -> None:
        """Log in, unless another task did since there were `seen` attempts; then its failure is ours too."""
        async with self._login:
            if self._login_attempts == seen:
                self._logged_in = False
                self._http.cookies.clear()
                self._login_failure = await self._post_login()
                self._login_attempts += 1
                self._logged_in = self._login_failure is None
            if self._login_failure is not None:
                raise self._login_failure.with_traceback(None)

    async def _post_login(self) -> LoopError | None:
        form = {"username": self._access.username, "password": self._access.password}
        data = urlencode(form).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Content-Length": str(len(data))}
        call = _Call(method="POST", path="/login", headers=headers, chunks=lambda: _once(data))
        try:
            async with self._answer(call) as response:
                await self._reply(response)
        except LoopRefused as refusal:
            return faults.refused_login(refusal) if refusal.status in _WRONG_LOGIN else refusal
        except LoopUnavailable as error:
            return error
        return None

    @asynccontextmanager
    async def _answer(self, call: _Call) -> AsyncIterator[httpx.Response]:
        """Send and have the answer, if it is of 2xx and no page for browsers; its body is still to be read."""
        try:
            async with aclosing(call.chunks()) as chunks:
                request = self._http.build_request(
                    call.method, call.path.lstrip("/"), params=call.params or None, headers=call.headers
                )
                request.stream = _Chunks(chunks)
                response = await self._http.send(request, stream=True)
                try:
                    await self._check(response)
                    yield response
                finally:
                    await response.aclose()
        except httpx.HTTPError as error:
            raise await self._explained(error) from error

    async def _check(self, response: httpx.Response) -> None:
        status, content_type = response.status_code, response.headers.get("Content-Type", "")
        their_now_s = date_s(response.headers.get("Date"))
        if not response.is_success:
            now_s = self._wall_clock() if their_now_s is None else their_now_s
            wait_s = retry_after_s(response.headers.get("Retry-After"), now_s)
            body = await _beginning(response, _ERROR_BYTES)
            raise faults.error_answer(status, content_type, body, where=self._where, retry_after_s=wait_s)
        if is_html(content_type, b""):
            raise faults.not_a_loop(self._where, "a page for browsers")
        if their_now_s is not None and "Age" not in response.headers:  # from a cache, it tells of another time
            self.link.note_date(their_now_s)

    async def _json(self, response: httpx.Response) -> Any:
        body = await self._whole(response)
        try:
            return msgspec.json.decode(body)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise faults.not_a_loop(self._where, "no JSON where JSON is due") from None

    async def _reply(self, response: httpx.Response) -> Any:
        """What nodes do not depend on is read with tolerance."""
        body = await self._whole(response)
        if is_html("", body):
            raise faults.not_a_loop(self._where, "a page for browsers")
        try:
            return msgspec.json.decode(body) if body else None
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return body.decode(errors="replace")

    async def _whole(self, response: httpx.Response) -> bytes:
        body = await _beginning(response, MAX_JSON_BYTES)
        if len(body) > MAX_JSON_BYTES:
            raise faults.excessive_answer(self._where, MAX_JSON_BYTES)
        return body

    async def _explained(self, error: httpx.HTTPError) -> LoopUnavailable:
        if isinstance(error, httpx.ProxyError):
            return faults.proxy_refusal(self._where, str(error))
        if isinstance(error, httpx.TimeoutException):
            step = "connecting" if isinstance(error, httpx.ConnectTimeout) else "waiting for bytes"
            return faults.timeout(self._where, f"gave up {step}")
        if isinstance(error, httpx.RemoteProtocolError) and not _hung_up(error):
            return faults.not_a_loop(self._where, f"no HTTP: {error}")
        now_s = self._wall_clock()
        if faults.certificate_out_of_date(error):
            their_now_s = await self._ask_date()
            if their_now_s is not None and abs(their_now_s - now_s) > _A_WRONG_CLOCK_S:
                return faults.wrong_clock(self._where, _day(now_s), _day(their_now_s))
        return faults.broken_connection(error, self._where, _day(now_s))

    async def _ask_date(self) -> float | None:
        """What the other side believes the time is, though its certificate looks out of date; nothing is told to it."""
        with trio.move_on_after(CONNECT_S), suppress(httpx.HTTPError):
            async with httpx.AsyncClient(verify=False, timeout=CONNECT_S) as stranger:  # noqa: S501  # only a date is read
                answer = await stranger.head(self._access.url)
                return date_s(answer.headers.get("Date"))
        return None


class _Chunks(httpx.AsyncByteStream):
    """A body whose generator is closed by us: Trio warns of ones that are left to the garbage collector."""

    def __init__(self, chunks: AsyncGenerator[bytes, None]) -> None:
        self._chunks = chunks

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks


async def _once(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data


@asynccontextmanager
async def _body(response: httpx.Response) -> AsyncIterator[AsyncIterator[bytes]]:
    """The bytes of an answer; may be left before the end."""
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
    """At least `max_bytes` + 1 bytes of the body, or all of it."""
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
    parts = urlsplit(url)
    proxied = parts.scheme in getproxies() and not proxy_bypass(parts.hostname or "")
    return f" (through the proxy of {parts.scheme.upper()}_PROXY)" if proxied else ""


def _hung_up(error: httpx.RemoteProtocolError) -> bool:
    """Whether the other side closed the connection, rather than said something that is no HTTP."""
    return any(said in str(error) for said in ("disconnected", "closed connection"))


def _length(response: httpx.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def _day(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).date().isoformat()
