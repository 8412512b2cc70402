"""Multipart bodies in pieces, well formed and not."""

import time
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_node.errors import InputError, Malformed, TooLarge
from loop_node.serving.parts import PartHead, PartReader, reader_for
from loop_node.serving.uploads import split_multipart

BOUNDARY = "frontier"
Part = tuple[str, str | None, bytes]


def reader(max_parts: int = 1000) -> PartReader:
    return reader_for("multipart/form-data", {"boundary": BOUNDARY}, "", max_parts=max_parts)


def multipart(*parts: Part) -> bytes:
    """A body as clients write it: name, filename, data."""
    written = b""
    for name, filename, data in parts:
        disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename is not None else "")
        written += f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + data + b"\r\n"
    return written + f"--{BOUNDARY}--\r\n".encode()


def read(pieces: Iterable[bytes], of: PartReader | None = None) -> list[Part]:
    """All parts of a body that comes in these pieces."""
    of = of or reader()
    events = [event for piece in pieces for event in of.feed(piece)] + list(of.end())
    parts: list[Part] = []
    for event in events:
        if isinstance(event, PartHead):
            parts.append((event.field, event.filename, b""))
        elif event is not None:
            field, filename, data = parts[-1]
            parts[-1] = (field, filename, data + event)
    assert events.count(None) == len(parts)
    return parts


NAME = st.text(st.characters(codec="ascii", exclude_categories=["Cc"], exclude_characters='"\\%'), max_size=8)
TRICKY = [b"\r\n", b"--", b"\r\n--front", BOUNDARY.encode(), b"\r\n\r\n", b"\r", b"\r\n--frontie\r"]
PARTS = st.lists(
    st.tuples(NAME, st.none() | NAME, st.binary(max_size=50) | st.sampled_from(TRICKY)), min_size=1, max_size=4
)


@given(PARTS, st.data())
def test_it_does_not_matter_how_a_body_is_cut(parts: list[Part], data: st.DataObject) -> None:
    """Any pieces give the parts that were written, as does the reader of whole bodies."""
    body = multipart(*parts)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(body) - 1), max_size=20)))
    pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert read(pieces) == parts
    assert read(body[at : at + 1] for at in range(len(body))) == parts
    assert [(one.name, one.filename, one.data) for one in split_multipart(body, BOUNDARY)] == parts


@given(st.binary(max_size=300), st.binary(max_size=300), st.integers(1, 50))
def test_any_bytes_are_parts_or_an_input_error(front: bytes, tail: bytes, step: int) -> None:
    """Also bytes around and inside a good form."""
    good = multipart(("file", "a.jpg", front))
    for body in (front, front + good, good + tail, good[: len(tail)] + front + good[len(tail) :]):
        try:
            read(body[at : at + step] for at in range(0, len(body), step))
        except InputError:
            pass


@pytest.mark.parametrize(
    "body",
    [
        b"no boundary at all",
        multipart(("file", "a.jpg", b"x"))[:-20],
        multipart(("file", "a.jpg", b"x"))[:30],
        f"--{BOUNDARY}\r\n\r\nno disposition\r\n--{BOUNDARY}--\r\n".encode(),
        f"--{BOUNDARY}\r\nno colon\r\n\r\nx\r\n--{BOUNDARY}--\r\n".encode(),
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; name=\xe4\r\n\r\n".encode("latin-1"),
    ],
)
def test_a_broken_body_is_said_to_be_broken(body: bytes) -> None:
    """Nothing is guessed from half a form."""
    with pytest.raises(Malformed, match="multipart body is broken"):
        read([body])


@pytest.mark.parametrize("boundary", ["", "\u20ac", "x" * 201, "a\nb"])
def test_an_unusable_boundary_is_the_clients_fault(boundary: str) -> None:
    """A header that names no boundary, or one that cannot be one."""
    with pytest.raises(Malformed, match="boundary"):
        reader_for("multipart/form-data", {"boundary": boundary}, "", max_parts=1)


