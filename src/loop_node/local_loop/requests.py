"""What the doors of the Learning Loop share: who asks, JSON and forms that came in, and how an endpoint is guarded."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec
import trio
from attrs import evolve, frozen
from quart import Response, request

from loop_node.errors import InputError, LoginNeeded, Malformed, SchemaError
from loop_node.schemas.wire import structure, structure_strictly
from loop_node.serving.openapi import SESSION_COOKIE, Endpoint, Handle
from loop_node.serving.uploads import read_body, split_multipart

from .accounts import Accounts

__all__ = ["Guard", "client_address", "read_form", "read_json", "read_order", "required", "server_address"]

T = TypeVar("T")

_MAX_JSON_BYTES: Final = 8 << 20
_MAX_FORM_BYTES: Final = 64 << 10
_MAX_FIELDS: Final = 20
_LARGE_JSON_BYTES: Final = 64 << 10  # takes more than 50 ms to read
_large_json: Final = trio.CapacityLimiter(1)
_HOST: Final = re.compile(r"[A-Za-z0-9.\-_\[\]:]{1,255}")


@frozen
class Guard:
    """Lets nobody in without a session."""

    accounts: Accounts

    def __call__(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint, behind a login where it says that it needs one."""
        if not endpoint.has_login:
            return endpoint
        return evolve(endpoint, handle=self._guarded(endpoint.handle), faults=sorted({401, *endpoint.faults}))

    def _guarded(self, handle: Handle) -> Handle:
        async def guarded(**parts: str) -> Response:
            if self.accounts.user_of(request.cookies.get(SESSION_COOKIE)) is None:
                raise LoginNeeded("a login is needed: POST /api/login, and send its cookie along")
            return await handle(**parts)

        return guarded


async def read_order(kind: type[T], *, empty: bytes = b"") -> T:
    """What a person or a script asks for; as `read_json`, but fields that `kind` does not have are faults."""
    return await read_json(kind, read=structure_strictly, empty=empty)


async def read_json(
    kind: type[T],
    *,
    max_bytes: int = _MAX_JSON_BYTES,
    read: Callable[[type[T], object], T] = structure,
    empty: bytes = b"",
) -> T:
    """The body as an instance of `kind`.

    Args:
        kind: A class, or what `structure` takes.
        max_bytes: A bound below that of all bodies.
        read: How the parsed body becomes an instance.
        empty: What stands for no body.

    Raises:
        Malformed: No JSON.
        SchemaError: Other fields than `kind` has.
        TooLarge: Over one of the two bounds.
    """
    body = await read_body(request, max_bytes=max_bytes) or empty
    if len(body) < _LARGE_JSON_BYTES:
        return _parsed(kind, body, read)
    return await trio.to_thread.run_sync(_parsed, kind, body, read, limiter=_large_json)


def _parsed(kind: type[T], body: bytes, read: Callable[[type[T], object], T]) -> T:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"the body must be JSON: {error}") from None
    return read(kind, value)


async def read_form() -> Mapping[str, str]:
    """The fields of a small form, in either of the two ways in which forms come.

    Raises:
        Malformed: Neither of them.
        TooLarge: No small one.
    """
    body = await read_body(request, max_bytes=_MAX_FORM_BYTES)
    if request.mimetype == "multipart/form-data":
        try:
            parts = split_multipart(body, request.mimetype_params.get("boundary", ""))
            return {part.name: part.data.decode() for part in parts}
        except (InputError, UnicodeDecodeError) as error:
            raise Malformed(str(error)) from None
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS))
    except ValueError as error:
        raise Malformed(f"the body must be a form: {error}") from None


def required(form: Mapping[str, str], *names: str) -> Sequence[str]:
    """These fields of a form.

    Raises:
        SchemaError: One of them is missing.
    """
    missing = [f"{name}: is missing" for name in names if name not in form]
    if missing:
        raise SchemaError(missing)
    return [form[name] for name in names]


def client_address() -> str:
    """Who asks, as far as can be told."""
    return request.remote_addr or "?"


def server_address() -> str:
    """How the client calls us, as models say where they come from."""
    host: Any = request.headers.get("Host", "")
    return f"{request.scheme}://{host}" if _HOST.fullmatch(host) else ""
