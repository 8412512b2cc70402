import json
from contextlib import asynccontextmanager

import httpx
import pytest
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, wrap_client_stream

from loop_node.errors import InputError
from loop_node.socketio.client import open_socketio
from loop_node.socketio.engineio import encode_payload, iter_payload
from loop_node.socketio.limits import Limits
from loop_node.socketio.session import bare_exception

PATH = "/ws/socket.io"
QUERY = {"EIO": "4", "transport": "polling"}


async def echo(_peer, *args):
    return args


class Polling:
    """A long-polling client of a few lines, to say what no real client would."""

    def __init__(self, http, url):
        self.http = http
        self.url = url
        self.params = dict(QUERY)

    async def open(self, path=PATH + "/"):
        self.path = path
        [frame] = await self.get()
        self.params["sid"] = json.loads(frame[1:])["sid"]
        await self.post("40")
        assert (await self.get())[0].startswith("40{")
        return self

    async def get(self):
        response = await self.http.get(self.url + self.path, params=self.params)
        response.raise_for_status()
        return list(iter_payload(response.content))

    async def post(self, *frames):
        response = await self.http.post(self.url + self.path, params=self.params, content=encode_payload(frames))
        return response.raise_for_status()


@asynccontextmanager
async def websocket(url, path=PATH + "/", extra="", headers=()):
    """A bare websocket, which closes its socket also when the server has ended it or refuses it."""
    port = int(url.rpartition(":")[2])
    with bare_exception():
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream, trio.open_nursery() as nursery:
            resource = f"{path}?EIO=4&transport=websocket{extra}"
            ws = await wrap_client_stream(nursery, stream, f"127.0.0.1:{port}", resource, extra_headers=list(headers))
            yield ws
            await ws.aclose()


