"""Images that clients of all generations hand in: what is said of them, the doors, and what becomes of their bytes."""

import io
import json
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from quart import request
from quart_trio import QuartTrio

from loop_node.detector.upload_metadata import SaidBeside, read_metadata_of_all, read_upload_metadata
from loop_node.detector.uploading import ImageUpload, UploadReader, as_jpeg
from loop_node.errors import ImageError, InputError, SchemaError, TooLarge
from loop_node.images import decode_image
from loop_node.schemas.detections import Point, Shape
from loop_node.schemas.models import Category

CATEGORIES = [Category(id="id-a", name="a"), Category(id="id-b", name="b")]
DETECTION = {"category_name": "a", "model_name": "1.0", "confidence": 0.5}
BOX = DETECTION | {"x": 1, "y": 2, "width": 3, "height": 4}
DATE = "2026-11-23_02:34:25.998"


def encoded(kind: str = "JPEG", *, width: int = 8, height: int = 6, orientation: int = 1, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[274] = orientation
    Image.new(mode, (width, height), "red" if mode != "L" else 100).save(buffer, kind, exif=exif)
    return buffer.getvalue()


JPEG = encoded()


def read(value: object, **words: Any) -> Any:
    return read_upload_metadata(value, CATEGORIES, **words)


def is_now(date: str) -> bool:
    written = datetime.strptime(date, "%Y-%m-%d_%H:%M:%S.%f").astimezone()
    return abs((datetime.now().astimezone() - written).total_seconds()) < 60


@pytest.mark.parametrize("value", [None, {}])
def test_an_image_may_come_without_a_word(value: object) -> None:
    """It gets the time of receipt and the tag of all uploads."""
    metadata = read(value)
    assert metadata.tags == ["picked_by_system"]
    assert is_now(metadata.created)
    assert metadata.source is None
    assert metadata.box_detections == []


def test_what_a_robot_sends_is_read() -> None:
    """Whole pixels as floats, uuids, an outline of floats, no category ids, the date under its own name."""
    metadata = read(
        {
            "source": "robot",
            "tags": ["field"],
            "creation_date": DATE,
            "box_detections": [BOX | {"x": 1.6, "uuid": "u1"}],
            "point_detections": [DETECTION | {"x": 1.5, "y": 2.5, "uuid": "u2"}],
            "segmentation_detections": [DETECTION | {"shape": {"points": [{"x": 1.4, "y": 2.6}]}, "uuid": "u3"}],
            "classification_detections": [DETECTION | {"category_id": ""}],
            "box_annotations": [{"category_name": "b", "x": 1.2, "y": 1, "width": 2.0, "height": 2}],
            "point_annotations": [{"category_name": "b", "x": 1.2, "y": 1}],
            "classification_annotation": {"category_name": "b"},
        }
    )
    assert (metadata.created, metadata.source, metadata.tags) == (DATE, "robot", ["field", "picked_by_system"])
    assert (metadata.box_detections[0].x, metadata.point_detections[0].x) == (2, 1.5)
    assert metadata.segmentation_detections[0].shape == Shape(points=[Point(x=1, y=3)])
    found = [
        *metadata.box_detections,
        *metadata.point_detections,
        *metadata.segmentation_detections,
        *metadata.classification_detections,
    ]
    assert [one.category_id for one in found] == ["id-a"] * 4
    drawn = [*metadata.box_annotations, *metadata.point_annotations, metadata.classification_annotation]
    assert [one.category_id for one in drawn] == ["id-b"] * 3


@pytest.mark.parametrize(
    ("name", "given_id", "read_id"), [("a", None, "id-a"), ("a", "own", "own"), ("z", None, None), ("z", "", None)]
)
def test_category_ids_are_filled_by_name(name: str, given_id: str | None, read_id: str | None) -> None:
    """An id that is there stays, and a category the model does not have goes without one."""
    metadata = read({"box_detections": [BOX | {"category_name": name, "category_id": given_id}]})
    assert metadata.box_detections[0].category_id == read_id


def test_without_a_model_nothing_is_filled() -> None:
    """Images are taken before there is a model."""
    metadata = read_upload_metadata({"box_detections": [BOX]}, [])
    assert metadata.box_detections[0].category_id is None


def test_an_outline_may_be_a_text() -> None:
    """As the answer of `/detect` has it."""
    metadata = read({"segmentation_detections": [DETECTION | {"shape": "1,2,3,4"}]})
    assert metadata.segmentation_detections[0].shape == "1,2,3,4"


@pytest.mark.parametrize("date", ["2026-11-23T02:34:25+01:00", DATE, "2026-11-23 02:34"])
@pytest.mark.parametrize("name", ["created", "creation_date"])
def test_a_date_is_kept_as_written(name: str, date: str) -> None:
    """Under either name."""
    assert read({name: date}).created == date


def test_created_comes_before_creation_date() -> None:
    """And both before what is said beside the object."""
    beside = SaidBeside(creation_date="2026-01-01")
    assert read({"created": DATE, "creation_date": "2026-02-02"}, beside=beside).created == DATE
    assert read({"created": None, "creation_date": "2026-02-02"}, beside=beside).created == "2026-02-02"
    assert read({}, beside=beside).created == "2026-01-01"


@pytest.mark.parametrize("date", ["yesterday", "", "2026-13-01", 17, {"a": 1}])
def test_a_wrong_date_costs_no_image(date: object) -> None:
    """The time of receipt takes its place."""
    assert is_now(read({"created": date}).created)


@pytest.mark.parametrize("state", ["inbox", "annotate", "review", "complete", None])
def test_states_are_kept(state: str | None) -> None:
    """The four an image can be handed in with, or none."""
    assert read({"state": state}).state == state


@pytest.mark.parametrize("state", ["trash", "done", 3, ["inbox"]])
def test_other_states_are_dropped_and_told(caplog: pytest.LogCaptureFixture, state: object) -> None:
    """The image is kept nevertheless."""
    with caplog.at_level(logging.WARNING):
        assert read({"state": state}).state is None
    assert "inbox, annotate, review, complete" in caplog.text


@pytest.mark.parametrize(
    ("tags", "beside", "wanted"),
    [
        (None, (), ["picked_by_system"]),
        (["a"], (), ["a", "picked_by_system"]),
        (["picked_by_system", "a"], (), ["picked_by_system", "a"]),
        (["a"], ("b", "a"), ["a", "b", "picked_by_system"]),
        ([], ("picked_by_system",), ["picked_by_system"]),
    ],
)
def test_every_upload_is_tagged_once(tags: object, beside: Sequence[str], wanted: list[str]) -> None:
    """Whoever has said what before."""
    assert read({"tags": tags}, beside=SaidBeside(tags=beside)).tags == wanted


def test_the_clients_object_is_not_changed() -> None:
    """What came in stays as it came."""
    value = {"tags": ["a"], "box_detections": [dict(BOX)], "state": "trash"}
    read(value)
    assert value == {"tags": ["a"], "box_detections": [BOX], "state": "trash"}


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ([], "metadata: an object is needed"),
        ("x", "metadata: an object is needed"),
        ({"tags": "a,b"}, r"metadata\.tags: a list is needed"),
        ({"tags": [1]}, r"metadata\.tags\[0\]: a string is needed"),
        ({"source": 3}, r"metadata\.source: a string is needed"),
        ({"source": "\ud800"}, r"metadata\.source"),
        ({"box_detections": {}}, r"metadata\.box_detections: a list is needed"),
        ({"box_detections": [BOX | {"x": "left"}]}, r"metadata\.box_detections\[0\]\.x: a whole number is needed"),
        ({"box_detections": [BOX | {"x": float("nan")}]}, r"metadata\.box_detections\[0\]\.x"),
        ({"point_detections": [DETECTION]}, r"metadata\.point_detections\[0\]\.x: is missing"),
        ({"segmentation_detections": [DETECTION | {"shape": {}}]}, r"shape\.points: is missing"),
        ({"classification_annotation": {}}, r"metadata\.classification_annotation\.category_name: is missing"),
    ],
)
def test_faults_name_their_field(value: object, fault: str) -> None:
    """Robots' programmers are told what to repair."""
    with pytest.raises(SchemaError, match=fault):
        read(value)


