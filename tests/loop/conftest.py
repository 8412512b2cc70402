"""A web server of raw sockets that does what a test scripts, and a client for it."""

import json
import ssl
from contextlib import suppress
from functools import partial

import pytest
import trio
import trustme
from attrs import Factory, define, frozen

from loop_node.loop.client import LoopAccess, open_loop_client


@frozen
class Request:
    method: str
    target: str
    headers: dict
    body: bytes


async def read_request(stream):
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


def reply(status=200, body=b"", **headers):
    """An HTTP answer; a body that is not bytes goes as JSON, header names are written with `_`."""
    if not isinstance(body, bytes):
        body, headers = json.dumps(body).encode(), {"Content_Type": "application/json"} | headers
    headers = {"Content_Length": len(body)} | headers
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([f"HTTP/1.1 {status} It", *lines, "", ""]).encode() + body


@define
class ScriptedServer:
    """Answers by `script`: a list of replies in turn, or a function of the request.

    A reply is bytes, or `async (stream) -> None`, after which the connection is closed.
    """

    script: object
    port: int = 0
    requests: list = Factory(list)

    async def serve(self, stream):
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while (request := await read_request(stream)) is not None:
                self.requests.append(request)
                answer = self.script(request) if callable(self.script) else self.script.pop(0)
                if not isinstance(answer, bytes):
                    await answer(stream)
                    await trio.aclose_forcefully(stream)
                    return
                await stream.send_all(answer)

    @property
    def asked(self):
        return [f"{request.method} {request.target}" for request in self.requests]


@pytest.fixture
def serve(nursery):
    """`server = await serve(script, certificate=None)`: a ScriptedServer on a port of its own.

    `answer_early`, `async (stream) -> None`, has the connections instead of the script.
    """

    async def start(script, certificate=None, answer_early=None):
        server = ScriptedServer(script)
        handle = answer_early or server.serve
        if certificate is None:
            run = partial(trio.serve_tcp, handle, 0, host="127.0.0.1")
        else:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            certificate.configure_cert(context)
            run = partial(trio.serve_ssl_over_tcp, handle, 0, context, host="127.0.0.1", https_compatible=True)
        listeners = await nursery.start(run)
        listener = getattr(listeners[0], "transport_listener", listeners[0])
        server.port = listener.socket.getsockname()[1]
        return server

    yield start
    nursery.cancel_scope.cancel()


@pytest.fixture(scope="session")
def usual_authority(tmp_path_factory):
    """The authority that the system of these tests trusts; reading all real ones takes a tenth of a second each time."""
    made = trustme.CA()
    made.path = tmp_path_factory.mktemp("certificates") / "usual.pem"
    made.cert_pem.write_to_path(made.path)
    return made


@pytest.fixture(autouse=True)
def environment(monkeypatch, usual_authority):
    """Tests do not go through the proxy of whoever runs them."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(usual_authority.path))


@pytest.fixture
def client_of():
    """`async with client_of(server, login=False, ...) as client`."""

    def start(server, *, scheme="http", host="127.0.0.1", login=False, ca_file=None, **options):
        credentials = {"username": "robot", "password": "hunter2-secret"} if login else {}
        access = LoopAccess(url=f"{scheme}://{host}:{server.port}", ca_file=ca_file, **credentials)
        return open_loop_client(access, **options)

    return start
