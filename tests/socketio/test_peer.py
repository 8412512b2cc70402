import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_node.errors import ProtocolError, TooLarge
from loop_node.socketio.engineio import Handshake, encode_payload, iter_payload
from loop_node.socketio.limits import Limits
from loop_node.socketio.peer import (
    Acked,
    Connected,
    ConnectRequested,
    EventReceived,
    PeerProtocol,
    Refused,
    Transport,
)

LIMITS = Limits()
TINY = Limits(max_payload_bytes=1000, max_outgoing_bytes=2000, max_outgoing_frames=10)


def server(limits=LIMITS, transport=Transport.WEBSOCKET, now=0.0):
    handshake = Handshake(
        sid="e",
        ping_interval_s=limits.ping_interval_s,
        ping_timeout_s=limits.ping_timeout_s,
        max_payload_bytes=limits.max_payload_bytes,
    )
    return PeerProtocol(limits, now, handshake=handshake, transport=transport)


def carry(source, target, now=0.0):
    return [event for frame in source.take_frames(100) if (event := target.receive(frame, now)) is not None]


def connected_pair(limits=LIMITS):
    ours, theirs = server(limits), PeerProtocol(limits, 0.0)
    assert carry(ours, theirs) == []
    assert carry(theirs, ours) == [ConnectRequested(None)]
    ours.accept("s")
    assert carry(ours, theirs) == [Connected("s")]
    return ours, theirs


def connected_server(limits=LIMITS):
    return connected_pair(limits)[0]


def test_connect_carries_auth_and_sid():
    """The handshake, the client's auth and the server's sid go where they belong."""
    ours, theirs = server(), PeerProtocol(LIMITS, 0.0, auth={"token": "t"})
    carry(ours, theirs)
    assert carry(theirs, ours) == [ConnectRequested({"token": "t"})]
    assert not ours.connected
    ours.accept("s")
    assert ours.connected
    assert carry(ours, theirs) == [Connected("s")]
    assert theirs.connected


def test_refusal_reaches_the_client_and_can_be_tried_again():
    """A refused client is told why; the transport stands until its time to connect is over."""
    ours, theirs = server(), PeerProtocol(LIMITS, 0.0)
    carry(ours, theirs)
    carry(theirs, ours)
    ours.refuse("not you")
    assert carry(ours, theirs) == [Refused("not you")]
    assert ours.receive("40", 1.0) == ConnectRequested(None)
    assert ours.deadline <= LIMITS.connect_timeout_s


def test_other_namespaces_are_refused_politely():
    """Only / is served; asking for another does no harm to the rest."""
    ours = connected_server()
    assert ours.receive("40/admin,", 0.0) is None
    assert ours.receive('42/admin,1["x"]', 0.0) is None
    [answer] = ours.take_frames()
    assert answer.startswith('44/admin,{"message":"there is no namespace /admin')
    assert ours.connected


@pytest.mark.parametrize("from_client", [True, False])
def test_events_and_acks_both_ways(from_client):
    """An event with bytes arrives and its ack comes back, in both directions."""
    ours, theirs = connected_pair()
    source, target = (theirs, ours) if from_client else (ours, theirs)
    ack_id = source.begin_ack()
    source.send(source.encode_event("e", [{"image": b"\x00" * 10}, 1], ack_id))
    [event] = carry(source, target)
    assert event == EventReceived("e", [{"image": b"\x00" * 10}, 1], ack_id, event.size_bytes)
    assert event.size_bytes > 10
    target.send(target.encode_ack(event.ack_id, [b"ok"]))
    assert carry(target, source) == [Acked(ack_id, [b"ok"])]


def test_acks_nobody_waits_for_are_dropped():
    """An unasked, repeated or late ack is no event."""
    ours = connected_server()
    ack_id = ours.begin_ack()
    assert ours.receive("439[1]", 0.0) is None
    assert ours.receive(f"43{ack_id}[1]", 0.0) == Acked(ack_id, [1])
    assert ours.receive(f"43{ack_id}[1]", 0.0) is None
    late = ours.begin_ack()
    ours.forget_ack(late)
    assert ours.receive(f"43{late}[1]", 0.0) is None


