"""A hostile network: whatever is between a node and its Loop, no call hangs, and each fault is told by its kind."""

import datetime as dt
import socket
import struct
import time
from email.utils import format_datetime

import pytest
import trio
import trustme

from loop_node.errors import LoopUnavailable
from loop_node.loop.client import LoopAccess, open_loop_client
from loop_node.loop.multipart import FilePart
from scripted import reply

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)


@pytest.fixture
def authority(tmp_path):
    """A home-made certificate authority and the file that LOOP_SSL_CERT_PATH would name."""
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    made.path = tmp_path / "ca.pem"
    return made


async def fault_of(client, call=None, match=None):
    """The error of a call; the link must tell the same, and nothing may take longer than 10 s."""
    with trio.fail_after(10), pytest.raises(LoopUnavailable, match=match) as error:
        await (call or client.get_json)("/status")
    assert client.link.fault.kind == error.value.kind
    assert client.link.fault.sentence == str(error.value)
    assert client.link.error_counts == {error.value.kind: 1}
    assert "\n" not in str(error.value)
    return error.value


async def test_nothing_listens(client_of, serve):
    """A closed port is `refused`."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, never listening
        async with open_loop_client(LoopAccess(url=f"http://127.0.0.1:{taken.getsockname()[1]}")) as client:
            assert (await fault_of(client, match="check that the Learning Loop runs")).kind == "refused"


async def test_a_name_that_nobody_knows(client_of, serve):
    """`dns`; the name is reserved never to exist."""
    async with open_loop_client(LoopAccess(url="http://loop.invalid")) as client:
        assert (await fault_of(client, match="check LOOP_HOST")).kind == "dns"


async def test_a_black_hole(client_of):
    """A machine that swallows every packet: the connect limit ends it."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        with socket.socket() as first, socket.socket() as second:
            for waiting in (first, second):  # the kernel takes no more handshakes for this port
                waiting.setblocking(False)
                waiting.connect_ex(full.getsockname())
            url = f"http://127.0.0.1:{full.getsockname()[1]}"
            async with open_loop_client(LoopAccess(url=url), timeout_s=0.3) as client:

                async def patiently(path):
                    await client.get_json(path, limit_s=60)

                fault = await fault_of(client, patiently, match="does not answer in time .no connection")
                assert fault.kind == "timeout"


async def test_a_loop_that_never_answers(serve, client_of):
    """Connected, asked, silent."""

    async def silent(_stream):
        await trio.sleep_forever()

    server = await serve([silent])
    async with client_of(server, timeout_s=0.2) as client:
        assert (await fault_of(client)).kind == "timeout"


@pytest.mark.parametrize("login", [False, True])
async def test_a_limit_that_is_asked_for_holds(serve, client_of, login):
    """Longer than the client's own, with a login and without one."""

    async def slowly(stream):
        await trio.sleep(0.6)
        await stream.send_all(reply(200, {"slow": True}))

    server = await serve(lambda request: reply(200, {}) if "login" in request.target else slowly)
    async with client_of(server, login=login, timeout_s=0.3) as client:
        assert await client.get_json("/x", limit_s=10) == {"slow": True}
        with pytest.raises(LoopUnavailable):
            await client.get_json("/x")


@pytest.mark.parametrize("where", ["head", "body", "error"])
async def test_one_byte_at_a_time(serve, client_of, where):
    """Bytes that drip in reset no limit: a JSON call is bounded as a whole, its head and an error's body too."""

    async def drip(stream):
        whole = reply(500 if where == "error" else 200, list(range(10_000)))
        body_at = 0 if where == "head" else whole.index(b"\r\n\r\n") + 4
        await stream.send_all(whole[:body_at])
        for byte in whole[body_at:]:
            await stream.send_all(bytes([byte]))
            await trio.sleep(0.01)

    server = await serve([drip])
    async with client_of(server, timeout_s=0.3) as client:
        assert (await fault_of(client, match=r"within 0\.3 s")).kind == "timeout"


async def test_a_download_that_drips(serve, client_of, tmp_path):
    """Less than 64 KiB within the limit is a timeout, and no file is left."""

    async def drip(stream):
        await stream.send_all(reply(200, Content_Length=10**6))
        for _ in range(10**6):
            await stream.send_all(b"x" * 50)
            await trio.sleep(0.01)

    server = await serve([drip])
    async with client_of(server, timeout_s=0.3) as client:

        async def download(path):
            await client.download(path, tmp_path / "f", max_bytes=10**7)

        assert (await fault_of(client, download)).kind == "timeout"
    assert not list(tmp_path.iterdir())


