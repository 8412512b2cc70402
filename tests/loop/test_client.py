"""REST calls against a real server: sessions, bodies in both directions, what a refusal says."""

import io
import logging

import pytest
import trio
from multipart import MultipartParser, parse_options_header

from loop_node.errors import LoopRefused, LoopUnavailable, SettingsError, StorageFull, TooLarge
from loop_node.logs import configure_logging
from loop_node.loop.client import LoopAccess, open_loop_client
from loop_node.loop.multipart import FilePart
from scripted import reply


def demand_session(valid):
    """A Loop whose sessions are named `s1`, `s2`, ...; `valid` holds the one that counts."""
    logins = []

    def script(request):
        if request.target == "/api/login":
            logins.append(request.body)
            valid[:] = [f"s{len(logins)}"]
            return reply(200, {}, Set_Cookie=f"session={valid[0]}; Path=/; HttpOnly")
        if valid and request.headers.get("cookie") == f"session={valid[0]}":
            return reply(200, {"hello": 1})
        return reply(401, {"detail": "log in"})

    return script


async def test_without_credentials_nobody_logs_in(serve, client_of):
    """Calls go as they are, and a 401 is a refusal, not a lost link."""
    server = await serve([reply(200, {"a": [1, 2.5, None]}), reply(401, {"detail": "log in"})])
    async with client_of(server) as client:
        assert await client.get_json("/status", params={"state": "a b&c"}) == {"a": [1, 2.5, None]}
        with pytest.raises(LoopRefused, match="401: log in") as refusal:
            await client.get_json("/status")
        assert (refusal.value.status, refusal.value.kind) == (401, "")
        assert client.link.fault is None
        assert client.session_cookies() == {}
    assert server.asked == ["GET /api/status?state=a+b%26c", "GET /api/status"]


async def test_a_login_precedes_the_first_call(serve, client_of):
    """As a form, once; its cookie goes with the calls and is there for the Socket.IO link."""
    server = await serve(demand_session([]))
    async with client_of(server, login=True) as client:
        assert await client.get_json("/projects") == {"hello": 1}
        assert await client.get_json("/projects") == {"hello": 1}
        assert client.session_cookies() == {"session": "s1"}
    assert server.asked == ["POST /api/login", "GET /api/projects", "GET /api/projects"]
    assert server.requests[0].body == b"username=robot&password=hunter2-secret"
    assert server.requests[0].headers["content-type"] == "application/x-www-form-urlencoded"
    assert "cookie" not in server.requests[0].headers


async def test_a_session_that_ended_is_opened_again_once(serve, client_of):
    """On 401: cookies cleared, one login, the call repeated, body and all."""
    valid = []
    server = await serve(demand_session(valid))
    async with client_of(server, login=True) as client:
        await client.login()
        valid[:] = ["expired"]
        assert await client.send_json("POST", "/detections", [1, 2]) == {"hello": 1}
        assert client.session_cookies() == {"session": "s2"}
    asked = ["POST /api/login", "POST /api/detections", "POST /api/login", "POST /api/detections"]
    assert server.asked == asked
    assert [request.body for request in server.requests[1::2]] == [b"[1,2]", b"[1,2]"]


async def test_a_login_that_does_not_help_is_not_repeated(serve, client_of):
    """Two 401 for the same call are a refusal."""
    server = await serve(lambda request: reply(200 if request.target == "/api/login" else 401, {}))
    async with client_of(server, login=True) as client:
        with pytest.raises(LoopRefused):
            await client.get_json("/x")
    assert server.asked == ["POST /api/login", "GET /api/x", "POST /api/login", "GET /api/x"]


async def test_concurrent_callers_share_one_login(serve, client_of):
    """At the start and when the session ends."""
    valid = []
    server = await serve(demand_session(valid))
    async with client_of(server, login=True) as client:
        for expected_logins in (1, 2):
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(client.get_json, "/x")
            assert server.asked.count("POST /api/login") == expected_logins
            valid[:] = ["expired"]


async def test_a_refused_login_is_asked_once_for_all_who_wait(serve, client_of):
    """A wrong password does not lock the account: eight callers, one attempt; each hears which setting is wrong."""
    server = await serve(lambda _: reply(401, {"detail": "Incorrect username or password"}))
    refusals = []

    async def call():
        with pytest.raises(LoopRefused, match=r"Incorrect username.*check LOOP_USERNAME") as refusal:
            await client.get_json("/x")
        refusals.append(refusal.value.kind)

    async with client_of(server, login=True) as client:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(call)
        assert client.link.fault.kind == "login"
    assert refusals == ["login"] * 8
    assert server.asked == ["POST /api/login"]


async def test_a_cancelled_login_is_taken_over(serve, client_of):
    """Who waits for a login that its caller gave up logs in himself."""
    hung = trio.Event()
    valid = []
    honest = demand_session(valid)

    async def hang(_stream):
        hung.set()
        await trio.sleep_forever()

    server = await serve(lambda request: honest(request) if hung.is_set() else hang)
    async with client_of(server, login=True) as client, trio.open_nursery() as nursery:
        impatient = trio.CancelScope()

        async def give_up():
            with impatient:
                await client.get_json("/x")

        nursery.start_soon(give_up)
        await hung.wait()
        nursery.start_soon(client.get_json, "/x")
        impatient.cancel()
    assert server.asked == ["POST /api/login", "POST /api/login", "GET /api/x"]


