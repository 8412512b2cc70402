"""A web server of raw sockets that does what a test scripts, and a client for it."""

import pytest
import trustme

from loop_node.loop.client import LoopAccess, open_loop_client
from scripted import ScriptedServer, start_serving


@pytest.fixture
def serve(nursery):
    """`server = await serve(script, certificate=None)`: a ScriptedServer on a port of its own.

    `answer_early`, `async (stream) -> None`, has the connections instead of the script.
    """

    async def start(script, certificate=None, answer_early=None):
        server = ScriptedServer(script)
        server.port = await start_serving(nursery, answer_early or server.serve, certificate)
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
