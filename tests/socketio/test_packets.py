import itertools
import tracemalloc
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_node.errors import ProtocolError
from loop_node.socketio.limits import Limits
from loop_node.socketio.packets import Packet, PacketReader, PacketType, encode

SMALL = Limits(max_packet_bytes=1000, max_attachments=3, max_json_values=50)

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
keys = st.text().filter(lambda key: key != "_placeholder")
values = st.recursive(
    scalars | st.binary(), lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=20
)
plain_dicts = st.dictionaries(keys, scalars)
namespaces = st.just("/") | st.text().map(lambda text: "/" + text.replace(",", ""))
ack_ids = st.integers(0, 10**15 - 1)
packets = st.one_of(
    st.builds(
        lambda name, args, **rest: Packet(PacketType.EVENT, [name, *args], **rest),
        st.text(),
        st.lists(values),
        namespace=namespaces,
        id=st.none() | ack_ids,
    ),
    st.builds(Packet, st.just(PacketType.ACK), st.lists(values), namespace=namespaces, id=ack_ids),
    st.builds(Packet, st.just(PacketType.CONNECT), st.none() | plain_dicts, namespace=namespaces),
    st.builds(Packet, st.just(PacketType.CONNECT_ERROR), plain_dicts | st.text(), namespace=namespaces),
    st.builds(Packet, st.just(PacketType.DISCONNECT), namespace=namespaces),
)


def read(text, attachments=(), limits=None):
    reader = PacketReader(limits or Limits())
    packet = reader.feed_text(text)
    for attachment in attachments:
        assert packet is None
        packet = reader.feed_bytes(attachment)
    return packet


@given(packets)
def test_round_trip(packet):
    """Any packet survives its wire form."""
    assert read(*encode(packet)) == packet


@given(st.lists(packets, max_size=3))
def test_a_reader_takes_packet_after_packet(sent):
    """Nothing of one packet sticks to the next."""
    reader = PacketReader(Limits())
    received = []
    for packet in sent:
        text, attachments = encode(packet)
        complete = [reader.feed_text(text), *map(reader.feed_bytes, attachments)]
        assert complete[:-1] == [None] * len(attachments)
        received.append(complete[-1])
    assert received == sent


@pytest.mark.parametrize(
    ("packet", "text", "attachments"),
    [
        (Packet(PacketType.CONNECT), "0", []),
        (Packet(PacketType.CONNECT, {"token": "123"}, namespace="/admin"), '0/admin,{"token":"123"}', []),
        (Packet(PacketType.DISCONNECT, namespace="/admin"), "1/admin,", []),
        (Packet(PacketType.EVENT, ["foo"]), '2["foo"]', []),
        (Packet(PacketType.EVENT, ["foo"], namespace="/admin", id=12), '2/admin,12["foo"]', []),
        (Packet(PacketType.ACK, [], namespace="/admin", id=13), "3/admin,13[]", []),
        (Packet(PacketType.CONNECT_ERROR, {"message": "No"}), '4{"message":"No"}', []),
        (
            Packet(PacketType.EVENT, ["baz", b"\x01\x02"]),
            '51-["baz",{"_placeholder":true,"num":0}]',
            [b"\x01\x02"],
        ),
        (Packet(PacketType.ACK, [b"\x03"], id=15), '61-15[{"_placeholder":true,"num":0}]', [b"\x03"]),
    ],
)
def test_documented_forms(packet, text, attachments):
    """The wire form is that of the protocol's documentation, both ways."""
    assert encode(packet) == (text, attachments)
    assert read(text, attachments) == packet


def test_the_namespace_of_a_connect_may_end_the_packet():
    """A CONNECT without the comma, as python-socketio accepts it."""
    assert read("0/admin") == Packet(PacketType.CONNECT, namespace="/admin")


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_kind_of_bytes_is_an_attachment(kind):
    """Bytes, bytearrays and memoryviews leave the text."""
    assert encode(Packet(PacketType.EVENT, ["e", kind(b"x")]))[1] == [b"x"]


def test_a_placeholder_without_attachments_is_data():
    """A dict that looks like a placeholder is nothing special in a packet without attachments."""
    fake = {"_placeholder": True, "num": 0}
    assert read(encode(Packet(PacketType.EVENT, ["e", fake]))[0]) == Packet(PacketType.EVENT, ["e", fake])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {b"k": 1}, {1, 2}])
def test_what_cannot_be_sent_is_refused(value):
    """No packet leaves that a JavaScript client could not read."""
    with pytest.raises((TypeError, ValueError)):
        encode(Packet(PacketType.EVENT, ["e", value]))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "2",
        "2{}",
        "2[]",
        "2[1]",
        '2["a"',
        "3[]",
        "31{}",
        '0"x"',
        "0[]",
        "1{}",
        "4[]",
        '5["a"]',
        '5-["a"]',
        '21-["a"]',
        "2" + "[" * 100_000,
        '2["a",' + "9" * 5000 + "]",
        '2["a"]\ud800',
        '54-["a"]',
        '2["a"' + ",1" * 60 + "]",
        '2["a","' + "x" * 1000 + '"]',
    ],
)
def test_broken_texts_are_refused(text):
    """Whatever is no packet, or over a limit, is a ProtocolError."""
    with pytest.raises(ProtocolError):
        read(text, limits=SMALL)


