import h11 as real_h11
import pytest
import wsproto.frame_protocol
from hypercorn.protocol import h11, ws_stream
from hypothesis import given
from hypothesis import strategies as st
from wsproto.events import BytesMessage, TextMessage

from loop_node.socketio import masking, tuning


def test_the_private_names_are_there():
    """The names that `install` takes exist in these releases, and hold our replacements afterwards."""
    tuning.install()
    assert wsproto.frame_protocol.XorMaskerSimple is masking.NumpyMasker
    assert isinstance(wsproto.frame_protocol.FrameDecoder(client=False).buffer, tuning.ReadBuffer)
    assert ws_stream.server_extensions_handshake(["permessage-deflate"], []) is None
    assert ws_stream.WebsocketBuffer is tuning.MessageParts


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (wsproto.frame_protocol, "XorMaskerSimple"),
        (wsproto.frame_protocol, "Buffer"),
        (ws_stream, "server_extensions_handshake"),
        (ws_stream, "WebsocketBuffer"),
        (h11.H11WSConnection, "receive_data"),
        (h11.H11WSConnection, "next_event"),
    ],
)
def test_other_releases_are_noticed(monkeypatch, owner, name):
    """Without one of the names installing fails loudly."""
    monkeypatch.delattr(owner, name)
    with pytest.raises(AttributeError, match=f"has no {name}"):
        tuning.install()


class ReferenceBuffer:
    """What wsproto asks of its buffer, with all that ever came kept in one piece."""

    def __init__(self):
        self.data = b""
        self.begin = self.end = 0

    def feed(self, new_bytes):
        self.data += new_bytes

    def consume_at_most(self, nbytes):
        taken = self.data[self.end : self.end + nbytes]
        self.end += len(taken)
        return taken

    def consume_exactly(self, nbytes):
        return self.consume_at_most(nbytes) if nbytes <= len(self.data) - self.end else None

    def commit(self):
        self.begin = self.end

    def rollback(self):
        self.end = self.begin


_STEPS = st.one_of(
    st.tuples(st.just("feed"), st.binary(max_size=8)),
    st.tuples(st.sampled_from(["consume_at_most", "consume_exactly"]), st.integers(0, 8)),
    st.tuples(st.sampled_from(["commit", "rollback"])),
)


@given(st.lists(_STEPS))
def test_the_read_buffer_gives_what_came(steps):
    """Fed, consumed, committed and rolled back in any order, it gives every byte once and in its place."""
    buffer, reference = tuning.ReadBuffer(), ReferenceBuffer()
    for name, *arguments in steps:
        assert getattr(buffer, name)(*arguments) == getattr(reference, name)(*arguments)
        assert len(buffer) == len(reference.data) - reference.begin


def test_the_read_buffer_keeps_nothing_that_was_taken():
    """Of what has been taken as a whole no byte is kept until more comes, and a whole piece is not copied."""
    buffer, piece = tuning.ReadBuffer(), bytes(1000)
    buffer.feed(piece)
    assert buffer.consume_at_most(2000) is piece
    buffer.commit()
    assert buffer._data == b""


def test_wsproto_unmasks_with_it():
    """A frame masked by wsproto's client is read by its server, through the replacement."""
    frame = wsproto.frame_protocol.FrameProtocol(client=True, extensions=[]).send_data(b"x" * 1000)
    server = wsproto.frame_protocol.FrameProtocol(client=False, extensions=[])
    server.receive_bytes(bytes(frame))
    assert [bytes(received.payload) for received in server.received_frames()] == [b"x" * 1000]


@given(st.lists(st.text(max_size=5), min_size=1) | st.lists(st.binary(max_size=5), min_size=1))
def test_parts_become_the_message(parts):
    """Texts and bytes are joined in their order, message after message."""
    is_text = isinstance(parts[0], str)
    collected = tuning.MessageParts(1000)
    for _ in range(2):
        for part in parts:
            collected.extend(TextMessage(data=part) if is_text else BytesMessage(data=part))
        message = collected.to_message()
        assert message["text" if is_text else "bytes"] == ("" if is_text else b"").join(parts)
        assert message["bytes" if is_text else "text"] is None
        collected.clear()


def test_a_message_too_large_is_let_go():
    """The limit is inclusive; beyond it every part is refused and none is kept."""
    collected = tuning.MessageParts(10)
    collected.extend(BytesMessage(data=b"x" * 10))
    for _ in range(3):
        with pytest.raises(ws_stream.FrameTooLargeError):
            collected.extend(BytesMessage(data=b"x"))
    assert collected._parts == []


def test_received_bytes_pass_unchanged():
    """What comes with the handshake, and in several reads before an event is asked for, is given out once."""
    connection = h11.H11WSConnection(real_h11.Connection(real_h11.SERVER))
    assert connection.next_event() is real_h11.NEED_DATA
    connection.receive_data(b"ab")
    connection.receive_data(b"c")
    assert connection.next_event().data == b"abc"
    assert connection.next_event() is real_h11.NEED_DATA
