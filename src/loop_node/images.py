"""JPEG, PNG, WebP and BMP bytes to arrays and back: the one door to simplejpeg and Pillow.

Everything here blocks and belongs into a worker thread; all of it may run in many threads at once. Whatever the bytes,
a decoder's answer is an upright image or `ImageError`.
"""

import ctypes
import io
import logging
import math
import struct
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import simplejpeg
from attrs import frozen
from numpy.typing import NDArray
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from loop_node.errors import ImageError

__all__ = ["InspectedJpeg", "as_rgb", "decode_image", "encode_jpeg", "inspect_jpeg", "keep_large_buffers", "read_raw"]

log = logging.getLogger(__name__)

MAX_JPEG_SIDE_PX = 65_500  # libjpeg's own limit
MAX_JPEG_SCANS = 100  # a progressive photo has about 10; each costs a pass over all pixels for a few bytes of file
EXIF_WITHIN_BYTES = 1 << 18  # cameras put it first

# libjpeg warnings and refusals of simplejpeg that are no damage: cameras that pad between segments, rare subsamplings.
# Pillow reads these; it refuses them itself if there is damage beside.
_HARMLESS = ("extraneous bytes before marker", "subsampling level")

# The pixel limit is checked here, from the same header, so Pillow's own would only warn beside it. The filter is set
# once and for all because changing filters around a call is not thread-safe.
Image.MAX_IMAGE_PIXELS = None
warnings.filterwarnings("ignore", module=r"PIL\.")


def decode_image(data: bytes | memoryview, *, max_pixels: int) -> NDArray[np.uint8]:
    """Decode a JPEG, PNG, WebP or BMP file as its viewer would see it.

    EXIF orientation is applied. Grey, palette and CMYK become RGB; of 16 bits the upper 8 are kept; alpha is dropped
    without compositing, as training pipelines do; of an animation the first frame counts.

    Args:
        data: The whole file.
        max_pixels: Refuse more than width x height pixels; checked from the header, before any pixel is decoded.

    Returns:
        RGB, uint8, shape (H, W, 3), C-contiguous, writable, owned by the caller.

    Raises:
        ImageError: Empty, truncated, damaged, of another format or with too many pixels; the text says which.
    """
    if not len(data):
        raise ImageError("the image is empty (0 bytes)")
    name, opener = _recognise(bytes(data[:16]))
    try:
        if opener is JpegImageFile:
            image, exif = _decode_jpeg(data, max_pixels)
        else:
            image, exif = _decode_with_pillow(data, opener, max_pixels)
    except ImageError:
        raise
    except Exception as error:  # a door to foreign code: which errors damaged files bring about is nowhere documented
        log.debug("a decoder refused %d bytes of %s", len(data), name, exc_info=True)
        raise ImageError(f"the {name} image is truncated or damaged: {error}") from error
    return _turn_upright(image, _orientation(exif))


@frozen(kw_only=True)
class InspectedJpeg:
    """What is known of a JPEG that was read to its end; the size is that of the upright image."""

    width_px: int
    height_px: int
    thumbnail: bytes


def inspect_jpeg(data: bytes | memoryview, *, max_pixels: int, thumbnail_px: int = 240) -> InspectedJpeg:
    """Read a JPEG to its end, at the least resolution that gives a thumbnail: about half the time of decoding it.

    Args:
        data: The whole file.
        max_pixels: As for `decode_image`.
        thumbnail_px: The thumbnail's shorter side has at least this, and less than twice as much, unless the image itself
            has less or is CMYK.

    Raises:
        ImageError: It is no JPEG, truncated, damaged or has too many pixels; the text says which.
    """
    if bytes(data[:2]) != b"\xff\xd8":
        raise ImageError(f"this is no JPEG (it begins with {bytes(data[:8])!r})")
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data, strict=False)
        pixels, exif = _decode_jpeg(data, max_pixels, at_least_px=thumbnail_px)
    except ImageError:
        raise
    except Exception as error:  # a door to foreign code, as in `decode_image`
        log.debug("a decoder refused %d bytes of JPEG", len(data), exc_info=True)
        raise ImageError(f"the JPEG image is truncated or damaged: {error}") from error
    orientation = _orientation(exif)
    if orientation >= 5:
        height, width = width, height
    thumbnail = encode_jpeg(_turn_upright(pixels, orientation), quality=80)
    return InspectedJpeg(width_px=width, height_px=height, thumbnail=thumbnail)