def test_events_before_connect_and_after_goodbye_are_dropped():
    """Only between CONNECT and DISCONNECT do events count."""
    ours = server()
    assert ours.receive('42["e"]', 0.0) is None
    ours.receive("40", 0.0)
    ours.accept("s")
    ours.receive("41", 0.0)
    assert ours.receive('42["e"]', 0.0) is None
    assert not ours.connected
    with pytest.raises(ConnectionError, match="client has said goodbye"):
        ours.send(ours.encode_event("e", []))


@pytest.mark.parametrize(
    "frames",
    [["40", "40"], ["0{}"], ["2"], ["5"], ["44{}"], ["4"], ["9"], [b"x"], ["x"], [""]],
)
def test_clients_out_of_line(frames):
    """What only a server may say, or may be said once, is a ProtocolError."""
    ours = server()
    with pytest.raises(ProtocolError):
        for frame in frames:
            if isinstance(ours.receive(frame, 0.0), ConnectRequested):
                ours.accept("s")


@pytest.mark.parametrize("frames", [["40"], ["0{}"], ['0{"sid":"x","pingInterval":1,"pingTimeout":1}', "40"], [b"x"]])
def test_servers_out_of_line(frames):
    """A client knows a server that speaks something else."""
    theirs = PeerProtocol(LIMITS, 0.0)
    with pytest.raises(ProtocolError):
        for frame in frames:
            theirs.receive(frame, 0.0)


# time


def test_ping_and_pong_keep_a_peer():
    """The server pings every interval for as long as something comes back."""
    ours, theirs = connected_pair()
    now = 0.0
    for _ in range(10):
        now = ours.deadline
        assert ours.tick(now)
        carry(ours, theirs, now)
        carry(theirs, ours, now)
        assert theirs.deadline == now + 45
    assert now == 250
    assert ours.connected


def test_a_silent_client_is_dead_after_interval_and_timeout():
    """Without a sign of life the peer is closed at pingInterval + pingTimeout, not before."""
    ours = connected_server()
    assert ours.deadline == 25
    assert ours.tick(25.0)
    assert ours.deadline == 45
    assert not ours.tick(44.9)
    assert ours.connected
    assert ours.tick(45.0)
    assert ours.closed
    assert ours.reason == "ping timeout"
    assert ours.deadline == math.inf


def test_a_silent_server_is_dead_after_interval_and_timeout():
    """The client waits for the pings, with the periods that the server has announced."""
    ours, theirs = connected_pair(Limits(ping_interval_s=1, ping_timeout_s=2))
    assert theirs.deadline == 3
    assert theirs.tick(3.0)
    assert theirs.reason == "ping timeout"
    assert ours.connected


def test_any_packet_is_a_sign_of_life():
    """A busy client whose pong waits behind its images is alive; pings go on at their pace."""
    ours = connected_server()
    ours.tick(25.0)
    ours.receive('42["e"]', 40.0)
    assert ours.deadline == 50
    assert ours.tick(50.0)
    assert ours.deadline == 70


def test_our_own_silence_is_not_held_against_the_peer():
    """While we do not read, no peer dies of it; afterwards it has its time again."""
    ours = connected_server()
    ours.hold()
    ours.tick(25.0)
    ours.tick(50.0)
    ours.tick(75.0)
    assert ours.connected
    ours.resume(90.0)
    assert ours.deadline == 100
    ours.tick(100.0)
    ours.tick(110.0)
    assert ours.closed


def test_who_never_connects_is_dropped():
    """An open transport without CONNECT is closed in time, pongs or not."""
    ours = server()
    ours.tick(25.0)
    ours.receive("3", 26.0)
    assert ours.tick(45.0)
    assert ours.reason == "no CONNECT in time"


# the end