@pytest.mark.parametrize("number", ["1", "-1", "true", '"0"', "null", "0.0"])
def test_placeholders_without_attachment_are_refused(number):
    """A placeholder's number is checked before it is used."""
    with pytest.raises(ProtocolError, match="not there"):
        read(f'51-["a",{{"_placeholder":true,"num":{number}}}]', [b"x"])


def test_attachments_have_to_be_due():
    """An attachment without a packet, and a text in between, are refused."""
    with pytest.raises(ProtocolError, match="without the packet"):
        PacketReader(SMALL).feed_bytes(b"x")
    reader = PacketReader(SMALL)
    reader.feed_text('52-["a"]')
    reader.feed_bytes(b"x")
    with pytest.raises(ProtocolError, match="1 attachments were due"):
        reader.feed_text('2["a"]')


def test_attachments_count_towards_the_packet():
    """The bound on a packet holds for text and attachments together."""
    reader = PacketReader(SMALL)
    reader.feed_text('52-["a"]')
    reader.feed_bytes(b"x" * 900)
    with pytest.raises(ProtocolError, match="larger than 1000 bytes"):
        reader.feed_bytes(b"x" * 100)


messages = st.binary(max_size=50) | st.text(max_size=50) | packets.map(encode).map(lambda wire: wire[0])


@st.composite
def mutated(draw):
    """The wire form of real packets with characters changed, dropped or doubled."""
    text, attachments = encode(draw(packets))
    at = draw(st.integers(0, len(text)))
    dropped = draw(st.integers(0, 3))
    return [text[:at] + draw(st.text(max_size=3)) + text[at + dropped :], *attachments]


@given(st.lists(st.lists(messages, max_size=3) | mutated(), max_size=5))
def test_only_protocol_errors_leave_a_reader(batches):
    """Random and mutated messages give packets or a ProtocolError, nothing else."""
    reader = PacketReader(SMALL)
    for message in itertools.chain.from_iterable(batches):
        try:
            reader.feed_bytes(message) if isinstance(message, bytes) else reader.feed_text(message)
        except ProtocolError:
            reader = PacketReader(SMALL)


@pytest.mark.parametrize("unit", ["[],", "{},", '{"":0},', "1.5,", "[[[]]],"])
def test_the_memory_of_parsed_json_is_bounded(unit):
    """A megabyte of the smallest values costs what `max_json_values` allows, not twenty times its size."""
    text = '2["a",' + unit * (1_000_000 // len(unit)) + "0]"
    limits = Limits(max_json_values=10_000)
    tracemalloc.start()
    with pytest.raises(ProtocolError, match="more than 10000 values"):
        read(text, limits=limits)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * len(text)


REAL = [
    '2["detect",{"image":{"format":"jpeg","bytes":1},"tags":["a"]}]',
    '51-["detect",{"image":{"_placeholder":true,"num":0},"camera_id":"front"}]',
    '52-/,17["batch_detect",{"images":[{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]}]',
    '3/admin,13["done",null,1.5e3]',
    '61-15[{"_placeholder":true,"num":0}]',
    '0{"token":"\\u00e4\\ud83d\\ude00"}',
    '4{"message":"no"}',
    "1/admin,",
    b"\xff\xd8\xff\xe0 an image",
]
LETTERS = '0123456789-/,[]{}":_placeholdernumtruefalse \\u\x00\u00e4\U0001f600'


def mutated_frame(random):
    """A real frame with some of it cut out, doubled, exchanged or made up."""
    frame = random.choice(REAL)
    if isinstance(frame, bytes):
        return frame[: random.randrange(len(frame) + 1)]
    for _ in range(random.randrange(4)):
        start = random.randrange(len(frame) + 1)
        end = min(len(frame), start + random.randrange(6))
        made_up = "".join(random.choices(LETTERS, k=random.randrange(4)))
        frame = frame[:start] + random.choice([made_up, frame[start:end] * 2, ""]) + frame[end:]
    return frame


def test_fifty_thousand_mutated_frames_cost_nothing_but_protocol_errors():
    """As many as an attacker on the network can send; what they leave behind is bounded."""
    random = Random(2026)
    reader, refused, read = PacketReader(SMALL), 0, 0
    tracemalloc.start()
    for _ in range(50_000):
        frame = mutated_frame(random)
        try:
            packet = reader.feed_text(frame) if isinstance(frame, str) else reader.feed_bytes(frame)
            read += packet is not None
        except ProtocolError:
            reader, refused = PacketReader(SMALL), refused + 1
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused > 5_000
    assert read > 5_000
    assert peak_bytes < 5_000_000