def read_raw(data: object, *, dtype: object, shape: object, max_pixels: int) -> NDArray[np.uint8]:
    """See the bytes of an array that a client took apart as an image; everything is checked before anything is allocated.

    Args:
        data: The array's bytes in C order.
        dtype: What the client says they are; only `uint8` is an image.
        shape: What the client says of their shape: (H, W, 3) for RGB, (H, W) or (H, W, 1) for grey, (H, W, 4) for RGB
            with an alpha channel, which is dropped.
        max_pixels: Refuse more than width x height pixels.

    Returns:
        A read-only view of `data`, uint8, of the shape that was said; `as_rgb` makes it RGB.

    Raises:
        ImageError: The three do not describe an image, or contradict each other; names which.
    """
    if dtype != "uint8":
        raise ImageError(f"dtype: 'uint8' is needed, not {_quoted(dtype)}")
    sides = _read_shape(shape)
    _check_pixels(sides[1], sides[0], max_pixels)
    if not isinstance(data, (bytes, bytearray)):
        raise ImageError(f"bytes: the bytes of the array are needed, not {type(data).__name__}")
    if len(data) != math.prod(sides):
        raise ImageError(f"bytes: the shape {sides} needs {math.prod(sides)} bytes, {len(data)} came")
    return np.frombuffer(data, np.uint8).reshape(sides)


def as_rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image of any shape that `read_raw` returns as RGB, shape (H, W, 3); RGB itself without a copy."""
    if image.ndim == 2 or image.shape[2] == 1:
        return np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    return image if image.shape[2] == 3 else np.ascontiguousarray(image[:, :, :3])


def encode_jpeg(image: NDArray[np.uint8], quality: int = 95) -> bytes:
    """Encode an image as JPEG without chroma subsampling (4:4:4).

    What is encoded here gets labelled and trained on: small coloured objects keep their colour, for a third more bytes.

    Args:
        image: RGB, uint8, shape (H, W, 3), each side 1..65500 pixels.
        quality: 1..100.

    Raises:
        ImageError: Not such an array.
        ValueError: Not such a quality.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"quality must be 1..100, not {quality}")
    _check_rgb(image)
    if not all(1 <= side_px <= MAX_JPEG_SIDE_PX for side_px in image.shape[:2]):
        raise ImageError(f"a JPEG has 1..{MAX_JPEG_SIDE_PX} pixels a side, this image has the shape {image.shape}")
    encoded: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality, "RGB", "444")
    return encoded


def keep_large_buffers() -> bool:
    """Let glibc keep freed image buffers for the next image; returns whether it will (False elsewhere).

    By default glibc maps each block of some MB anew and gives it back on free, so each image pays for having its pages
    zeroed one fault at a time: more CPU than a fast decode. To be called once, before the work starts. The price: freed
    memory stays with the process up to its peak.
    """
    m_trim_threshold, m_mmap_threshold, one_gib = -1, -3, 1 << 30  # names and numbers of malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS; Windows cannot even open None
        return False
    return bool(mallopt(m_mmap_threshold, one_gib)) and bool(mallopt(m_trim_threshold, one_gib))


def _recognise(head: bytes) -> tuple[str, Callable[[io.BytesIO], ImageFile]]:
    """The format's name and Pillow's class for it, from a file's first bytes."""
    if head.startswith(b"\xff\xd8"):
        return "JPEG", JpegImageFile
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG", PngImageFile
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP", WebPImageFile
    if head.startswith(b"BM"):
        return "BMP", BmpImageFile
    raise ImageError(f"this is no image we read (it begins with {head[:8]!r}): send JPEG, PNG, WebP or BMP")


