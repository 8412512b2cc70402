"""REST calls to a Learning Loop: one session, every call bounded, every fault told in words.

A JSON call is bounded as a whole by its `limit_s`, up- and downloads by a pace: no 64 KiB within `limit_s` is a
timeout. When to try again is the caller's to decide.

With credentials a login precedes the first call. A 401 later means that the session has ended: log in again, repeat
once. Callers that find so at the same time share one login, and its failure.
"""

import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

import msgspec
import trio
from attrs import field, frozen

from loop_node.errors import LoopError, LoopRefused, LoopUnavailable

from . import faults
from .answers import bare_filename
from .downloads import Download, OnReceived, store
from .exchange import CONNECT_S, Answer, Call, Exchange, one_chunk, open_exchange
from .link_state import LinkState
from .multipart import FilePart, prepare_form
from .pace import Pace

__all__ = ["LoopAccess", "LoopClient", "open_loop_client"]

T = TypeVar("T")

_NEED_OF_LOGIN: Final = 401


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


@asynccontextmanager
async def open_loop_client(
    access: LoopAccess, *, timeout_s: float = 60, wall_clock: Callable[[], float] = time.time
) -> AsyncIterator["LoopClient"]:
    """A client for the Learning Loop at `access.url`; nothing is asked before the first call.

    Args:
        access: Where, and as whom.
        timeout_s: The `limit_s` of calls that name none.
        wall_clock: Seconds since the epoch.

    Raises:
        SettingsError: The address, the certificates or the proxy cannot be used.
    """
    link = LinkState(wall_clock)
    async with open_exchange(
        access.url,
        ca_file=access.ca_file,
        connect_s=min(CONNECT_S, timeout_s),
        wall_clock=wall_clock,
        on_date=link.note_date,
    ) as exchange:
        yield LoopClient(exchange, access, link, timeout_s=timeout_s)


