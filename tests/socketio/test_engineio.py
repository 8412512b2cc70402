import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_node.errors import ProtocolError
from loop_node.socketio.engineio import (
    Handshake,
    PacketType,
    encode_payload,
    frame_bytes,
    iter_payload,
    read_handshake,
    split_frame,
)

texts = st.text(st.characters(codec="utf-8", exclude_characters="\x1e"))
text_frames = st.tuples(st.sampled_from("0123456"), texts).map("".join)
frames = text_frames | st.binary()


@given(st.lists(frames, min_size=1))
def test_payload_round_trip(sent):
    """Any frames survive a long-polling body, in their order."""
    assert list(iter_payload(encode_payload(sent))) == sent


@given(st.binary())
def test_random_bodies_raise_only_protocol_errors(body):
    """A body of random bytes gives frames or a ProtocolError."""
    try:
        for frame in iter_payload(body):
            assert isinstance(frame, str | bytes)
    except ProtocolError:
        pass


def test_payload_has_the_documented_form():
    """The bytes are those of the protocol's documentation."""
    assert encode_payload(["4hello", "2", b"\x01\x02\x03\x04"]) == b"4hello\x1e2\x1ebAQIDBA=="


@pytest.mark.parametrize("body", [b"bAQI", b"b====", b"b A==", b"bA\\u0041==", b'b"', b"b\xff", b"4ok\x1eb!", b"4\xff"])
def test_broken_payloads_are_refused(body):
    """Base64 and UTF-8 are read strictly."""
    with pytest.raises(ProtocolError):
        list(iter_payload(body))


def test_frames_before_a_broken_one_are_given_out():
    """A broken part does not take back what came before it."""
    parts = iter_payload(b"4fine\x1eb!")
    assert next(parts) == "4fine"
    with pytest.raises(ProtocolError, match="base64"):
        next(parts)


@pytest.mark.parametrize("frame", ["", "7", "x", "\u0664"])
def test_unknown_packet_types_are_refused(frame):
    """Only the seven ASCII digits are packet types."""
    with pytest.raises(ProtocolError, match="unknown type"):
        split_frame(frame)


def test_split_frame():
    """A text frame is its type and the rest."""
    assert split_frame("2probe") == (PacketType.PING, "probe")


@given(frames)
def test_frame_bytes_is_the_size_on_the_wire(frame):
    """Text is measured in bytes, not in characters."""
    assert frame_bytes(frame) == len(frame if isinstance(frame, bytes) else frame.encode())


def test_handshake_round_trip():
    """A client reads what a server announces, in milliseconds on the wire."""
    handshake = Handshake(
        sid="x", upgrades=("websocket",), ping_interval_s=25.0, ping_timeout_s=20.0, max_payload_bytes=67_108_864
    )
    frame = handshake.frame()
    assert frame == (
        '0{"sid":"x","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":67108864}'
    )
    assert read_handshake(frame[1:]) == handshake


def test_old_servers_announce_no_max_payload():
    """A missing maxPayload means a million bytes, the default of those servers."""
    assert read_handshake('{"sid":"x","pingInterval":1,"pingTimeout":1}').max_payload_bytes == 1_000_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        '{"sid":1,"pingInterval":1,"pingTimeout":1}',
        '{"sid":"x","pingTimeout":1}',
        '{"sid":"x","pingInterval":-1,"pingTimeout":1}',
        '{"sid":"x","pingInterval":NaN,"pingTimeout":1}',
        '{"sid":"x","pingInterval":true,"pingTimeout":1}',
        '{"sid":"x","pingInterval":1,"pingTimeout":Infinity}',
        '{"sid":"x","pingInterval":1,"pingTimeout":"1"}',
    ],
)
def test_broken_handshakes_are_refused(text):
    """Missing members and numbers out of range never reach a timer."""
    with pytest.raises(ProtocolError):
        read_handshake(text)