def test_many_faults_make_no_long_text() -> None:
    """The first twenty are named."""
    with pytest.raises(SchemaError) as caught:
        read({"tags": [1] * 1000, "box_detections": [1] * 1000})
    assert len(caught.value.problems) == 21
    assert caught.value.problems[-1].startswith("and ")


def test_one_object_holds_for_all_images() -> None:
    """Each has tags of its own, which may be added to."""
    first, second = read_metadata_of_all({"tags": ["a"], "box_detections": [BOX]}, 2, CATEGORIES)
    assert first == second
    first.tags.append("b")
    assert second.tags == ["a", "picked_by_system"]


def test_a_list_has_one_object_for_each_image() -> None:
    """In their order; null says nothing, and what is said beside fills it."""
    beside = SaidBeside(source="beside")
    first, second = read_metadata_of_all([{"source": "own"}, None], 2, CATEGORIES, beside=beside)
    assert (first.source, second.source) == ("own", "beside")


@pytest.mark.parametrize("count", [1, 3])
def test_a_list_of_another_length_is_refused(count: int) -> None:
    """Nobody guesses which object is missing."""
    with pytest.raises(InputError, match="metadata: a list needs one object for each image, 2 came"):
        read_metadata_of_all([{}, {}], count, CATEGORIES)