class LoopClient:
    """Asks one Learning Loop; made by `open_loop_client`. Paths are what follows `/api`, with a slash before it.

    All calls raise:

    - LoopUnavailable: not reached, or it failed: worth trying again, after `retry_after_s` if that is not None.
    - LoopRefused: it said no, or refused the login (`kind` is "login" then).

    Attributes:
        link: What the calls so far tell of the connection.
    """

    def __init__(self, exchange: Exchange, access: LoopAccess, link: LinkState, *, timeout_s: float) -> None:
        self.link = link
        self._exchange = exchange
        self._access = access
        self._timeout_s = timeout_s
        self._logged_in = False
        self._login = trio.Lock()
        self._login_attempts = 0
        self._login_failure: LoopError | None = None

    @property
    def tls_context(self) -> ssl.SSLContext:
        """Whom to trust, also for the Socket.IO link."""
        return self._exchange.tls_context

    async def get_json(
        self, path: str, *, params: Mapping[str, str] | None = None, limit_s: float | None = None
    ) -> Any:
        """The parsed answer of a GET."""
        call = Call(method="GET", path=path, params=params or {})
        return await self._ask(call, Pace(limit_s or self._timeout_s), Answer.json)

    async def send_json(self, method: str, path: str, body: Any, *, limit_s: float | None = None) -> Any:
        """Send `body` as JSON; the parsed answer, its text where it is no JSON, None where it is empty."""
        data = msgspec.json.encode(body)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(data))}
        call = Call(method=method, path=path, headers=headers, chunks=lambda: one_chunk(data))
        return await self._ask(call, Pace(limit_s or self._timeout_s), Answer.reply)

    async def send_files(
        self,
        method: str,
        path: str,
        parts: Sequence[FilePart],
        *,
        fields: Mapping[str, Sequence[str]] = MappingProxyType({}),
        on_progress: Callable[[int, int], None] = lambda _sent_bytes, _all_bytes: None,
        limit_s: float | None = None,
    ) -> Any:
        """Send files as a form, those on disk without reading them into memory; returns as `send_json`.

        After an error or a cancellation it is not known whether the Loop took them.

        Raises:
            OSError: A file is not there, cannot be read, or has become shorter meanwhile.
        """
        form = await prepare_form(parts, fields)
        pace = Pace(limit_s or self._timeout_s)

        async def chunks() -> AsyncGenerator[bytes, None]:
            sent_bytes = 0
            async with aclosing(form.chunks()) as pieces:
                async for piece in pieces:
                    yield piece  # noqa: ASYNC119  # the exchange closes this generator
                    # the next is asked for when this one was taken by the network
                    sent_bytes += len(piece)
                    pace.advance(len(piece))
                    on_progress(sent_bytes, form.length)

        headers = {"Content-Type": form.content_type, "Content-Length": str(form.length)}
        return await self._ask(Call(method=method, path=path, headers=headers, chunks=chunks), pace, Answer.reply)

    async def download(
        self,
        path: str,
        to: Path,
        *,
        max_bytes: int,
        on_progress: OnReceived = lambda _received_bytes, _all_bytes: None,
        limit_s: float | None = None,
    ) -> Download:
        """Stream the answer of a GET into the new file `to`; after an error or a cancellation there is no such file.

        Raises:
            TooLarge: It is larger than `max_bytes`.
            StorageFull: There is no room on the disk.
            OSError: The file is there already, or cannot be written.
        """
        pace = Pace(limit_s or self._timeout_s)

        async def receive(answer: Answer) -> Download:
            received_bytes = 0

            def received(size_bytes: int, all_bytes: int | None) -> None:
                nonlocal received_bytes
                pace.advance(size_bytes - received_bytes)
                received_bytes = size_bytes
                on_progress(size_bytes, all_bytes)

            async with answer.body() as chunks:
                size_bytes = await store(
                    chunks, to, max_bytes=max_bytes, announced_bytes=answer.length, on_received=received
                )
            return Download(filename=bare_filename(answer.header("Content-Disposition")), size_bytes=size_bytes)

        return await self._ask(Call(method="GET", path=path), pace, receive)

    async def login(self, *, again: bool = False) -> None:
        """Have a session, for its cookies: log in unless we are, or `again`. Without credentials: nothing."""
        if self._access.has_login and (again or not self._logged_in):
            await self._bounded(Pace(self._timeout_s), lambda: self._log_in(self._login_attempts))

    def session_cookies(self) -> dict[str, str]:
        """Name to value, as the last login left them."""
        return self._exchange.cookies()

    async def _ask(self, call: Call, pace: Pace, read: Callable[[Answer], Awaitable[T]]) -> T:
        return await self._bounded(pace, lambda: self._with_session(call, read))

    async def _bounded(self, pace: Pace, work: Callable[[], Awaitable[T]]) -> T:
        with self._observed():
            with pace.scope:
                return await work()
            raise faults.timeout(self._exchange.where, f"nothing, or too little, within {pace.limit_s:g} s")

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

    async def _with_session(self, call: Call, read: Callable[[Answer], Awaitable[T]]) -> T:
        if self._access.has_login and not self._logged_in:
            await self._log_in(self._login_attempts)
        seen = self._login_attempts
        try:
            async with self._exchange.answer(call) as answer:
                return await read(answer)
        except LoopRefused as refusal:
            if refusal.status != _NEED_OF_LOGIN or not self._access.has_login:
                raise
        await self._log_in(seen)
        async with self._exchange.answer(call) as answer:
            return await read(answer)

    async def _log_in(self, seen: int) -> None:
        """Log in, unless another task did since there were `seen` attempts; then its failure is ours too."""
        async with self._login:
            if self._login_attempts == seen:
                self._logged_in = False
                self._exchange.forget_cookies()
                self._login_failure = await self._post_login()
                self._login_attempts += 1
                self._logged_in = self._login_failure is None
            if self._login_failure is not None:
                raise self._login_failure.with_traceback(None)

    async def _post_login(self) -> LoopError | None:
        form = {"username": self._access.username, "password": self._access.password}
        data = urlencode(form).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Content-Length": str(len(data))}
        call = Call(method="POST", path="/login", headers=headers, chunks=lambda: one_chunk(data))
        try:
            async with self._exchange.answer(call) as answer:
                await answer.reply()
        except LoopRefused as refusal:
            # a server may repeat what it does not like, and what it says is shown in /about
            said = refusal.excerpt.replace(self._access.password or "", "***")
            return faults.refused_login(refusal.status, said)
        except LoopUnavailable as error:
            return error
        return None