@asynccontextmanager
async def raw_websocket(port):
    """A client that connects by hand and then reads nothing any more."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(
            b"GET /ws/socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
            b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert b" 101 " in await stream.receive_some(1000)
        await stream.send_all(b"\x81\x82\0\0\0\x0040")
        yield stream


async def connect(ws):
    assert (await ws.get_message()).startswith("0{")
    await ws.send_message("40")
    assert (await ws.get_message()).startswith('40{"sid":')


@pytest.mark.parametrize("path", [PATH, PATH + "/"])
async def test_polling_with_and_without_slash(serve, path):
    """Several packets in one body, bytes as base64, and the ack, at both spellings of the path."""
    async with serve({"echo": echo}) as served, httpx.AsyncClient() as http:
        client = await Polling(http, served.url).open(path)
        await client.post('42["nobody"]', '451-7["echo",{"_placeholder":true,"num":0}]', b"\x00\x01")
        assert await client.get() == ['461-7[{"_placeholder":true,"num":0}]', b"\x00\x01"]


async def test_open_packet_announces_the_limits(serve):
    """The numbers that clients of the reference server know."""
    async with serve({}) as served, httpx.AsyncClient() as http:
        response = await http.get(served.url + PATH + "/", params=QUERY)
        assert response.headers["content-type"] == "text/plain; charset=UTF-8"
        opened = json.loads(response.text[1:])
        del opened["sid"]
        assert opened == {
            "upgrades": ["websocket"],
            "pingInterval": 25000,
            "pingTimeout": 20000,
            "maxPayload": 67108864,
        }


@pytest.mark.parametrize("path", [PATH, PATH + "/"])
async def test_websocket_with_and_without_slash(serve, path):
    """A direct websocket connect at both spellings; an empty attachment arrives as one."""
    async with serve({"echo": echo}) as served, websocket(served.url, path) as ws:
        await connect(ws)
        await ws.send_message('451-1["echo",{"_placeholder":true,"num":0}]')
        await ws.send_message(b"")
        assert await ws.get_message() == '461-1[{"_placeholder":true,"num":0}]'
        assert await ws.get_message() == b""


async def test_upgrade_frees_the_pending_poll(serve, until):
    """The probe answers the waiting GET with NOOP; afterwards the websocket carries the acks."""
    async with serve({"echo": echo}) as served, httpx.AsyncClient() as http, trio.open_nursery() as nursery:
        client = await Polling(http, served.url).open()
        polled = []

        async def poll():
            polled.extend(await client.get())

        nursery.start_soon(poll)
        async with websocket(served.url, extra="&sid=" + client.params["sid"]) as ws:
            await ws.send_message("2probe")
            assert await ws.get_message() == "3probe"
            await until(lambda: polled)
            await ws.send_message("5")
            await ws.send_message('421["echo",2]')
            assert await ws.get_message() == "431[2]"
        assert polled == ["6"]


async def test_a_failed_upgrade_leaves_polling(serve, until):
    """A websocket that goes away after the probe does not take the peer along."""
    async with serve({"echo": echo}) as served, httpx.AsyncClient() as http:
        client = await Polling(http, served.url).open()
        async with websocket(served.url, extra="&sid=" + client.params["sid"]) as ws:
            await ws.send_message("2probe")
            assert await ws.get_message() == "3probe"
        await until(lambda: served.server.peers)
        await client.post('421["echo",2]')
        answers = []
        while "431[2]" not in answers:
            answers = await client.get()


@pytest.mark.parametrize(
    ("params", "status", "message"),
    [
        ({"EIO": "3", "transport": "polling"}, 400, "Unsupported protocol version"),
        ({"EIO": "4", "transport": "carrier-pigeon"}, 400, "Transport unknown"),
        ({"EIO": "4", "transport": "polling", "sid": "nobody"}, 400, "Session ID unknown"),
        ({}, 400, "Transport unknown"),
    ],
)
async def test_bad_requests(serve, params, status, message):
    """What is not Engine.IO 4 is answered with a status and a reason."""
    async with serve({}) as served, httpx.AsyncClient() as http:
        response = await http.get(served.url + PATH, params=params)
        assert response.status_code == status
        assert message in response.json()["message"]
        assert (await http.post(served.url + PATH, params=QUERY)).status_code == 400


async def test_bad_websockets(serve):
    """The same for a websocket, before it is accepted."""
    async with serve({}) as served:
        with pytest.raises(ConnectionRejected) as rejection:
            async with websocket(served.url, extra="&sid=nobody"):
                pass
        assert rejection.value.status_code == 400


async def test_foreign_origins_are_refused(serve):
    """No Origin and our own are fine, a listed one gets the CORS headers, any other status 400."""
    async with serve({}, allowed_origins=["https://hmi.example"]) as served, httpx.AsyncClient() as http:

        async def ask(origin, method="GET"):
            return await http.request(method, served.url + PATH, params=QUERY, headers={"Origin": origin})

        assert (await ask(served.url)).status_code == 200
        listed = await ask("https://hmi.example")
        assert listed.status_code == 200
        assert listed.headers["access-control-allow-origin"] == "https://hmi.example"
        assert (await ask("https://hmi.example", "OPTIONS")).status_code == 204
        for foreign in ("https://evil.example", "null", "http://127.0.0.1:1"):
            refused = await ask(foreign)
            assert refused.status_code == 400
            assert refused.json()["message"] == f"{foreign} is not an accepted origin."
            assert "access-control-allow-origin" not in refused.headers
        with pytest.raises(ConnectionRejected):
            async with websocket(served.url, headers=[(b"Origin", b"https://evil.example")]):
                pass


async def test_unknown_events_are_acked_with_an_error(serve):
    """Who asks for an ack is told that there is no such event; who does not is not answered."""
    async with serve({"echo": echo}) as served, websocket(served.url) as ws:
        await connect(ws)
        await ws.send_message('42["nothing"]')
        await ws.send_message('421["nothing"]')
        assert await ws.get_message() == '431[{"error":"unknown event nothing"}]'


async def test_handler_errors_become_acks_and_log_lines(serve, caplog):
    """A fault is logged with a traceback, a client's mistake with its text; the peer lives on."""

    async def crash(_peer):
        raise RuntimeError("secret detail")

    async def refuse(_peer):
        raise InputError("the field x is missing")

    async def unsendable(_peer):
        return object()

    async def needs_one(_peer, data):
        return data

    handlers = {"crash": crash, "refuse": refuse, "unsendable": unsendable, "needs_one": needs_one}
    async with serve(handlers) as served, open_socketio(served.url) as client:
        assert await client.call("crash") == {"error": "event crash failed: RuntimeError, see this node's log"}
        assert await client.call("refuse") == {"error": "the field x is missing"}
        assert "the answer cannot be sent" in (await client.call("unsendable"))["error"]
        assert await client.call("needs_one") == {"error": "event needs_one: missing a required argument: 'data'"}
        assert await client.call("needs_one", 3) == 3
    assert "Traceback" in caplog.text
    assert "secret detail" in caplog.text