def test_disconnect_is_given_out_behind_what_waits():
    """The goodbye comes after the queued events, then the transport may be closed."""
    ours, theirs = connected_pair()
    ours.send(ours.encode_event("last", []))
    ours.disconnect("we stop", 0.0)
    assert ours.leaving
    assert [event.name for event in carry(ours, theirs)] == ["last"]
    assert not ours.has_outgoing
    assert theirs.closed
    assert theirs.reason == "the server has disconnected us"


def test_a_goodbye_without_end_is_ended():
    """After a goodbye the transport gets `linger_s`, no more."""
    ours = connected_server()
    ours.receive("41", 10.0)
    assert ours.leaving
    assert ours.deadline == 15
    ours.tick(15.0)
    assert ours.closed
    assert ours.reason == "the client has said goodbye"


def test_closed_is_final():
    """After close nothing goes in or out and the reason stays."""
    ours = connected_server()
    ours.send(ours.encode_event("e", []))
    ours.close("first")
    ours.close("second")
    assert ours.reason == "first"
    assert ours.take_frames() == []
    assert ours.receive("9", 0.0) is None
    assert not ours.tick(1e9)
    assert ours.take_payload() == b"6"


# bounds


def test_a_message_of_the_limit_passes_and_one_byte_more_does_not():
    """maxPayload is inclusive, for texts, bytes and characters of more than one byte."""
    ours = connected_server(TINY)
    assert ours.receive('42["' + "x" * 994 + '"]', 0.0) is not None
    for frame in ['42["' + "x" * 995 + '"]', '42["' + "é" * 498 + '"]', b"x" * 1001]:
        with pytest.raises(ProtocolError, match="larger than 1000 bytes"):
            ours.receive(frame, 0.0)
    assert ours.receive('451-["a",{"_placeholder":true,"num":0}]', 0.0) is None
    assert ours.receive(b"x" * 1000, 0.0) is not None


def test_nothing_is_sent_that_the_other_side_would_not_take():
    """The smaller of our bound and the announced one holds for what we send."""
    ours, theirs = server(TINY), PeerProtocol(LIMITS, 0.0)
    carry(ours, theirs)
    with pytest.raises(TooLarge, match="takes 1000"):
        theirs.encode_event("e", [b"x" * 1001])


def test_room_ends_with_bytes_and_with_frames():
    """The queue has room until either bound is reached."""
    ours = connected_server(TINY)
    ours.send(ours.encode_event("e", ["x" * 900]))
    ours.send(ours.encode_event("e", ["x" * 900]))
    assert ours.has_room
    ours.send(ours.encode_event("e", ["x" * 900]))
    assert not ours.has_room
    ours.take_frames()
    assert ours.has_room
    while ours.has_outgoing:
        ours.take_frames()
    for _ in range(10):
        assert ours.has_room
        ours.send(ours.encode_event("e", []))
    assert not ours.has_room


# polling and the upgrade


def test_a_payload_holds_at_most_16_packets():
    """python-engineio's client refuses more in one response."""
    ours = connected_server()
    ours.transport = Transport.POLLING
    for _ in range(20):
        ours.send(ours.encode_event("e", []))
    assert len(list(iter_payload(ours.take_payload()))) == 16
    assert len(list(iter_payload(ours.take_payload()))) == 4


def test_upgrade():
    """Probe, a freed poll, upgrade; what was queued leaves by the websocket."""
    ours = server(transport=Transport.POLLING)
    ours.take_payload()
    assert not ours.poll_ready
    assert ours.receive_upgrade("2probe") == "3probe"
    assert ours.poll_ready
    assert ours.take_payload() == b"6"
    ours.receive("40", 0.0)
    ours.accept("s")
    assert ours.receive_upgrade("5") is None
    assert ours.poll_ready
    assert ours.take_payload() == b"6"
    assert ours.take_frames() == ['40{"sid":"s"}']


def test_an_abandoned_upgrade_leaves_polling_intact():
    """A websocket that breaks after the probe costs nothing."""
    ours = server(transport=Transport.POLLING)
    ours.receive_upgrade("2probe")
    ours.abandon_upgrade()
    assert ours.transport is Transport.POLLING
    assert ours.take_payload().startswith(b"0{")