def test_faults_in_a_list_name_the_image() -> None:
    """By its place."""
    with pytest.raises(SchemaError, match=r"detections\[1\]\.tags"):
        read_metadata_of_all([{}, {"tags": 3}], 2, CATEGORIES, field="detections")


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = (
    "box_detections",
    "segmentation_detections",
    "tags",
    "created",
    "creation_date",
    "source",
    "state",
    "shape",
    "x",
)


@given(st.dictionaries(st.sampled_from(NAMES), JSON) | JSON)
def test_any_value_is_metadata_or_a_schema_error(value: object) -> None:
    """And what is read can be written as text."""
    try:
        metadata = read(value)
    except SchemaError:
        return
    assert metadata.created
    assert metadata.tags.count("picked_by_system") == 1
    repr(metadata).encode()


@pytest.fixture
def reader() -> UploadReader:
    return UploadReader(10_000, trio.CapacityLimiter(2))


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_stays_as_it_came(orientation: int) -> None:
    """Byte for byte, turned or not."""
    jpeg = encoded(orientation=orientation)
    assert as_jpeg(jpeg, max_pixels=100) is jpeg


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "L"), ("WebP", "RGB"), ("BMP", "RGB")]
)
def test_other_formats_become_jpegs(kind: str, mode: str) -> None:
    """With their pixels, but for what quality 95 costs."""
    data = encoded(kind, mode=mode)
    jpeg = as_jpeg(data, max_pixels=100)
    assert jpeg.startswith(b"\xff\xd8")
    difference = decode_image(jpeg, max_pixels=100).astype(int) - decode_image(data, max_pixels=100)
    assert abs(difference).max() <= 4


def test_a_turned_png_is_stored_upright() -> None:
    """The pixels are turned, since the JPEG says nothing of it."""
    jpeg = as_jpeg(encoded("PNG", orientation=6), max_pixels=100)
    assert Image.open(io.BytesIO(jpeg)).size == (6, 8)


@pytest.mark.parametrize("shape", [(6, 8, 3), (6, 8), (6, 8, 1), (6, 8, 4)])
async def test_raw_arrays_become_jpegs(reader: UploadReader, shape: tuple[int, ...]) -> None:
    """RGB, grey, and with an alpha channel."""
    array = np.full(shape, 200, np.uint8)
    image = {"bytes": array.tobytes(), "dtype": "uint8", "shape": list(shape)}
    upload = await reader.read_event({"image": image}, [])
    assert decode_image(upload.jpeg, max_pixels=100).shape == (6, 8, 3)


async def test_events_of_early_generations_are_read(reader: UploadReader) -> None:
    """The image as bytes, all that is known of it beside each other."""
    upload = await reader.read_event(
        {
            "image": JPEG,
            "mac": "aa:bb",
            "tags": ["t"],
            "source": "robot",
            "creation_date": DATE,
            "detections": {"box_detections": [BOX], "tags": []},
        },
        CATEGORIES,
    )
    metadata = upload.metadata
    assert (upload.jpeg, upload.priority) == (JPEG, False)
    assert (metadata.created, metadata.source, metadata.tags) == (DATE, "robot", ["t", "picked_by_system"])
    assert metadata.box_detections[0].category_id == "id-a"


@pytest.mark.parametrize("image", [JPEG, {"format": "jpeg", "bytes": JPEG}])
async def test_events_of_late_generations_are_read(reader: UploadReader, image: Any) -> None:
    """One object of metadata, and a priority."""
    data = {"image": image, "metadata": {"source": "robot", "tags": None}, "upload_priority": True}
    upload = await reader.read_event(data, CATEGORIES)
    assert (upload.jpeg, upload.priority, upload.metadata.source) == (JPEG, True, "robot")