async def test_a_slow_download_that_moves_on(serve, client_of, tmp_path):
    """Longer than the limit as a whole, but with 64 KiB within it every time: it comes."""
    limit_s = 0.5

    async def slowly(stream):
        await stream.send_all(reply(200, Content_Length=8 * 65536))
        for _ in range(8):
            await stream.send_all(b"x" * 65536)
            await trio.sleep(limit_s / 4)

    server = await serve([slowly])
    async with client_of(server, timeout_s=limit_s) as client:
        began_s = trio.current_time()
        assert (await client.download("/f", tmp_path / "f", max_bytes=10**7)).size_bytes == 8 * 65536
        assert trio.current_time() - began_s > limit_s


async def test_an_upload_that_nobody_takes(serve, client_of):
    """A Loop that stops reading is a timeout."""

    async def deaf(stream):
        await stream.receive_some(100)
        await trio.sleep_forever()

    server = await serve([], answer_early=deaf)
    async with client_of(server, timeout_s=0.3) as client:

        async def upload(path):
            await client.send_files("POST", path, [FilePart(filename="a", content=b"x" * 50_000_000)])

        assert (await fault_of(client, upload)).kind == "timeout"


def reset(stream):
    """Close so that the other side gets a reset."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


@pytest.mark.parametrize("by_reset", [True, False])
@pytest.mark.parametrize("sent", ["", "head", "body"])
async def test_broken_off(serve, client_of, tmp_path, sent, by_reset):
    """Before, in and after the head, by a reset or a close: unreachable, and no half file."""

    async def break_off(stream):
        whole = reply(200, b"x" * 100_000, Content_Length=200_000)
        await stream.send_all({"": b"", "head": whole[:20], "body": whole}[sent])
        await trio.testing.wait_all_tasks_blocked()
        if by_reset:
            reset(stream)

    server = await serve([break_off, reply(200, {})])
    async with client_of(server) as client:

        async def download(path):
            await client.download(path, tmp_path / "f", max_bytes=10**7)

        assert (await fault_of(client, download, match="check the network")).kind == "unreachable"
        assert not list(tmp_path.iterdir())
        assert await client.get_json("/x") == {}
        assert client.link.fault is None


PAGE = b"<!DOCTYPE html><html>Please accept our terms</html>"


@pytest.mark.parametrize(
    "answer",
    [
        reply(200, PAGE, Content_Type="text/html; charset=utf-8"),
        reply(200, PAGE, Content_Type="application/json"),
        reply(200, b"SSH", Content_Type="application/json"),
        reply(200, b"[" * 100_000, Content_Type="application/json"),
        reply(200, b""),
        reply(302, b"", Location="http://portal.example/?from=loop"),
        reply(404, PAGE, Content_Type="text/html"),
        reply(403, PAGE),
        reply(511, PAGE),
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46\r\n\r\n",
    ],
    ids=range(11),
)
async def test_somebody_else_answers(serve, client_of, answer):
    """A captive portal, a redirect, no JSON, no HTTP: this is no Learning Loop."""

    async def answer_and_close(stream):
        await stream.send_all(answer)

    server = await serve([answer_and_close])
    async with client_of(server) as client:
        assert (await fault_of(client, match="is not a Learning Loop")).kind == "not_a_loop"
    assert len(server.requests) == 1


async def test_a_portal_swallows_no_upload_and_no_model(serve, client_of, tmp_path):
    """A page with status 200 is neither an acknowledgement nor a model."""
    server = await serve(lambda _: reply(200, PAGE, Content_Type="text/html"))
    async with client_of(server) as client:
        with pytest.raises(LoopUnavailable, match="is not a Learning Loop"):
            await client.send_files("POST", "/images", [FilePart(filename="a", content=b"x")])
        with pytest.raises(LoopUnavailable, match="is not a Learning Loop"):
            await client.download("/f", tmp_path / "f", max_bytes=10**6)
    assert not list(tmp_path.iterdir())


async def test_a_login_at_a_portal(serve, client_of):
    """The fault is the portal, not the password."""
    server = await serve([reply(302, b"", Location="/")])
    async with client_of(server, login=True) as client:
        assert (await fault_of(client)).kind == "not_a_loop"


@pytest.mark.parametrize(
    ("status", "kind"), [(500, "failed"), (502, "failed"), (503, "failed"), (429, "rate_limited"), (408, "timeout")]
)
async def test_a_loop_that_fails(serve, client_of, status, kind):
    """What it says of itself is in the sentence."""
    server = await serve([reply(status, {"detail": "database is\nlocked"})])
    async with client_of(server) as client:
        fault = await fault_of(client, match=f"HTTP {status}: database is locked")
        assert (fault.kind, fault.retry_after_s) == (kind, None)


@pytest.mark.parametrize("status", [429, 503])
async def test_how_long_to_wait(serve, client_of, status):
    """Retry-After in seconds and as a date; a date counts from the Loop's own clock, however wrong ours is."""
    their_now = NOW - 3650 * DAY
    later = format_datetime(their_now + dt.timedelta(seconds=40), usegmt=True)
    server = await serve(
        [
            reply(status, {}, Retry_After="7"),
            reply(status, {}, Retry_After=later, Date=format_datetime(their_now, usegmt=True)),
            reply(status, {}, Retry_After="soon"),
        ]
    )
    waits = []
    async with client_of(server) as client:
        for _ in range(3):
            with pytest.raises(LoopUnavailable) as error:
                await client.get_json("/x")
            waits.append(error.value.retry_after_s)
    assert waits == [7, 40, None]