def test_parts_and_heads_are_bounded() -> None:
    """A million empty parts, or one endless head, cost nobody their memory."""
    with pytest.raises(TooLarge, match="10 parts"):
        read([multipart(*[("f", None, b"")] * 11)], reader(max_parts=10))
    for endless in (b"x" * 100_000, b"X-Y: z\r\n" * 1000):
        with pytest.raises(TooLarge):
            read([f"--{BOUNDARY}\r\n".encode() + endless])


@pytest.mark.parametrize(
    "filename", ["image_2026-11-23_02%3A34%3A25.998010.json", "image_2026-11-23_02:34:25.jpg", "ä b.jpg", "../x", ""]
)
def test_names_are_kept_as_they_were_sent(filename: str) -> None:
    """Who pairs files by their names pairs what clients wrote."""
    assert read([multipart(("files", filename, b"x"))]) == [("files", filename, b"x")]


def test_old_clients_spell_names_another_way() -> None:
    """Python's requests did so for names that are not ASCII."""
    disposition = "Content-Disposition: form-data; name=\"files\"; filename*=utf-8''K%C3%BChe.jpg"
    body = f"--{BOUNDARY}\r\n{disposition}\r\n\r\nx\r\n--{BOUNDARY}--\r\n".encode()
    assert read([body]) == [("files", "Kühe.jpg", b"x")]


def test_a_body_may_be_one_file() -> None:
    """Its name is in the request's own head, or nowhere."""
    named = reader_for("application/zip", {}, 'attachment; filename="m.zip"', max_parts=1)
    assert read([b"PK", b"34"], named) == [("", "m.zip", b"PK34")]
    assert read([], reader_for("image/jpeg", {}, "", max_parts=1)) == [("", "", b"")]


@pytest.mark.parametrize("mimetype", ["", "application/json", "application/x-www-form-urlencoded"])
def test_other_bodies_are_no_files(mimetype: str) -> None:
    """The answer says what would be."""
    with pytest.raises(InputError, match="send multipart/form-data"):
        reader_for(mimetype, {}, "", max_parts=1)


@pytest.mark.parametrize(
    "filling",
    [
        b"\r\n",
        b"\r",
        b"-",
        b"\r\n--",
        b"\r\n--frontie",
        b"\r\n--frontie\r",
        b"--frontier",
        b'a="b"; ',
        b" x\r\n",
        b"\x00",
    ],
)
@pytest.mark.parametrize("place", ["part", "front", "head", "tail"])
def test_crafted_bodies_cost_time_linear_in_their_length(filling: bytes, place: str) -> None:
    """Eight times the bytes take about eight times as long, whatever is in them and wherever."""

    def seconds(length: int) -> float:
        bulk = filling * (length // len(filling))
        good = multipart(("f", "x", b"y"))
        body = {
            "part": multipart(("f", "x", bulk)),
            "front": bulk + b"\r\n" + good,
            "head": good[:50] + bulk + good[50:],
            "tail": good + bulk,
        }[place]
        begin = time.process_time()
        try:
            read_events = reader()
            for at in range(0, len(body), 1 << 16):
                for _ in read_events.feed(body[at : at + (1 << 16)]):
                    pass
        except InputError:
            pass
        return time.process_time() - begin

    small = min(seconds(1 << 20) for _ in range(3))
    assert seconds(8 << 20) < 8 * 6 * small + 0.05


@pytest.mark.parametrize("words", ['a="b"; ', ";", "; ", "; filename*=utf-8'", "; filename*=utf-8''", ' "', '\\"', "="])
def test_many_large_heads_are_read_in_time(words: str) -> None:
    """A thousand heads of four kilobytes, each of many words, take less than a millisecond each."""
    head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; name=f; "
    body = (head + (words * 4000)[:4000] + "\r\n\r\n\r\n") * 1000
    begin = time.process_time()
    with pytest.raises(Malformed, match="ends before"):
        read([body.encode()])
    assert time.process_time() - begin < 4
