"""Forms: lengths that are true, names that pair."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multipart import MultipartParser, parse_options_header

from loop_node.loop.multipart import FilePart, encoded_name, prepare_form


async def whole(form):
    return b"".join([chunk async for chunk in form.chunks()])


names = st.text(max_size=30)


@given(names, names)
def test_names_are_legal_and_stay_different(one, other):
    """Printable ASCII that needs no quoting; equal names stay equal, different ones different, stems too."""
    encoded = encoded_name(one)
    assert all(" " <= character <= "~" for character in encoded)
    assert not set(encoded) & set('"\\/:')
    assert (encoded == encoded_name(other)) == (one == other)
    assert encoded_name(f"{one}.json") == f"{encoded}.json"


@given(st.lists(st.tuples(names, st.binary(max_size=200_000)), max_size=4), st.lists(names, max_size=3))
async def test_a_form_is_read_back(files, values):
    """By an independent parser, with the announced length, as often as it is asked for."""
    parts = [FilePart(filename=f"{name}.bin", content=content) for name, content in files]
    form = await prepare_form(parts, {"tags": values})
    body = await whole(form)
    assert len(body) == form.length
    assert await whole(form) == body
    boundary = parse_options_header(form.content_type)[1]["boundary"]
    read = MultipartParser(io.BytesIO(body), boundary, spool_limit=10**7).parts()
    assert [part.raw for part in read] == [*(value.encode() for value in values), *(content for _, content in files)]


@pytest.mark.parametrize(("size", "readable"), [(5, False), (10, True), (20, True)])
async def test_a_file_that_changes_while_it_is_sent(tmp_path, size, readable):
    """One that grows is sent as far as it was announced; one that shrinks cannot be."""
    path = tmp_path / "f"
    path.write_bytes(b"a" * 10)
    form = await prepare_form([FilePart(filename="f", content=path)], {})
    path.write_bytes(b"b" * size)
    if readable:
        assert (await whole(form)).count(b"b" * 10) == 1
    else:
        with pytest.raises(OSError, match="became shorter"):
            await whole(form)
