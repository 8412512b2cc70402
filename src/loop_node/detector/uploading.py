"""Images that clients hand in for the Learning Loop, over REST and Socket.IO, made ready to be stored.

A JPEG stays as it came, byte for byte; a raw array and any other format become an upright JPEG of quality 95. Every
image is read to its end before it is accepted, and of a request all images are accepted or none. Whatever takes time
runs in threads. Cancelled, nothing is left behind but a thread that ends by itself.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
import trio
from attrs import field, frozen
from quart import Request

from loop_node import images
from loop_node.errors import ImageError, InputError, TooLarge
from loop_node.schemas.detections import ImageMetadata
from loop_node.schemas.models import Category
from loop_node.serving.uploads import Upload, read_body, split_multipart
from loop_node.socketio.packets import Value

from .detection import Pixels
from .event_fields import quoted, read_object, read_sent_image, read_tags, read_text
from .upload_metadata import SaidBeside, read_metadata_of_all, read_upload_metadata
from .words import CREATION_DATE, SOURCE, Word

__all__ = ["UPLOAD_FORM", "UPLOAD_WORDS", "ImageUpload", "UploadReader", "as_jpeg"]

T = TypeVar("T")

_JPEG_START: Final = b"\xff\xd8"
_FILES: Final = ("files", "file")
_METADATA: Final = ("metadata", "detections")
_MAX_SHARED_BYTES: Final = 1 << 20
_YES: Final = ("true", "1", "yes", "on", "y", "t")
_NO: Final = ("false", "0", "no", "off", "n", "f")

_UPLOAD_PRIORITY: Final = Word(
    ("upload-priority", "upload_priority"),
    "Whether these images go before the others.",
    {"type": "boolean", "default": False},
)
UPLOAD_WORDS: Final = (SOURCE, CREATION_DATE, _UPLOAD_PRIORITY)
"""The words beside the images of `/upload`."""

UPLOAD_FORM: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {
        "files": {"type": "array", "items": {"type": "string", "format": "binary"}, "description": "JPEG images."},
        "metadata": {
            "type": "string",
            "description": "What is known of them, as JSON: an object for all, or a list with one for each.",
        },
    },
    "required": ["files"],
}
"""The JSON schema of the body of `/upload`."""


@frozen(kw_only=True)
class ImageUpload:
    """An image to be stored: a whole JPEG, what is said of it, and whether it goes before the others."""

    jpeg: bytes = field(repr=False)
    metadata: ImageMetadata
    priority: bool = False


@frozen
class UploadReader:
    """Reads what clients hand in.

    Args:
        max_image_pixels: Larger images are refused.
        workers: How many images are read and encoded at once, each in a thread.
    """

    max_image_pixels: int
    workers: trio.CapacityLimiter

    async def read_request(self, request: Request, categories: Sequence[Category]) -> list[ImageUpload]:
        """The images of a `POST /upload`, in the order in which they came.

        Args:
            request: A multipart form: `files` or `file`, 1..n times; `metadata` or `detections`, not more than once.
            categories: Those of the model, or none.

        Raises:
            ImageError: A file is no whole JPEG, or has too many pixels; names it.
            SchemaError: The metadata are wrong.
            InputError: There is no image, or the form or a word cannot be used.
            TooLarge: The body, or an object of metadata that is meant for all images.
        """
        priority = _read_priority(_UPLOAD_PRIORITY.read(request), "upload_priority")
        beside = SaidBeside(source=SOURCE.read(request), creation_date=CREATION_DATE.read(request))
        parts = await _parts(request)
        files = [part for part in parts if part.name in _FILES and (part.filename is not None or part.data)]
        if not files:
            others = ", ".join(sorted({repr(part.name[:40]) for part in parts})) or "none"
            raise InputError(f"field 'files' is missing: it must hold the images (fields that came: {others})")
        name, text = _metadata_field(parts)
        metadata = await self._in_thread(
            lambda: read_metadata_of_all(
                _from_json(name, text, len(files)), len(files), categories, beside=beside, field=name
            )
        )
        for index, file in enumerate(files):
            await self._in_thread(partial(self._check_file, file, index))
        return [
            ImageUpload(jpeg=file.data, metadata=one, priority=priority)
            for file, one in zip(files, metadata, strict=True)
        ]

    async def read_event(self, data: Value, categories: Sequence[Category]) -> ImageUpload:
        """The image of an `upload` event, of any generation.

        Args:
            data: An object: `image`; `metadata`, or `detections`, `tags`, `source` and `creation_date`; `upload_priority`.
            categories: Those of the model, or none.

        Raises:
            ImageError: The image cannot be read, or has too many pixels.
            SchemaError: The metadata are wrong.
            InputError: Another field is.
        """
        said = read_object(data)
        image = read_sent_image(said.get("image"), "image", max_pixels=self.max_image_pixels)
        priority = _read_priority(said.get("upload_priority"), "upload_priority")
        beside = SaidBeside(
            source=read_text(said, "source"), creation_date=read_text(said, "creation_date"), tags=read_tags(said)
        )
        name = next((name for name in _METADATA if said.get(name) is not None), _METADATA[0])
        metadata = await self._in_thread(
            lambda: read_upload_metadata(said.get(name), categories, beside=beside, field=name)
        )
        jpeg = await self._in_thread(partial(self._checked_jpeg, image))
        return ImageUpload(jpeg=jpeg, metadata=metadata, priority=priority)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self.workers, abandon_on_cancel=True)

    def _check_file(self, file: Upload, index: int) -> None:
        try:
            self._check(file.data)
        except ImageError as error:
            raise ImageError(f"files[{index}] {(file.filename or '')[:100]!r}: {error}; nothing was stored") from error

    def _checked_jpeg(self, image: bytes | Pixels) -> bytes:
        try:
            if isinstance(image, bytes) and image.startswith(_JPEG_START):
                self._check(image)
            return as_jpeg(image, max_pixels=self.max_image_pixels)
        except ImageError as error:
            raise ImageError(f"image: {error}") from error

    def _check(self, jpeg: bytes) -> None:
        images.inspect_jpeg(jpeg, max_pixels=self.max_image_pixels, thumbnail_px=1)  # the least work


def as_jpeg(image: bytes | Pixels, *, max_pixels: int) -> bytes:
    """An image as it is stored. Blocking.

    Args:
        image: Encoded in any format we read, or an array as `images.read_raw` returns it.
        max_pixels: Of what has to be decoded.

    Returns:
        A JPEG as it came, and unread: who has not decoded it has to check it. All else as an upright JPEG of quality 95.

    Raises:
        ImageError: It is no image, or too large for a JPEG.
    """
    if not isinstance(image, bytes):
        return images.encode_jpeg(images.as_rgb(image))
    if image.startswith(_JPEG_START):
        return image
    return images.encode_jpeg(images.decode_image(image, max_pixels=max_pixels))


async def _parts(request: Request) -> list[Upload]:
    body = await read_body(request)
    if request.mimetype != "multipart/form-data":
        raise InputError(
            "no images: send multipart/form-data with the field 'files'"
            f" (this body is {request.mimetype or 'of no stated type'})"
        )
    return split_multipart(body, request.mimetype_params.get("boundary", ""))


def _metadata_field(parts: Sequence[Upload]) -> tuple[str, bytes]:
    """The name of the one field that says something of the images, and its text."""
    said = [part for part in parts if part.name in _METADATA and part.data.strip()]
    if len(said) > 1:
        raise InputError(f"{said[1].name}: send one field with a list, one object for each image")
    return (said[0].name, said[0].data) if said else (_METADATA[0], b"null")


def _from_json(name: str, text: bytes, count: int) -> object:
    try:
        value: object = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{name}: this is no JSON: {error}") from None
    if count > 1 and not isinstance(value, list) and len(text) > _MAX_SHARED_BYTES:
        raise TooLarge(f"{name}: an object for several images may have {_MAX_SHARED_BYTES} bytes; send a list")
    return value


def _read_priority(value: object, name: str) -> bool:
    """Forms and robots write it as a text, a number or a truth value."""
    word = "false" if value is None or value == "" else str(value).lower() if isinstance(value, (str, int)) else ""
    if word not in (*_YES, *_NO):
        raise InputError(f"{name}: true or false is needed, not {quoted(value)}")
    return word in _YES