async def test_an_image_alone_is_an_event(reader: UploadReader) -> None:
    """Null is what is not said."""
    upload = await reader.read_event({"image": JPEG, "tags": None, "detections": None, "metadata": None}, [])
    assert upload.metadata.tags == ["picked_by_system"]


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (None, "an object with the request's fields is needed, not null"),
        ({}, "image: an encoded image or an object with its bytes is needed, not null"),
        ({"image": "text"}, "image: an encoded image"),
        ({"image": {"format": "tiff", "bytes": b""}}, "image: format 'raw' or 'jpeg'"),
        ({"image": {"format": "jpeg"}}, "image: format 'raw' or 'jpeg'"),
        ({"image": {"bytes": b"0" * 12, "dtype": "float32", "shape": [1, 1, 3]}}, "image: dtype: 'uint8' is needed"),
        ({"image": {"bytes": b"0", "dtype": "uint8", "shape": [1, 1, 3]}}, "image: bytes: the shape"),
        ({"image": b"garbage"}, "image: this is no image we read"),
        ({"image": JPEG[:-20]}, "image: the JPEG image is truncated"),
        ({"image": encoded(width=101, height=100)}, "image: the image has 101 x 100 pixels"),
        ({"image": JPEG, "metadata": []}, "metadata: an object is needed"),
        ({"image": JPEG, "detections": {"box_detections": [{}]}}, r"detections\.box_detections\[0\]\.x: is missing"),
        ({"image": JPEG, "tags": "a"}, "tags: a list of texts is needed"),
        ({"image": JPEG, "source": []}, "source: a text is needed"),
        ({"image": JPEG, "upload_priority": "soon"}, "upload_priority: true or false is needed, not 'soon'"),
        ({"image": JPEG, "upload_priority": []}, "upload_priority: true or false is needed, not list"),
    ],
)
async def test_faults_in_events_name_their_field(reader: UploadReader, data: Any, fault: str) -> None:
    """An input error each, whatever comes."""
    with pytest.raises(InputError, match=fault):
        await reader.read_event(data, CATEGORIES)


Post = Callable[..., Any]


@pytest.fixture
def post(reader: UploadReader) -> Post:
    """Hands in a form: (field, filename, content) each; answers with what was read."""

    async def send(
        *parts: tuple[str, str | None, bytes], query: str = "", headers: dict[str, str] | None = None, kind: str = ""
    ) -> list[ImageUpload]:
        body = b"".join(_part(*part) for part in parts) + b"--frontier--\r\n"
        app = QuartTrio("t")
        app.config["MAX_BODY_BYTES"] = 3 << 20
        said = {"Content-Type": kind or "multipart/form-data; boundary=frontier"} | (headers or {})
        async with app.test_request_context(f"/upload?{query}", method="POST", headers=said, data=body):
            return await reader.read_request(request, CATEGORIES)

    return send


def _part(field: str, filename: str | None, content: bytes) -> bytes:
    name = f'; filename="{filename}"' if filename is not None else ""
    return f'--frontier\r\nContent-Disposition: form-data; name="{field}"{name}\r\n\r\n'.encode() + content + b"\r\n"


async def test_files_come_in_their_order(post: Post) -> None:
    """One or many, as `files` or as `file`, byte for byte."""
    others = [encoded(width=width) for width in (9, 10)]
    uploads = await post(("files", "a.jpg", JPEG), ("file", "b.jpg", others[0]), ("files", "c.jpg", others[1]))
    assert [upload.jpeg for upload in uploads] == [JPEG, *others]
    assert [upload.priority for upload in uploads] == [False] * 3
    assert [upload.metadata.tags for upload in uploads] == [["picked_by_system"]] * 3


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        (f"source=cam&creation_date={DATE}&upload_priority=true", {}),
        (f"source=cam&creation-date={DATE}&upload-priority=1", {}),
        ("", {"source": "cam", "creation-date": DATE, "upload-priority": "True"}),
        ("", {"source": "cam", "creation_date": DATE, "upload_priority": "1"}),
        ("source=other&upload_priority=0", {"source": "cam", "creation_date": DATE, "upload_priority": "1"}),
    ],
)
async def test_words_stand_in_query_or_headers(post: Post, query: str, headers: dict[str, str]) -> None:
    """In both spellings; headers come first."""
    (upload,) = await post(("files", "a.jpg", JPEG), query=query, headers=headers)
    assert (upload.metadata.source, upload.metadata.created, upload.priority) == ("cam", DATE, True)


@pytest.mark.parametrize("word", ["false", "0", "False", ""])
async def test_no_priority_can_be_said(post: Post, word: str) -> None:
    """As it is if nothing is said."""
    (upload,) = await post(("files", "a.jpg", JPEG), query=f"upload_priority={word}")
    assert not upload.priority