async def test_error_acks_have_the_form_of_the_caller(serve):
    """The form of an error ack is for the one who opens the server to say."""

    def error_ack(event, message):
        return {"error": message, "event": event}

    async with serve({}, error_ack=error_ack) as served, open_socketio(served.url) as client:
        assert await client.call("x") == {"error": "unknown event x", "event": "x"}


async def test_ack_forms(serve):
    """None acks nothing, a tuple several values, all else one."""
    answers = {"none": None, "tuple": (1, 2), "list": [1, 2], "empty": ()}

    async def answer(_peer, name):
        return answers[name]

    async with serve({"answer": answer}) as served, websocket(served.url) as ws:
        await connect(ws)
        for name, expected in {"none": "[]", "tuple": "[1,2]", "list": "[[1,2]]", "empty": "[]"}.items():
            await ws.send_message(f'421["answer","{name}"]')
            assert await ws.get_message() == f"431{expected}"


async def test_server_calls_its_peer_and_is_told_of_the_end(serve, until):
    """Headers reach the connect handler, `call` reaches the client, the disconnect handler is told once."""
    seen = []

    async def on_connect(peer, auth):
        seen.append((peer.headers["organization"], peer.headers["cookie"], auth))

    async def on_disconnect(_peer, reason):
        seen.append(reason)

    async def double(_peer, number):
        return 2 * number

    async with serve({}, on_connect=on_connect, on_disconnect=on_disconnect) as served:
        async with open_socketio(
            served.url, handlers={"double": double}, headers={"organization": "zauberzeug"}, cookies={"a": "b"}, auth={}
        ):
            [peer] = served.server.peers
            assert await peer.call("double", 21) == 42
        await until(lambda: len(seen) == 2)
    assert seen == [("zauberzeug", "a=b", {}), "the client has said goodbye"]


async def test_connect_handler_refuses(serve):
    """A refusal reaches the client as such, and so does a crash of the connect handler."""

    async def on_connect(_peer, auth):
        return "who are you?" if auth is None else auth["missing"]

    async with serve({}, on_connect=on_connect) as served:
        with pytest.raises(ConnectionRefusedError, match="who are you"):
            async with open_socketio(served.url):
                pass
        with pytest.raises(ConnectionRefusedError, match="internal error"):
            async with open_socketio(served.url, auth={}):
                pass


async def test_server_disconnects_a_peer(serve):
    """The client learns that the server has said goodbye, after the events sent before."""
    got = []

    async def last(_peer, value):
        got.append(value)

    async with serve({}) as served:
        with pytest.raises(ConnectionError, match="server has disconnected us"):
            async with open_socketio(served.url, handlers={"last": last}):
                [peer] = served.server.peers
                await peer.emit("last", 1)
                await peer.disconnect()
                assert not peer.connected
                with pytest.raises(ConnectionError):
                    await peer.emit("last", 2)
                await trio.sleep_forever()
        assert got == [1]


async def test_polling_peer_is_disconnected(serve):
    """Goodbye and close come with the poll, and then the session is unknown."""
    async with serve({}) as served, httpx.AsyncClient() as http, trio.open_nursery() as nursery:
        client = await Polling(http, served.url).open()
        nursery.start_soon(served.server.peers[0].disconnect)
        frames = []
        while "1" not in frames:
            frames += await client.get()
        assert frames == ["41", "1"]
        with pytest.raises(httpx.HTTPStatusError, match="400"):
            await client.get()


@pytest.mark.parametrize("transport", ["polling", "websocket"])
async def test_dead_peers_are_dropped(serve, until, transport, quick_limits):
    """A client that answers no ping is gone after pingInterval + pingTimeout."""
    async with serve({}, limits=quick_limits) as served, httpx.AsyncClient() as http:
        if transport == "polling":
            await Polling(http, served.url).open()
            await until(lambda: not served.server.peers, 2)
            return
        async with websocket(served.url) as ws:
            await connect(ws)
            began = trio.current_time()
            assert await ws.get_message() == "2"
            with pytest.raises(ConnectionClosed):
                while True:
                    assert await ws.get_message() == "2"
            assert 0.4 < trio.current_time() - began + 0.2 < 2


