"""A web server of raw sockets that does what a test scripts; it runs in the test's own process."""

import json
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias

import trio
import trustme
from attrs import Factory, define, frozen

Behaviour: TypeAlias = Callable[[trio.abc.Stream], Awaitable[None]]
Reply: TypeAlias = bytes | Behaviour
"""Bytes, or `async (stream) -> None`, after which the connection is closed."""


@frozen
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


async def read_request(stream: trio.abc.Stream) -> Request | None:
    """The next request of a connection; None at its end."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some()
        if not more:
            return None
        data += more
    head, _, body = bytes(data).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        more = await stream.receive_some()
        if not more:
            return None
        body += more
    return Request(method, target, headers, body)


def reply(status: int = 200, body: Any = b"", **headers: object) -> bytes:
    """An HTTP answer; a body that is not bytes goes as JSON, header names are written with `_`."""
    if not isinstance(body, bytes):
        body, headers = json.dumps(body).encode(), {"Content_Type": "application/json"} | headers
    headers = {"Content_Length": len(body)} | headers
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([f"HTTP/1.1 {status} It", *lines, "", ""]).encode() + body


@define
class ScriptedServer:
    """Answers by `script`: a list of replies in turn, or a function of the request."""

    script: Any
    port: int = 0
    requests: list[Request] = Factory(list)

    async def serve(self, stream: trio.abc.Stream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while (request := await read_request(stream)) is not None:
                self.requests.append(request)
                answer: Reply = self.script(request) if callable(self.script) else self.script.pop(0)
                if not isinstance(answer, bytes):
                    await answer(stream)
                    await trio.aclose_forcefully(stream)
                    return
                await stream.send_all(answer)

    @property
    def asked(self) -> list[str]:
        return [f"{request.method} {request.target}" for request in self.requests]


async def start_serving(
    nursery: trio.Nursery, handle: Behaviour, certificate: trustme.LeafCert | None = None, *, port: int = 0
) -> int:
    """Serve connections until the nursery ends; returns the port."""
    if certificate is None:
        run = partial(trio.serve_tcp, handle, port, host="127.0.0.1")
    else:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(context)
        run = partial(trio.serve_ssl_over_tcp, handle, port, context, host="127.0.0.1", https_compatible=True)
    listeners = await nursery.start(run)
    listener = getattr(listeners[0], "transport_listener", listeners[0])
    found: int = listener.socket.getsockname()[1]
    return found