async def test_a_wrong_date_is_replaced(post: Post) -> None:
    """By the time of receipt."""
    (upload,) = await post(("files", "a.jpg", JPEG), query="creation_date=yesterday")
    assert is_now(upload.metadata.created or "")


@pytest.mark.parametrize("field", ["metadata", "detections"])
async def test_a_form_field_says_what_is_in_the_images(post: Post, field: str) -> None:
    """One object for all of them, or a list; the words of the request fill what it leaves open."""
    files = [("files", "a.jpg", JPEG), ("files", "b.jpg", JPEG)]
    said = {"box_detections": [BOX], "source": "own"}
    for value, sources in ((said, ["own", "own"]), ([said, {}], ["own", "cam"])):
        uploads = await post(*files, (field, None, json.dumps(value).encode()), query="source=cam")
        assert [upload.metadata.source for upload in uploads] == sources
        assert uploads[0].metadata.box_detections[0].category_id == "id-a"


GOOD = ("files", "good.jpg", JPEG)


@pytest.mark.parametrize(
    ("parts", "fault"),
    [
        ([], "field 'files' is missing"),
        ([("image", "a.jpg", JPEG)], r"field 'files' is missing.*'image'"),
        ([GOOD, ("files", "bad.png", encoded("PNG"))], r"files\[1\] 'bad.png': this is no JPEG"),
        (
            [("files", "bad.jpg", JPEG[:-20]), GOOD],
            r"files\[0\] 'bad.jpg': the JPEG image is truncated.*nothing was stored",
        ),
        ([GOOD, ("files", "empty.jpg", b"")], r"files\[1\] 'empty.jpg': this is no JPEG"),
        ([GOOD, ("files", "big.jpg", encoded(width=101, height=100))], r"files\[1\] 'big.jpg': .* 101 x 100 pixels"),
        ([GOOD, ("metadata", None, b"{")], "metadata: this is no JSON"),
        ([GOOD, ("metadata", None, b"\xff")], "metadata: this is no JSON"),
        ([GOOD, ("metadata", None, b"[" * 100_000)], "metadata: this is no JSON"),
        ([GOOD, ("metadata", None, b"3")], "metadata: an object is needed"),
        ([GOOD, ("metadata", None, b"[{}, {}]")], "metadata: a list needs one object for each image"),
        ([GOOD, ("metadata", None, b"{}"), ("detections", None, b"{}")], "detections: send one field with a list"),
        ([GOOD, ("detections", None, b'{"tags": 1}')], r"detections\.tags: a list is needed"),
    ],
)
async def test_faults_in_requests_are_named(post: Post, parts: Any, fault: str) -> None:
    """Each an input error; of such a request nothing is accepted."""
    with pytest.raises(InputError, match=fault):
        await post(*parts)


async def test_an_unclear_priority_is_refused(post: Post) -> None:
    """By the name of the word."""
    with pytest.raises(InputError, match="upload_priority: true or false is needed, not 'soon'"):
        await post(GOOD, query="upload_priority=soon")


async def test_only_forms_are_read(post: Post) -> None:
    """Another type of body is named."""
    with pytest.raises(InputError, match=r"'files'.*text/plain"):
        await post(GOOD, kind="text/plain")


async def test_one_object_for_many_images_is_bounded(post: Post) -> None:
    """A large one would be stored once for each."""
    large = ("metadata", None, b'{"note": "%s"}' % (b"x" * (1 << 20)))
    with pytest.raises(TooLarge, match="send a list"):
        await post(GOOD, GOOD, large)
    assert len(await post(GOOD, large)) == 1


async def test_a_large_form_is_refused(post: Post) -> None:
    """By the app's own bound."""
    with pytest.raises(TooLarge):
        await post(("files", "a.jpg", b"x" * (4 << 20)))


async def test_images_are_not_shown_in_logs(reader: UploadReader) -> None:
    """An upload's text is short, however large its image."""
    upload = await reader.read_event({"image": JPEG}, [])
    assert "\\xff" not in repr(upload)


@given(st.binary(max_size=60), st.integers(0, len(JPEG)))
async def test_any_bytes_are_a_jpeg_or_an_image_error(tail: bytes, cut: int) -> None:
    """Whatever is stored can be read again."""
    reader = UploadReader(10_000, trio.CapacityLimiter(2))
    for data in (tail, JPEG[:cut] + tail, JPEG + tail):
        try:
            upload = await reader.read_event({"image": data}, [])
        except ImageError:
            continue
        assert decode_image(upload.jpeg, max_pixels=10_000).ndim == 3