async def test_a_client_that_never_connects_is_dropped(serve, quick_limits):
    """Pongs alone do not keep a transport that never says CONNECT."""
    async with serve({}, limits=quick_limits) as served, websocket(served.url) as ws:
        with pytest.raises(ConnectionClosed):
            while True:
                if await ws.get_message() == "2":
                    await ws.send_message("3")


@pytest.mark.parametrize("frames", [["9"], ["42[]"], [b"x"], ['452-["a"]', b"x", '42["a"]'], ["40"]])
async def test_peers_out_of_line_are_dropped_alone(serve, frames, caplog):
    """Broken packets cost their sender the connection, with a reason in the log, and nobody else."""
    async with serve({"echo": echo}) as served, open_socketio(served.url) as other:
        async with websocket(served.url) as ws:
            await connect(ws)
            for frame in frames:
                await ws.send_message(frame)
            with pytest.raises(ConnectionClosed):
                await ws.get_message()
        assert await other.call("echo", 1) == 1
    assert "is dropped: " in caplog.text


async def test_two_polls_at_a_time_drop_the_peer(serve, until):
    """A session has one GET and one POST at a time, as the protocol says."""
    async with serve({}) as served, httpx.AsyncClient() as http, trio.open_nursery() as nursery:
        client = await Polling(http, served.url).open()
        answered = []

        async def poll():
            response = await http.get(served.url + PATH, params=client.params)
            answered.append(response.status_code)

        nursery.start_soon(poll)
        nursery.start_soon(poll)
        await until(lambda: len(answered) == 2)
        assert sorted(answered) == [200, 400]
        assert not served.server.peers


async def test_too_many_peers(serve, until):
    """The peer over the limit is told to come later; a place freed can be taken."""
    async with serve({"echo": echo}, limits=Limits(max_peers=1)) as served, httpx.AsyncClient() as http:
        async with open_socketio(served.url):
            assert (await http.get(served.url + PATH, params=QUERY)).status_code == 503
            with pytest.raises(ConnectionRefusedError, match="503"):
                async with open_socketio(served.url):
                    pass
        await until(lambda: not served.server.peers)
        async with open_socketio(served.url) as client:
            assert await client.call("echo", 1) == 1


async def test_a_websocket_message_of_64_mib_passes_and_one_byte_more_does_not(serve, until, caplog):
    """The bound is exact; what is over it costs its sender the connection, with a reason in the log."""

    async def size(_peer, data):
        return len(data)

    limit = 67_108_864
    async with serve({"size": size}) as served, open_socketio(served.url) as other:
        async with websocket(served.url) as ws:
            await connect(ws)
            await ws.send_message('451-1["size",{"_placeholder":true,"num":0}]')
            await ws.send_message(bytes(limit))
            assert await ws.get_message() == f"431[{limit}]"
            await ws.send_message('451-2["size",{"_placeholder":true,"num":0}]')
            with pytest.raises(ConnectionClosed) as closed:
                await ws.send_message(bytes(limit + 1))
                await ws.get_message()
            assert closed.value.reason.code == 1009
        await until(lambda: len(served.server.peers) == 1)
        assert await other.call("size", b"123") == 3
    assert "larger than allowed" in caplog.text


async def test_a_polling_body_over_the_limit_drops_the_peer(serve, caplog):
    """Too large a body is answered 413 and the session is over."""
    limits = Limits(max_payload_bytes=300_000)
    async with serve({}, limits=limits) as served, httpx.AsyncClient() as http:
        client = await Polling(http, served.url).open()
        request = f"POST {PATH}/?EIO=4&transport=polling&sid={client.params['sid']} HTTP/1.1\r\n"
        async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
            await stream.send_all(f"{request}Host: x\r\nContent-Length: 500000\r\n\r\n".encode())
            assert b" 413 " in await stream.receive_some()
        assert not served.server.peers
    assert "is dropped: a polling body is larger" in caplog.text