async def test_a_trusted_authority_of_ones_own(serve, client_of, authority):
    """LOOP_SSL_CERT_PATH: the call works, the session's cookie too."""
    server = await serve(
        [reply(200, {}, Set_Cookie="s=1; Secure; Path=/"), reply(200, {"a": 1})], authority.issue_cert("127.0.0.1")
    )
    async with client_of(server, scheme="https", ca_file=authority.path, login=True) as client:
        assert await client.get_json("/x") == {"a": 1}
        assert client.session_cookies() == {"s": "1"}
    assert server.requests[1].headers["cookie"] == "s=1"


async def test_whom_the_system_trusts(serve, client_of, authority, usual_authority):
    """SSL_CERT_FILE is honoured, and LOOP_SSL_CERT_PATH adds to it."""
    server = await serve(lambda _: reply(200, {}), usual_authority.issue_cert("127.0.0.1"))
    for ca_file in (None, authority.path):
        async with client_of(server, scheme="https", ca_file=ca_file) as client:
            assert await client.get_json("/x") == {}


async def test_without_settings_the_public_authorities_are_trusted(monkeypatch, serve, client_of):
    """Also where a frozen executable finds no store of the system."""
    monkeypatch.delenv("SSL_CERT_FILE")
    async with open_loop_client(LoopAccess(url="https://loop.invalid")) as client:
        assert len(client.tls_context.get_ca_certs()) > 50
        assert client.tls_context.check_hostname


async def test_the_loops_own_certificate_is_enough(serve, client_of, authority, tmp_path):
    """LOOP_SSL_CERT_PATH may name the certificate of the Loop instead of its signer's."""
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "leaf.pem")
    server = await serve([reply(200, {})], certificate)
    async with client_of(server, scheme="https", ca_file=tmp_path / "leaf.pem") as client:
        assert await client.get_json("/x") == {}


async def test_an_unknown_authority(serve, client_of, authority):
    """`tls`, and the setting that cures it."""
    server = await serve([], authority.issue_cert("127.0.0.1"))
    async with client_of(server, scheme="https") as client:
        assert (await fault_of(client, match="LOOP_SSL_CERT_PATH")).kind == "tls"


async def test_a_certificate_for_another_name(serve, client_of, authority):
    """Host names are checked, also with an authority of one's own."""
    server = await serve([], authority.issue_cert("learning-loop.ai"))
    async with client_of(server, scheme="https", ca_file=authority.path) as client:
        assert (await fault_of(client, match="made for another name")).kind == "tls"


@pytest.mark.parametrize("dated", [True, False])
async def test_an_expired_certificate(serve, client_of, authority, dated):
    """The Loop's fault where its clock agrees with ours, or where it does not tell the time."""
    date = {"Date": format_datetime(NOW, usegmt=True)} if dated else {}
    certificate = authority.issue_cert("127.0.0.1", not_before=NOW - 9 * DAY, not_after=NOW - DAY)
    server = await serve(lambda _: reply(200, **date), certificate)
    async with client_of(server, scheme="https", ca_file=authority.path) as client:
        fault = await fault_of(client, match=f"has expired.*{NOW.date()}")
        assert fault.kind == "tls"