async def test_what_a_refusal_says(serve, client_of):
    """`detail` of JSON, else the beginning of the body, printable and short."""
    server = await serve(
        [
            reply(422, {"detail": [{"loc": ["files"]}]}),
            reply(413, b"<html>too\x1b[31m large</html>", Content_Type="text/html"),
            reply(409, b"x" * 100_000, Content_Type="text/plain"),
            reply(400),
        ]
    )
    async with client_of(server) as client:
        expected = [(422, '[{"loc":["files"]}]'), (413, "<html>too [31m large</html>"), (409, "x" * 300), (400, "")]
        for status, excerpt in expected:
            with pytest.raises(LoopRefused) as refusal:
                await client.send_json("POST", "/x", {})
            assert (refusal.value.status, refusal.value.excerpt) == (status, excerpt)


async def test_answers_to_what_was_sent(serve, client_of):
    """JSON is parsed, in chunks too; text is text, and nothing is None."""
    chunked = reply(200, Content_Length=None, Transfer_Encoding="chunked") + b'5\r\n{"a":\r\n3\r\n 1}\r\n0\r\n\r\n'
    server = await serve([chunked, reply(200, b"stored"), reply(204, Content_Length=None), reply(200)])
    async with client_of(server) as client:
        assert [await client.send_json("PUT", "/x", None) for _ in range(4)] == [{"a": 1}, "stored", None, None]


async def test_files_go_as_a_form(serve, client_of, tmp_path):
    """Parts in their order, from memory and from disk; names with ':' and umlauts are legal and keep their stems."""
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8" * 100_000)
    stem = "image_2026-11-23_02:34:25.998010"
    parts = [
        FilePart(filename=f"{stem}.json", content=b"{}", content_type="application/json"),
        FilePart(filename=f"{stem}.jpg", content=tmp_path / "a.jpg", content_type="image/jpeg"),
        FilePart(field="more", filename='Öl "1".bin', content=b""),
    ]
    progress = []
    server = await serve([reply(200, {"id": "m"})])
    async with client_of(server) as client:
        answer = await client.send_files(
            "POST", "/o/images", parts, fields={"tags": ["a", "b"]}, on_progress=lambda *sizes: progress.append(sizes)
        )
    assert answer == {"id": "m"}
    request = server.requests[0]
    boundary = parse_options_header(request.headers["content-type"])[1]["boundary"]
    received = MultipartParser(io.BytesIO(request.body), boundary, spool_limit=10**6).parts()
    assert [(part.name, part.filename) for part in received] == [
        ("tags", None),
        ("tags", None),
        ("files", "image_2026-11-23_02%3A34%3A25.998010.json"),
        ("files", "image_2026-11-23_02%3A34%3A25.998010.jpg"),
        ("more", '%C3%96l "1".bin'),  # browsers' way with quotes, which parsers undo
    ]
    assert b'filename="%C3%96l %221%22.bin"' in request.body
    assert [part.raw for part in received] == [b"a", b"b", b"{}", b"\xff\xd8" * 100_000, b""]
    assert [part.content_type for part in received[2:4]] == ["application/json", "image/jpeg"]
    assert progress[-1] == (len(request.body), len(request.body))


async def test_a_file_that_is_gone_is_the_callers_error(serve, client_of, tmp_path):
    """It is no fault of the link, and the next call works."""
    server = await serve([reply(200, {})])
    async with client_of(server) as client:
        with pytest.raises(FileNotFoundError):
            await client.send_files("POST", "/x", [FilePart(filename="a", content=tmp_path / "a")])
        assert client.link.fault is None
        assert await client.get_json("/x") == {}


async def test_a_loop_that_says_no_before_it_has_read_all(serve, client_of):
    """An early 413 is heard, though the rest of the body cannot be sent any more."""

    async def refuse(stream):
        await stream.receive_some()
        await stream.send_all(reply(413, {"detail": "too large"}, Connection="close"))
        with trio.move_on_after(1):
            while await stream.receive_some():
                pass

    server = await serve([], answer_early=refuse)
    async with client_of(server) as client:
        with pytest.raises(LoopRefused, match="413: too large"):
            await client.send_files("POST", "/x", [FilePart(filename="a", content=b"x" * 20_000_000)])


async def test_a_download(serve, client_of, tmp_path):
    """Streamed into a new file; the Loop's name for it is told, without folders, and not used."""
    body = bytes(range(256)) * 4096
    server = await serve([reply(200, body, Content_Disposition='attachment; filename="../../etc/model 1.zip"')])
    progress = []
    async with client_of(server) as client:
        download = await client.download(
            "/f", tmp_path / "here", max_bytes=len(body), on_progress=lambda *sizes: progress.append(sizes)
        )
    assert (download.filename, download.size_bytes) == ("model 1.zip", len(body))
    assert (tmp_path / "here").read_bytes() == body
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    assert progress[-1] == (len(body), len(body))