async def test_a_polling_client_killed_mid_message(serve, until, caplog):
    """A body that breaks off ends its session at once: the client is out of step."""
    async with serve({}) as served, httpx.AsyncClient() as http:
        client = await Polling(http, served.url).open()
        request = f"POST {PATH}/?EIO=4&transport=polling&sid={client.params['sid']} HTTP/1.1\r\n"
        async with await trio.open_tcp_stream("127.0.0.1", served.port) as stream:
            await stream.send_all(f"{request}Host: x\r\nContent-Length: 500000\r\n\r\n42[".encode())
        await until(lambda: not served.server.peers)
    assert "is dropped: a polling body broke off" in caplog.text


async def test_handlers_begin_in_the_order_of_their_events(serve, until):
    """Handlers run side by side, but none begins before those of earlier events."""
    begun = []

    async def note(_peer, number):
        begun.append(number)
        await trio.lowlevel.checkpoint()

    async with serve({"note": note}) as served, open_socketio(served.url) as client:
        for number in range(100):
            await client.emit("note", number)
        await until(lambda: len(begun) == 100)
    assert begun == list(range(100))


async def test_handlers_of_a_peer_are_bounded(serve, until):
    """With all handlers busy the peer is not read any further, and goes on when one is free."""
    free = trio.Event()
    running = []

    async def busy(_peer, number):
        running.append(number)
        await free.wait()

    limits = Limits(max_handlers=2)
    async with serve({"busy": busy}, limits=limits) as served, open_socketio(served.url) as client:
        for number in range(5):
            await client.emit("busy", number)
        await until(lambda: len(running) == 2)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert sorted(running) == [0, 1]
        free.set()
        await until(lambda: len(running) == 5)


async def test_what_a_busy_server_takes_from_a_client_is_bounded(serve):
    """A client that sends without end is held back by its own socket, far below what it would like to send."""

    async def busy(_peer, _data):
        await trio.sleep_forever()

    size = 1_000_000
    limits = Limits(max_payload_bytes=size, max_packet_bytes=2 * size, max_handler_bytes=2 * size, handler_grace_s=0.1)
    header = b'451-["busy",{"_placeholder":true,"num":0}]'
    frames = b"\x81" + bytes([0x80 | len(header)]) + bytes(4) + header
    frames += b"\x82\xff" + size.to_bytes(8, "big") + bytes(4) + bytes(size)
    sent = 0
    async with serve({"busy": busy}, limits=limits) as served, raw_websocket(served.port) as stream:
        held_back = False
        while not held_back:
            with trio.move_on_after(0.5) as scope:
                await stream.send_all(frames)
                sent += size
            held_back = scope.cancelled_caught
            assert sent < 40 * size  # the kernel's buffers are the larger part


async def test_waiting_for_handlers_kills_no_peer(serve, quick_limits):
    """A peer whose pongs are not read because its handlers are busy is not taken for dead."""
    free = trio.Event()

    async def busy(_peer):
        await free.wait()
        return "done"

    async with serve({"busy": busy}, limits=quick_limits) as served, open_socketio(served.url) as client:
        async with trio.open_nursery() as nursery:
            for _ in range(quick_limits.max_handlers + 2):
                nursery.start_soon(client.call, "busy")
            await trio.sleep(1)  # twice what a silent peer is given
            free.set()
        assert len(served.server.peers) == 1


async def test_events_before_a_disconnect_are_handled(serve, until):
    """What a client has sent before it leaves is handled to the end, also when the handler takes its time."""
    done = []
    free = trio.Event()

    async def upload(_peer, number):
        await free.wait()
        done.append(number)

    async with serve({"upload": upload}) as served:
        async with open_socketio(served.url) as client:
            for number in range(4):
                await client.emit("upload", number)
        await until(lambda: not served.server.peers)
        free.set()
        await until(lambda: len(done) == 4)
    assert sorted(done) == [0, 1, 2, 3]


async def test_handlers_get_a_grace_and_no_more(serve, quick_limits):
    """A handler that outlives its peer is cancelled after `handler_grace_s`."""
    ended = trio.Event()

    async def endless(_peer):
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with serve({"endless": endless}, limits=quick_limits) as served:
        async with open_socketio(served.url) as client:
            await client.emit("endless")
        with trio.fail_after(3):
            await ended.wait()