@pytest.mark.parametrize("years", [-10, 10])
async def test_our_clock_is_years_off(serve, client_of, authority, years):
    """Where the Loop's clock says so, a certificate out of its dates is the fault of ours: `clock`."""
    theirs = NOW - 365 * years * DAY
    certificate = authority.issue_cert("127.0.0.1", not_before=theirs - DAY, not_after=theirs + DAY)
    server = await serve(lambda _: reply(200, Date=format_datetime(theirs, usegmt=True)), certificate)
    async with client_of(server, scheme="https", ca_file=authority.path, login=True) as client:
        fault = await fault_of(client, match=f"clock of this computer says {NOW.date()}.*{theirs.date()}")
        assert fault.kind == "clock"
    assert [(request.method, request.body) for request in server.requests] == [("HEAD", b"")]
    assert "cookie" not in server.requests[0].headers


async def test_a_certificate_of_the_future(serve, client_of, authority):
    """Without a date of the Loop's to compare, the sentence names both cures."""
    certificate = authority.issue_cert("127.0.0.1", not_before=NOW + DAY, not_after=NOW + 9 * DAY)
    server = await serve(lambda _: reply(200), certificate)
    async with client_of(server, scheme="https", ca_file=authority.path) as client:
        assert (await fault_of(client, match="not valid yet: set the clock here")).kind == "tls"


async def test_https_asked_of_http(serve, client_of):
    """A Loop that speaks http only is told from one with a bad certificate."""

    async def plain(stream):
        await stream.receive_some()
        await stream.send_all(reply(400))

    server = await serve([], answer_early=plain)
    async with client_of(server, scheme="https") as client:
        assert (await fault_of(client, match="write http:// before the name")).kind == "tls"


async def test_a_clock_that_is_minutes_off(serve, client_of, caplog):
    """More than five minutes are worth one warning, and a figure in /about."""
    server = await serve(lambda _: reply(200, {}, Date=format_datetime(dt.datetime.now(dt.UTC), usegmt=True)))
    async with client_of(server, wall_clock=lambda: time.time() - 1200) as client:
        await client.get_json("/x")
        await client.get_json("/x")
        assert 1190 < client.link.snapshot()["clock_skew_s"] <= 1200
    assert caplog.text.count("differ by 20 minutes") == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_wants_a_login(serve, client_of, monkeypatch, scheme):
    """407, to a request as to CONNECT: `proxy`; its password is in no sentence."""
    server = await serve(lambda _: reply(407, PAGE, Content_Type="text/html"))
    monkeypatch.setenv(f"{scheme}_proxy", f"http://robot:hunter2@127.0.0.1:{server.port}")
    async with open_loop_client(LoopAccess(url=f"{scheme}://loop.example")) as client:
        fault = await fault_of(client, match="answered .*407.* check HTTP_PROXY and HTTPS_PROXY")
        assert fault.kind == "proxy"
        assert "hunter2" not in str(fault)


async def test_a_proxy_that_passes_on(serve, client_of, monkeypatch):
    """HTTP_PROXY is used, and NO_PROXY excepts from it."""
    server = await serve(lambda _: reply(200, {}))
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.port}")
    async with open_loop_client(LoopAccess(url="http://loop.example")) as client:
        assert await client.get_json("/x") == {}
    assert server.asked == ["GET http://loop.example/api/x"]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    async with client_of(server) as client:
        assert await client.get_json("/x") == {}
    assert server.asked[1:] == ["GET /api/x"]


@pytest.mark.parametrize("setting", ["HTTP_PROXY", "ALL_PROXY"])
async def test_a_proxy_that_is_down(monkeypatch, setting):
    """The sentence says that a proxy is involved, and which setting says so."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv(setting.lower(), f"http://robot:hunter2@127.0.0.1:{taken.getsockname()[1]}")
        async with open_loop_client(LoopAccess(url="http://loop.example")) as client:
            fault = await fault_of(client, match=f"through the proxy of {setting}")
            assert fault.kind == "refused"
            assert "hunter2" not in str(fault)