@pytest.mark.parametrize("announced", [True, False])
async def test_a_download_over_its_bound(serve, client_of, tmp_path, announced):
    """Whether it is announced or only comes: an error, no file, and the client goes on."""
    large = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"fffff\r\n" + b"x" * 0xFFFFF + b"\r\n"
    server = await serve([reply(200, b"x" * 1001) if announced else large, reply(200, {})])
    async with client_of(server) as client:
        with pytest.raises(TooLarge, match="1000 bytes"):
            await client.download("/f", tmp_path / "f", max_bytes=1000)
        assert not list(tmp_path.iterdir())
        assert await client.get_json("/x") == {}


async def test_a_download_never_overwrites(serve, client_of, tmp_path):
    """A file that is there already stays what it is."""
    (tmp_path / "f").write_bytes(b"mine")
    server = await serve([reply(200, b"theirs")])
    async with client_of(server) as client:
        with pytest.raises(FileExistsError):
            await client.download("/f", tmp_path / "f", max_bytes=1000)
    assert (tmp_path / "f").read_bytes() == b"mine"


async def test_a_download_to_a_full_disk(serve, client_of, tmp_path, monkeypatch):
    """The device that is always full: StorageFull, which names the cure, no file, and no lost link."""
    open_file = trio.open_file

    async def open_full(to, mode):
        to.touch(exist_ok=False)
        return await open_file("/dev/full", "wb")

    monkeypatch.setattr(trio, "open_file", open_full)
    server = await serve([reply(200, b"x" * 100_000)])
    async with client_of(server) as client:
        with pytest.raises(StorageFull, match="free some disk space"):
            await client.download("/f", tmp_path / "f", max_bytes=100_000)
        assert not list(tmp_path.iterdir())
        assert client.link.fault is None


async def test_a_cancelled_download_leaves_no_file(serve, client_of, tmp_path):
    """Nor a connection that the next call would stumble over."""

    async def half(stream):
        await stream.send_all(reply(200, b"x" * 1000, Content_Length=2000))
        await trio.sleep_forever()

    server = await serve([half, reply(200, {})])
    async with client_of(server) as client:
        with trio.CancelScope() as scope:
            await client.download("/f", tmp_path / "f", max_bytes=10_000, on_progress=lambda *_: scope.cancel())
        assert scope.cancelled_caught
        assert not list(tmp_path.iterdir())
        assert await client.get_json("/x") == {}


async def test_no_secret_reaches_the_log(serve, client_of):
    """Neither the password nor a cookie, at DEBUG, whatever httpx has to say."""
    stream = io.StringIO()
    configure_logging("DEBUG", "console", stream, secrets=["hunter2-secret"])
    logging.getLogger("loop_node").setLevel(logging.DEBUG)
    try:
        valid = []
        server = await serve(demand_session(valid))
        async with client_of(server, login=True) as client:
            await client.get_json("/x")
            valid[:] = ["expired"]
            await client.get_json("/x")
        server.script = lambda _: reply(401, {"detail": "no robot with hunter2-secret"}, Set_Cookie="session=s9")
        async with client_of(server, login=True) as client:
            with pytest.raises(LoopRefused):
                await client.get_json("/x")
            assert "hunter2" not in client.link.snapshot()["reason"]
    finally:
        configure_logging("WARNING", "console", io.StringIO())
    assert "out of reach (login)" in stream.getvalue()
    for secret in ("hunter2", "session=", "s9"):
        assert secret not in stream.getvalue()
    assert "hunter2" not in repr(
        LoopAccess(url="http://x", username="u", password="hunter2-secret")
    )  # the test is about it


async def test_settings_that_cannot_be_used(tmp_path, monkeypatch):
    """Certificates that are none, and a proxy of an unknown kind, are faults of the settings, without its password."""
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(SettingsError, match="LOOP_SSL_CERT_PATH"):
        async with open_loop_client(LoopAccess(url="http://x", ca_file=tmp_path / "ca.pem")):
            pass
    monkeypatch.setenv("HTTP_PROXY", "gopher://u:hunter2@x")
    with pytest.raises(SettingsError, match="HTTP_PROXY") as fault:
        async with open_loop_client(LoopAccess(url="http://x")):
            pass
    assert "hunter2" not in str(fault.value)
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    with pytest.raises(SettingsError, match="SSL_CERT_FILE"):
        async with open_loop_client(LoopAccess(url="http://x")):
            pass


async def test_too_much_json(serve, client_of, monkeypatch):
    """An answer that does not end is cut off at the bound."""
    monkeypatch.setattr("loop_node.loop.exchange.MAX_ANSWER_BYTES", 1000)
    server = await serve([reply(200, list(range(1000)))])
    async with client_of(server) as client:
        with pytest.raises(LoopUnavailable, match="more than 1000 bytes") as error:
            await client.get_json("/x")
    assert error.value.kind == "failed"