async def test_a_slow_reader_is_held_back_then_dropped(serve, until):
    """Events for a client that does not read pile up to the bound, then the sender waits, then the client is dropped."""
    limits = Limits(max_outgoing_bytes=1_000_000, stall_s=0.5, ping_timeout_s=0.5)
    gone = []

    async def on_disconnect(_peer, reason):
        gone.append(reason)

    async with serve({}, limits=limits, stall_s=0.5, on_disconnect=on_disconnect) as served:
        async with raw_websocket(served.port):
            await until(lambda: served.server.peers)
            [peer] = served.server.peers
            sent = 0
            with trio.fail_after(10), pytest.raises(ConnectionError):
                while True:
                    await peer.emit("image", bytes(500_000))
                    sent += 500_000
        await until(lambda: gone)
        assert sent < 20_000_000
        await until(lambda: not served.server.peers)


async def test_a_connection_that_takes_nothing_is_broken(serve, until):
    """Not even hypercorn's shielded sending keeps a dead connection: the view ends and the port can be closed."""
    async with serve({}, stall_s=0.3) as served, raw_websocket(served.port):
        await until(lambda: served.server.peers)
        await served.server.peers[0].emit("image", bytes(20_000_000))
        await until(lambda: not served.server.peers, 5)


async def test_compression_is_declined(serve):
    """A client that offers permessage-deflate is not given it."""
    offer = [(b"Sec-WebSocket-Extensions", b"permessage-deflate; client_max_window_bits")]
    async with serve({}) as served, websocket(served.url, headers=offer) as ws:
        assert b"sec-websocket-extensions" not in dict(ws.handshake_headers)


async def test_closing_the_server_closes_every_peer(serve):
    """Leaving the context tells the disconnect handler of each peer, in a bounded time."""
    gone = []

    async def on_disconnect(_peer, reason):
        await trio.lowlevel.checkpoint()
        gone.append(reason)

    async with trio.open_nursery() as nursery:  # noqa: SIM117 # the server closes before the client's task ends
        async with serve({}, on_disconnect=on_disconnect) as served:
            ready = trio.Event()

            async def client():
                with pytest.raises(ConnectionError, match="is lost"):
                    async with open_socketio(served.url):
                        ready.set()
                        await trio.sleep_forever()

            nursery.start_soon(client)
            await ready.wait()
    assert len(gone) == 1


async def test_finishing_answers_what_is_in_hand_and_says_no_goodbye(serve):
    """A call that runs is answered; then the link is lost, which clients take for a reason to come back."""
    begun, go_on = trio.Event(), trio.Event()

    async def slow(_peer):
        begun.set()
        await go_on.wait()
        return "done"

    async with serve({"slow": slow}) as served, open_socketio(served.url) as peer, trio.open_nursery() as nursery:
        answers = []

        async def call():
            answers.append(await peer.call("slow"))

        nursery.start_soon(call)
        await begun.wait()
        nursery.start_soon(served.server.finish)
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
        with trio.fail_after(5):
            await peer.wait_closed()
        assert answers == ["done"]
        assert "goodbye" not in peer.protocol.reason


async def test_finishing_takes_no_more_events(serve):
    """A client that asks without end does not hold up the end."""

    async def quick(_peer):
        return "done"

    async with serve({"quick": quick}) as served, open_socketio(served.url) as peer, trio.open_nursery() as nursery:

        async def ask_for_ever():
            with pytest.raises(ConnectionError):
                while True:
                    await peer.call("quick")

        for _ in range(3):
            nursery.start_soon(ask_for_ever)
        await peer.call("quick")
        with trio.fail_after(5):
            await served.server.finish()
            await peer.wait_closed()


async def test_a_handlers_nursery_that_fails_while_it_is_cancelled_harms_nobody(serve, quick_limits, caplog):
    """Errors beside a cancellation come as a group that `except Exception` does not catch."""
    begun = trio.Event()

    async def fails_late():
        try:
            begun.set()
            await trio.sleep_forever()
        finally:
            raise ZeroDivisionError

    async def nested(_peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails_late)
            nursery.start_soon(trio.sleep_forever)

    async def ping(_peer):
        return "pong"

    async with (
        serve({"nested": nested, "ping": ping}, limits=quick_limits) as served,
        open_socketio(served.url) as other,
    ):
        async with open_socketio(served.url) as peer:
            await peer.emit("nested")
            await begun.wait()
        with trio.fail_after(5):
            while "ZeroDivisionError" not in caplog.text:
                await trio.sleep(0.01)
        assert await other.call("ping") == "pong"
