"""The file of one image: read back as written, or known to be broken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_node.detector.outbox.item import (
    BrokenItem,
    Content,
    file_name,
    item_id,
    pack,
    packed_bytes,
    parse_name,
    sequence_of,
    unpack,
)

contents = st.builds(Content, st.binary(max_size=300), st.binary(max_size=100))
tokens = st.text("0123456789abcdef", min_size=16, max_size=16)


@given(contents)
def test_what_is_packed_is_unpacked(content):
    """Byte for byte, the JPEG first, and as large as was said before."""
    data = b"".join(pack(content))
    assert unpack(data) == content
    assert data.startswith(content.jpeg)
    assert len(data) == packed_bytes(content)


@given(contents, st.data())
def test_a_file_that_was_cut_or_changed_is_broken(content, data):
    """At any byte."""
    whole = b"".join(pack(content))
    place = data.draw(st.integers(0, len(whole) - 1))
    for damaged in (whole[:place], whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]):
        with pytest.raises(BrokenItem):
            unpack(damaged)


@given(st.binary(max_size=200))
def test_any_other_file_is_broken(data):
    """And reading it raises nothing else."""
    with pytest.raises(BrokenItem):
        unpack(data)


@given(st.integers(0, 10**16 - 1), st.integers(0, 10**16 - 1), tokens, tokens)
def test_ids_sort_by_sequence(first, second, token, other):
    """Whatever their tokens."""
    assert sequence_of(item_id(first, token)) == first
    if first != second:
        assert (item_id(first, token) < item_id(second, other)) is (first < second)


@given(st.integers(0, 10**16 - 1), tokens, st.integers(0, 10**14))
def test_names_say_id_and_size(sequence, token, size_bytes):
    """In characters that are legal on every file system."""
    name = file_name(item_id(sequence, token), size_bytes)
    assert parse_name(name) == (item_id(sequence, token), size_bytes)
    assert set(name) <= set("0123456789abcdef-.jpg")


@given(st.text(max_size=60))
def test_other_names_are_not_ours(name):
    """Whatever lies in the folder is not taken for an image."""
    assert parse_name(name) is None


@pytest.mark.parametrize("ending", ["", "\n", ".part", ".JPG", " "])
def test_names_that_are_nearly_ours_are_not(ending):
    """A name is ours in full or not at all."""
    name = file_name(item_id(7, "0" * 16), 12)
    assert parse_name(name.removesuffix(".jpg") + ending if ending in ("", ".JPG") else name + ending) is None
