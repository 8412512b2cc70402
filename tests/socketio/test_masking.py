import random

from hypothesis import given
from hypothesis import strategies as st

from loop_node.socketio import masking


class ReferenceMasker:
    """RFC 6455, section 5.3, letter by letter."""

    def __init__(self, key):
        self.key = key
        self.position = 0

    def process(self, data):
        masked = bytearray(byte ^ self.key[(self.position + i) % 4] for i, byte in enumerate(data))
        self.position += len(data)
        return masked


@given(key=st.binary(min_size=4, max_size=4), parts=st.lists(st.binary(max_size=40), max_size=6))
def test_masks_like_the_rfc(key, parts):
    """A frame masked part by part, of any lengths, is what the RFC's formula gives."""
    ours, reference = masking.NumpyMasker(key), ReferenceMasker(key)
    for part in parts:
        assert ours.process(bytearray(part)) == reference.process(part)


def test_large_frames():
    """A frame of many words and an odd tail."""
    data = random.Random(0).randbytes(100_003)
    assert masking.NumpyMasker(b"\x01\x02\x03\xff").process(data) == ReferenceMasker(b"\x01\x02\x03\xff").process(data)


def test_the_result_is_bytes():
    """What wsproto makes of it is no copy, and what it was made of is as before."""
    data = bytearray(100)
    masked = masking.NumpyMasker(b"abcd").process(data)
    assert bytes(masked) is masked
    assert data == bytes(100)