def _decode_jpeg(data: bytes | memoryview, max_pixels: int, *, at_least_px: int = 0) -> tuple[NDArray[np.uint8], bytes]:
    """Pixels and EXIF of a JPEG: simplejpeg in strict mode, Pillow for what it cannot or need not refuse.

    With `at_least_px` simplejpeg halves the resolution as often as both sides keep that many pixels.
    """
    scans = bytes(data).count(b"\xff\xda")  # inside of coded pixels an FF is always followed by something else
    if scans > MAX_JPEG_SCANS:
        raise ImageError(f"the JPEG image has {scans} scans, more than {MAX_JPEG_SCANS}")
    try:
        height, width, colour_space, _ = simplejpeg.decode_jpeg_header(data)
        _check_pixels(width, height, max_pixels)
        if colour_space not in ("CMYK", "YCCK"):
            sides = {"min_height": at_least_px, "min_width": at_least_px} if at_least_px else {}
            return simplejpeg.decode_jpeg(data, "RGB", **sides), _jpeg_exif(data)
    except ValueError as error:
        if not any(harmless in str(error) for harmless in _HARMLESS):
            raise
    return _decode_with_pillow(data, JpegImageFile, max_pixels)


def _decode_with_pillow(
    data: bytes | memoryview, opener: Callable[[io.BytesIO], ImageFile], max_pixels: int
) -> tuple[NDArray[np.uint8], bytes]:
    """Pixels and EXIF by the Pillow class `opener`, which reads only the header until `load`."""
    with opener(io.BytesIO(data)) as image:
        _check_pixels(*image.size, max_pixels)
        image.load()
        exif = image.info.get("exif")
        exif = exif if isinstance(exif, bytes) else b""  # a text of a PNG may have this name, too
        image.info.pop("transparency", None)  # or convert would turn it into alpha, or into a warning
        if image.mode.startswith("I"):  # 16 bit grey, which convert("RGB") would clip at 255
            grey: NDArray[Any] = np.asarray(image)
            return np.repeat((grey >> 8).astype(np.uint8)[:, :, None], 3, axis=2), exif
        return np.array(image.convert("RGB")), exif  # a copy: asarray would be read-only


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(
            f"the image has {width} x {height} pixels, the limit is {max_pixels} (the setting MAX_IMAGE_PIXELS)"
        )


def _read_shape(shape: object) -> tuple[int, ...]:
    sides: tuple[Any, ...] = tuple(shape) if isinstance(shape, (list, tuple)) else ()
    is_count = all(type(side) is int and 0 < side < 1 << 31 for side in sides)
    if not is_count or len(sides) not in (2, 3) or sides[2:] not in ((), (1,), (3,), (4,)):
        raise ImageError(f"shape: [height, width, 3] is needed, not {_quoted(shape)}")
    return sides


def _quoted(value: object) -> str:
    """A client's value in few words, however large it is."""
    if isinstance(value, str):
        return repr(value[:40])
    if value is None or isinstance(value, (bool, int, float)):
        return f"{value!r:.40}"
    if isinstance(value, (list, tuple)) and len(value) <= 4:
        return f"[{', '.join(map(_quoted, value))}]"
    return type(value).__name__


def _check_rgb(image: NDArray[np.uint8]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ImageError(f"an image must be uint8 of shape (H, W, 3), not {image.dtype} of shape {image.shape}")


def _jpeg_exif(data: bytes | memoryview) -> bytes:
    """The EXIF block of a JPEG, or nothing; follows the chain of segments (ITU-T T.81, B.1.1.4) up to the pixels."""
    head = bytes(data[:EXIF_WITHIN_BYTES])
    at = 2
    while at + 4 <= len(head) and head[at] == 0xFF and head[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(head[at + 2 : at + 4], "big")
        if head[at + 1] == 0xE1 and head[at + 4 : at + 10] == b"Exif\0\0":
            return head[at + 4 : end]
        at = end
    return b""


def _orientation(exif: bytes) -> int:
    """Tag 274 of an EXIF block's first directory (TIFF 6.0, section 2), 1..8; 1 wherever it cannot be read."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2], "")
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
        for at in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, at)
            if tag == 274:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _turn_upright(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo an EXIF orientation: bit by bit, 5..8 swap the axes, then 2, 3, 6, 7 mirror x and 3, 4, 7, 8 mirror y."""
    if orientation == 1:
        return image
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    upright = np.empty(image.shape, np.uint8)
    for channel in range(3):  # three times as fast as a copy of all three at once
        upright[:, :, channel] = image[:, :, channel]
    return upright
