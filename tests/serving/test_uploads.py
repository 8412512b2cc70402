"""Images out of request bodies, well formed and not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder

from loop_node.errors import InputError, Overloaded, TooLarge
from loop_node.serving.uploads import BodyBudget, Upload, split_multipart

BOUNDARY = "frontier"


def multipart(*parts: tuple[str, str | None, bytes]) -> bytes:
    """A body as clients write it: name, filename, data."""
    written = b""
    for name, filename, data in parts:
        disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename is not None else "")
        written += f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + data + b"\r\n"
    return written + f"--{BOUNDARY}--\r\n".encode()


def test_parts_come_out_in_order_and_byte_for_byte() -> None:
    """Line ends and dashes inside an image are data."""
    tricky = b"\r\n--front\r\n--\r\n\x00\xff" + BOUNDARY.encode()
    body = multipart(("file", "a.jpg", tricky), ("note", None, b"x"), ("file", "b.jpg", b""))
    assert split_multipart(body, BOUNDARY) == [
        Upload("file", "a.jpg", tricky),
        Upload("note", None, b"x"),
        Upload("file", "b.jpg", b""),
    ]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no boundary at all",
        multipart(("file", "a.jpg", b"x"))[:-20],
        f"--{BOUNDARY}\r\n\r\nno disposition\r\n--{BOUNDARY}--\r\n".encode(),
    ],
)
def test_a_broken_body_is_said_to_be_broken(body: bytes) -> None:
    """Nothing is guessed from half a form."""
    with pytest.raises(InputError, match="multipart body is broken"):
        split_multipart(body, BOUNDARY)


@pytest.mark.parametrize("boundary", ["", "\u20ac"])
def test_an_unusable_boundary_is_the_clients_fault(boundary: str) -> None:
    """A header that names no boundary, or one that cannot be one."""
    with pytest.raises(InputError):
        split_multipart(multipart(("file", "a.jpg", b"x")), boundary)


def test_the_number_of_parts_is_bounded() -> None:
    """A body of a million empty parts costs nobody a million objects."""
    with pytest.raises(TooLarge, match="1000 parts"):
        split_multipart(multipart(*[("f", None, b"")] * 1001), BOUNDARY)


PART = st.tuples(
    st.text(st.characters(codec="ascii", exclude_categories=["Cc"], exclude_characters='"\\\\%'), max_size=8),
    st.none()
    | st.text(st.characters(codec="ascii", exclude_categories=["Cc"], exclude_characters='"\\\\%'), max_size=8),
    st.binary(max_size=50) | st.sampled_from([b"\r\n", b"--", b"\r\n--front", BOUNDARY.encode(), b"\r\n\r\n"]),
)


def reference(body: bytes) -> list[Upload]:
    """The same by werkzeug's decoder."""
    decoder = MultipartDecoder(BOUNDARY.encode())
    decoder.receive_data(body)
    decoder.receive_data(None)
    parts: list[Upload] = []
    while not isinstance(event := decoder.next_event(), Epilogue):
        if isinstance(event, (Field, File)):
            parts.append(Upload(event.name, event.filename if isinstance(event, File) else None, b""))
        elif isinstance(event, Data):
            parts[-1] = Upload(parts[-1].name, parts[-1].filename, parts[-1].data + event.data)
    return parts


@given(st.lists(PART, max_size=4))
def test_it_reads_what_others_read(parts: list[tuple[str, str | None, bytes]]) -> None:
    """werkzeug's decoder finds the same parts in what clients write."""
    body = multipart(*parts)
    assert split_multipart(body, BOUNDARY) == reference(body)


@pytest.mark.timeout(20)  # with parsers that are not linear this takes minutes
@pytest.mark.parametrize("filling", [b"\r\n", b" ", b"\x00", b"\r\n--frontie", b'a="b"; '])
def test_crafted_bodies_cost_no_more_than_others(filling: bytes) -> None:
    """A hundred megabytes of near misses are read at the speed of memory."""
    bulk = filling * (100_000_000 // len(filling))
    for body in (multipart(("f", None, bulk)), bulk + b"\r\n" + multipart(("f", None, b"x")), multipart() + bulk):
        assert len(split_multipart(body, BOUNDARY)) <= 1
    with pytest.raises(InputError, match="multipart body is broken"):
        split_multipart(f"--{BOUNDARY}\r\nContent-Disposition: form-data; ".encode() + bulk, BOUNDARY)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_bytes_are_parts_or_an_input_error(head: bytes, tail: bytes) -> None:
    """Also bytes around and inside a good form."""
    good = multipart(("file", "a.jpg", head))
    for body in (head, head + good, good + tail, good[: len(tail)] + head + good[len(tail) :]):
        try:
            split_multipart(body, BOUNDARY)
        except InputError:
            pass


def test_bodies_share_a_budget() -> None:
    """What is in memory counts until its request is done; one body always fits."""
    budget = BodyBudget(limit_bytes=100, largest_bytes=60)
    with budget.take(60), budget.take(40):
        with pytest.raises(Overloaded), budget.take(1):
            pytest.fail("there was room")
        with budget.take(0):
            pass
    assert budget.used_bytes == 0
    with budget.take(1000):  # refused by its length elsewhere
        assert budget.used_bytes == 60


def test_a_body_of_unknown_length_counts_as_the_largest() -> None:
    """Chunked bodies may grow up to the limit."""
    budget = BodyBudget(limit_bytes=100, largest_bytes=60)
    with budget.take(None), pytest.raises(Overloaded), budget.take(None):
        pytest.fail("there was room")