@pytest.mark.parametrize("frames", [["5"], ["2"], [b"2probe"], ["2probe", "2probe"], ["2probe", "40"], ["2probe", b""]])
def test_other_upgrades_are_refused(frames):
    """Anything but probe and upgrade in that order is a ProtocolError."""
    ours = server(transport=Transport.POLLING)
    with pytest.raises(ProtocolError):
        for frame in frames:
            ours.receive_upgrade(frame)


# properties

args = st.lists(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.binary(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
)


@given(st.lists(st.tuples(st.booleans(), st.text(max_size=5), args), max_size=8), st.randoms(use_true_random=False))
def test_two_peers_back_to_back(sent, random):
    """Whatever the two directions' reads do to each other, every event arrives once, in order, and is acked."""
    ours, theirs = connected_pair()
    to_send = list(sent)
    received = {id(ours): [], id(theirs): []}
    acked = []
    asked = 0

    def move(source, target):
        frames = source.take_frames(random.randint(1, 3))
        if random.random() < 0.5 and frames:
            frames = list(iter_payload(encode_payload(frames)))
        for frame in frames:
            event = target.receive(frame, 0.0)
            if isinstance(event, EventReceived):
                received[id(target)].append((event.name, event.args))
                target.send(target.encode_ack(event.ack_id, [event.name]))
            elif isinstance(event, Acked):
                acked.append(event.args)

    while to_send or ours.has_outgoing or theirs.has_outgoing:
        step = random.randint(0, 2)
        if step == 0 and to_send:
            from_client, name, values = to_send.pop(0)
            source = theirs if from_client else ours
            source.send(source.encode_event(name, values, source.begin_ack()))
            asked += 1
        elif step == 1:
            move(ours, theirs)
        else:
            move(theirs, ours)
    assert received[id(ours)] == [(name, values) for from_client, name, values in sent if from_client]
    assert received[id(theirs)] == [(name, values) for from_client, name, values in sent if not from_client]
    assert len(acked) == asked == len(sent)


real_frames = ["40", '40{"a":1}', "41", "1", "2", "3", '42["e",{"a":[1,2]}]', '421["e"]', "430[1]", "44{}", "5", "6"]
real_frames += ['452-7["e",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]', b"\x00\x01", b""]
real_frames += ['0{"sid":"x","pingInterval":1,"pingTimeout":1}', '40{"sid":"s"}', "40/n,", "2probe", '461-0[{"num":0}]']


@st.composite
def mutated(draw):
    """A real frame with a few characters changed."""
    frame = draw(st.sampled_from(real_frames))
    at = draw(st.integers(0, len(frame)))
    dropped = draw(st.integers(0, 2))
    inserted = draw(st.binary(max_size=2) if isinstance(frame, bytes) else st.text(max_size=2))
    return frame[:at] + inserted + frame[at + dropped :]


hostile = st.lists(
    st.sampled_from(real_frames) | mutated() | st.text(max_size=20) | st.binary(max_size=20) | st.floats(0, 100),
    max_size=20,
)


@pytest.mark.parametrize("serving", [True, False])
@given(steps=hostile)
def test_only_protocol_errors_leave_a_peer(serving, steps):
    """Random bytes and mutated frames, with time passing, raise ProtocolError or nothing, and bounded room is taken."""
    peer = server(TINY) if serving else PeerProtocol(TINY, 0.0)
    now = 0.0
    for step in steps:
        if isinstance(step, float):
            now += step
            peer.tick(now)
            continue
        try:
            event = peer.receive(step, now)
        except ProtocolError as error:
            peer.close(str(error))
            break
        if isinstance(event, ConnectRequested):
            peer.accept("s")
    assert sum(map(len, peer.take_frames(1000))) < 200 * (len(steps) + 1)
    assert peer.closed or peer.deadline > now or not serving or peer.tick(now)
