"""Request bodies that come no faster than they are used.

quart-trio takes in a body as fast as it arrives, whoever reads it, so an upload larger than the memory ends the process.
Here the way of a body is held up at its reader, and with it hypercorn's queue, the socket and the sender:

- Until its reader shows up, and while it is iterated, at most `AHEAD_BYTES` and one piece off the socket are held.
- Once it is awaited, it is held whole, up to its limit.
- Once an answer begins, whatever still comes is thrown away: hypercorn ends a request only when its messages are taken.

A client that leaves cancels its handler, but is only seen to leave when what it sent before has been taken.
"""

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final, cast

import trio
from quart import Request, Response
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers import TrioRequest
from quart_trio.wrappers.request import TrioBody
from werkzeug.exceptions import RequestEntityTooLarge

from .file_answers import FileBody

if TYPE_CHECKING:
    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent
    from quart.typing import ResponseTypes

__all__ = ["AHEAD_BYTES", "BoundedBody", "BoundedHttpConnection", "BoundedRequest", "set_body_limit"]

AHEAD_BYTES: Final = 256 << 10


class BoundedBody(TrioBody):
    """A body to be iterated in pieces or awaited as a whole, one or the other.

    Both raise `RequestEntityTooLarge` beyond `max_bytes`. It may be set until the body is first asked for.
    """

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        super().__init__(expected_content_length, None)
        self.max_bytes = max_content_length
        self._largest_bytes = expected_content_length or 0
        self._received_bytes = 0
        self._is_whole = False
        self._is_discarded = False
        self._room = trio.Event()

    @property
    def buffered_bytes(self) -> int:
        """How much has come and waits for its reader."""
        return len(self._data)

    def append(self, data: bytes) -> None:
        """Take in what came, unless it is of no use any more."""
        self._received_bytes += len(data)
        self._largest_bytes = max(self._largest_bytes, self._received_bytes)
        if self._is_discarded:
            return
        if self._is_whole and self._is_too_large():
            self._data.clear()
            self.set_complete()
            return
        super().append(data)

    async def wait_for_room(self) -> None:
        """Return once more may be appended."""
        while len(self._data) >= AHEAD_BYTES and not (self._is_whole or self._is_discarded):
            self._room = trio.Event()
            await self._room.wait()

    def discard(self) -> None:
        """Throw away what is here and what still comes."""
        self._is_discarded = True
        self._data.clear()
        self._room.set()

    async def __anext__(self) -> bytes:
        self._check()
        await trio.lowlevel.checkpoint()
        data = await super().__anext__()
        self._room.set()
        self._check()
        return data

    def __await__(self) -> Generator[Any, None, Any]:
        self._is_whole = True
        self._room.set()
        self._check()
        yield from self._complete.wait().__await__()
        self._check()
        return bytes(self._data)

    def _check(self) -> None:
        if self._is_too_large():
            raise RequestEntityTooLarge

    def _is_too_large(self) -> bool:
        return self.max_bytes is not None and self._largest_bytes > self.max_bytes


class BoundedRequest(TrioRequest):
    """A request with a `BoundedBody`."""

    body_class = BoundedBody


class BoundedHttpConnection(TrioASGIHTTPConnection):
    """One request and its answer; for an app whose requests are `BoundedRequest`s."""

    async def handle_messages(  # type: ignore[override] # as quart-trio's own does
        self, nursery: trio.Nursery, request: Request, receive: "ASGIReceiveCallable"
    ) -> None:
        """Fill the body as there is room, and cancel the request when the client leaves."""
        body = cast(BoundedBody, request.body)
        while (message := await receive())["type"] == "http.request":
            body.append(message.get("body", b""))
            if message.get("more_body", False):
                await body.wait_for_room()
            else:
                body.set_complete()
        nursery.cancel_scope.cancel()

    async def handle_request(  # type: ignore[override] # as quart-trio's own does
        self, nursery: trio.Nursery, request: Request, send: "ASGISendCallable"
    ) -> None:
        """Let the app answer; its first word ends the body."""

        async def send_without_body(message: "ASGISendEvent") -> None:
            cast(BoundedBody, request.body).discard()
            await send(message)

        await super().handle_request(nursery, request, send_without_body)

    async def _send_response(self, send: "ASGISendCallable", response: "ResponseTypes") -> None:
        try:
            await super()._send_response(send, response)
        finally:
            if isinstance(response, Response) and isinstance(response.response, FileBody):
                response.response.close()  # also one that was never begun


def set_body_limit(request: Request, max_bytes: int) -> None:
    """Let this request have a body of `max_bytes`, whatever the app's own limit."""
    cast(BoundedBody, request.body).max_bytes = max_bytes
