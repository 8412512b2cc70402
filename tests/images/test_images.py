"""Real photos in every form people send them, and files that are none."""

import io
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from loop_node.errors import ImageError
from loop_node.images import MAX_JPEG_SCANS, decode_image, encode_jpeg

PHOTOS = Path(skimage.__file__).parent / "data"
LIMIT = 1_000_000
FORMATS = ["JPEG", "PNG", "WEBP", "BMP"]


def photo(name: str = "chelsea.png", size: tuple[int, int] = (151, 100)) -> Image.Image:
    """A real photo, small: odd sides, so that blocks and row padding count."""
    with Image.open(PHOTOS / name) as image:
        return image.convert("RGB").resize(size)


def encoded(image: Image.Image, fmt: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()


def decode(data: bytes) -> NDArray[np.uint8]:
    image = decode_image(data, max_pixels=LIMIT)
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.flags.c_contiguous
    assert image.flags.writeable
    return image


def difference(image: NDArray[np.uint8], expected: Image.Image) -> float:
    reference = np.asarray(expected.convert("RGB"), np.int16)
    assert image.shape == reference.shape
    return float(np.abs(image - reference).mean())


# what people send


@pytest.mark.parametrize("name", ["astronaut.png", "chelsea.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg"])
def test_real_photos_as_they_are(name: str) -> None:
    """A photo comes out as Pillow sees it, but for rounding in the inverse DCT."""
    data = (PHOTOS / name).read_bytes()
    image = decode_image(data, max_pixels=10_000_000)
    with Image.open(PHOTOS / name) as expected:
        assert difference(image, expected) < 0.5


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"keep_rgb": True}]
)
def test_kinds_of_jpeg(options: dict[str, Any]) -> None:
    """Baseline, progressive, each subsampling and RGB JPEGs."""
    data = encoded(photo(), quality=95, **options)
    assert difference(decode(data), Image.open(io.BytesIO(data))) < 1


@pytest.mark.parametrize("fmt", FORMATS)
def test_grey(fmt: str) -> None:
    """Grey images get three equal channels."""
    grey = photo().convert("L")
    image = decode(encoded(grey, fmt))
    assert difference(image, grey) < 3
    assert np.ptp(image.astype(np.int16), axis=2).max() <= (3 if fmt == "WEBP" else 0)


def test_cmyk_jpeg() -> None:
    """Print people's JPEGs show their true colours, not inverted ones."""
    assert difference(decode(encoded(photo().convert("CMYK"), quality=95)), photo()) < 3


def test_16_bit_grey_png_keeps_the_upper_byte() -> None:
    """A depth or X-ray image is scaled to 8 bits, not clipped."""
    deep = np.arange(100 * 150, dtype=np.uint16).reshape(100, 150) * 4
    image = decode(encoded(Image.fromarray(deep), "PNG"))
    assert (image == (deep >> 8)[:, :, None]).all()


def png(width: int, height: int, depth: int, colour: int, pixels: bytes) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_16_bit_colour_png_keeps_the_upper_byte() -> None:
    """Sixteen bits per channel become the upper eight."""
    pixels = np.array([[[0x1234, 0xABCD, 0xFF00], [0x0100, 0x00FF, 0x8000]]], ">u2")
    image = decode(png(2, 1, 16, 2, b"\0" + pixels.tobytes()))
    assert image.tolist() == [[[0x12, 0xAB, 0xFF], [0x01, 0x00, 0x80]]]


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA"])
def test_png_modes(mode: str) -> None:
    """Black and white, palette, and alpha that hides nothing."""
    image = photo().convert(mode)
    assert difference(decode(encoded(image, "PNG")), image) == 0


@pytest.mark.parametrize("transparency", [0, bytes(range(256))])
def test_transparent_palette(transparency: int | bytes) -> None:
    """Transparent palette entries keep their colour."""
    image = photo().convert("P")
    assert difference(decode(encoded(image, "PNG", transparency=transparency)), image) == 0


@pytest.mark.parametrize("fmt", ["PNG", "WEBP"])
def test_alpha_is_dropped(fmt: str) -> None:
    """What is hidden behind alpha is shown as it is stored."""
    image = photo()
    image.putalpha(0)
    options = {"lossless": True, "exact": True} if fmt == "WEBP" else {}
    assert difference(decode(encoded(image, fmt, **options)), photo()) == 0


@pytest.mark.parametrize("fmt", ["PNG", "WEBP"])
def test_first_frame_of_an_animation(fmt: str) -> None:
    """Animations count as their first frame."""
    frames = [photo("astronaut.png"), photo("chelsea.png")]
    options = {"lossless": True} if fmt == "WEBP" else {}
    data = encoded(frames[0], fmt, save_all=True, append_images=frames[1:], **options)
    assert difference(decode(data), frames[0]) == 0


@pytest.mark.parametrize("fmt", FORMATS)
def test_one_pixel(fmt: str) -> None:
    """The smallest image there is."""
    assert decode(encoded(Image.new("RGB", (1, 1), "white"), fmt)).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("size", [(65_500, 1), (1, 65_500)])
def test_the_longest_jpeg(size: tuple[int, int]) -> None:
    """The longest side libjpeg allows."""
    assert decode(encoded(Image.new("L", size, 255))).shape == (size[1], size[0], 3)


@pytest.mark.parametrize("fmt", FORMATS)
def test_memoryview(fmt: str) -> None:
    """A slice of a body needs no copy."""
    body = b"--boundary" + encoded(photo(), fmt) + b"--boundary--"
    image = decode_image(memoryview(body)[10:-12], max_pixels=LIMIT)
    assert difference(image, photo()) < 5


def test_many_threads() -> None:
    """Decoding in parallel gives what it gives alone."""
    files = [encoded(photo(), fmt) for fmt in FORMATS]
    alone = [decode(data) for data in files]
    with ThreadPoolExecutor(4) as pool:
        for expected, image in zip(alone * 10, pool.map(decode, files * 10), strict=True):
            assert (expected == image).all()


# orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation(orientation: int, fmt: str) -> None:
    """All eight orientations come out upright, in each format that can carry one."""
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if fmt == "WEBP" else {}
    data = encoded(photo(), fmt, exif=exif.tobytes(), **options)
    assert difference(decode(data), ImageOps.exif_transpose(Image.open(io.BytesIO(data)))) < 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_cmyk(orientation: int) -> None:
    """The road by Pillow turns, too."""
    exif = Image.Exif()
    exif[274] = orientation
    data = encoded(photo().convert("CMYK"), exif=exif.tobytes())
    assert difference(decode(data), ImageOps.exif_transpose(Image.open(io.BytesIO(data)))) == 0


def big_endian_exif(orientation: int, *, entries: int = 1, directory: int = 8) -> bytes:
    entry = struct.pack(">HHIHH", 274, 3, 1, orientation, 0)
    return b"Exif\0\0MM\0*" + struct.pack(">IH", directory, entries) + entry


def test_big_endian_exif() -> None:
    """Motorola byte order is as good as Intel's."""
    assert decode(encoded(photo(), exif=big_endian_exif(6))).shape == (151, 100, 3)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0II",
        b"Exif\0\0nonsense and more of it",
        big_endian_exif(0),
        big_endian_exif(9),
        big_endian_exif(6, directory=0xFFFFFFFF),
        big_endian_exif(6, directory=9),
        big_endian_exif(6)[:-3],
        big_endian_exif(6, entries=0),
        big_endian_exif(6, entries=0xFFFF).replace(struct.pack(">H", 274), struct.pack(">H", 275)),
    ],
)
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_costs_no_image(exif: bytes, fmt: str) -> None:
    """An orientation that cannot be read is taken as upright."""
    assert decode(encoded(photo(), fmt, exif=exif)).shape == (100, 151, 3)


def test_a_png_text_named_exif_is_no_exif() -> None:
    """Pillow keeps texts and EXIF in one dictionary."""
    texts = PngInfo()
    for name in ("exif", "transparency", "gamma", "icc_profile"):
        texts.add_text(name, "six")
    assert difference(decode(encoded(photo(), "PNG", pnginfo=texts)), photo()) == 0


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_random_exif_costs_no_image(exif: bytes) -> None:
    """Whatever stands in the EXIF block."""
    data = encoded(Image.new("RGB", (3, 2)), exif=b"Exif\0\0" + exif)
    assert decode(data).shape in ((2, 3, 3), (3, 2, 3))


def test_segments_before_exif_are_stepped_over() -> None:
    """EXIF is found behind JFIF, comments and profiles."""
    exif = Image.Exif()
    exif[274] = 6
    data = encoded(photo(), exif=exif.tobytes())
    comment = b"\xff\xfe\x00\x09comment" + b"\xff\xe2\xff\xff" + bytes(0xFFFD)
    assert decode(data[:2] + comment + data[2:]).shape == (151, 100, 3)


# what is no image


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"GIF89a\x01\0\x01\0", b"II*\0", b"%PDF-1.7", b"<svg/>", b"RIFF\0\0\0\0WAVE"]
)
def test_other_files_are_refused(data: bytes) -> None:
    """Anything else is refused, and the message says what to send."""
    with pytest.raises(ImageError, match=r"empty|send JPEG, PNG, WebP or BMP"):
        decode(data)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9, 0.97])
def test_truncated_files_are_refused(fmt: str, share: float) -> None:
    """Half an image is no image, wherever it ends."""
    data = encoded(photo(), fmt)
    with pytest.raises(ImageError, match=r"truncated or damaged|send JPEG"):
        decode(data[: int(len(data) * share)])


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_end_is_refused(progressive: bool) -> None:
    """A JPEG that lost only its last bytes may have lost pixels."""
    with pytest.raises(ImageError, match="Premature end"):
        decode(encoded(photo(), progressive=progressive)[:-2])


@pytest.mark.parametrize("where", ["before the tables", "before the end", "behind the end"])
def test_padding_of_real_cameras_is_accepted(where: str) -> None:
    """Stray bytes between segments and behind the end are no damage."""
    data = encoded(photo())
    at = {"before the tables": data.index(b"\xff\xdb"), "before the end": len(data) - 2, "behind the end": len(data)}[
        where
    ]
    padded = data[:at] + b"\0" * 32 + data[at:]
    assert difference(decode(padded), Image.open(io.BytesIO(data))) < 1


def test_padded_and_truncated_is_refused() -> None:
    """Padding does not excuse missing pixels."""
    data = encoded(photo())
    at = data.index(b"\xff\xdb")
    with pytest.raises(ImageError, match="truncated"):
        decode(data[:at] + b"\0" * 32 + data[at : len(data) // 2])


files = st.sampled_from(
    [encoded(photo(size=(40, 30)), fmt) for fmt in FORMATS]
    + [
        encoded(photo(size=(40, 30)), progressive=True, exif=big_endian_exif(6)),
        encoded(photo(size=(40, 30)).convert("CMYK")),
        encoded(photo(size=(40, 30)).convert("P"), "PNG", transparency=3),
        encoded(photo(size=(40, 30)), "PNG", save_all=True, append_images=[photo(size=(40, 30))]),
        encoded(photo(size=(40, 30)), "WEBP", save_all=True, append_images=[photo("astronaut.png", (40, 30))]),
    ]
)


@settings(max_examples=400, deadline=None)
@given(files, st.data())
def test_damaged_files(file: bytes, data: st.DataObject) -> None:
    """Flipped bits, cut ends and lost middles: an image or ImageError, nothing else, never above the limit."""
    damaged = bytearray(file)
    for at in data.draw(st.lists(st.integers(0, len(file) - 1), max_size=8)):
        damaged[at] ^= data.draw(st.integers(1, 255))
    if data.draw(st.booleans()):
        start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(file))] * 2)))
        del damaged[start:end]
    try:
        image = decode(bytes(damaged))
    except ImageError as error:
        assert str(error)  # noqa: PT017  # both outcomes are right
    else:
        assert image.shape[0] * image.shape[1] <= LIMIT


@given(st.binary(max_size=300), st.sampled_from([b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"BM", b""]))
def test_noise(noise: bytes, head: bytes) -> None:
    """Noise behind a right beginning never decodes to more than the limit, nor to another error."""
    with pytest.raises(ImageError):
        decode(head + noise)


# limits


def jpeg_header(width: int, height: int) -> bytes:
    data = bytearray(encoded(Image.new("RGB", (16, 16))))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def webp_header(width: int, height: int) -> bytes:
    data = bytearray(encoded(Image.new("RGBA", (16, 16)), "WEBP", exif=b"Exif\0\0II*\0"))
    assert data[12:16] == b"VP8X"
    data[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return bytes(data)


def bmp_header(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    "bomb",
    [
        png(50_000, 50_000, 8, 0, b""),
        jpeg_header(65_500, 65_500),
        bmp_header(50_000, 50_000),
        encoded(Image.new("L", (1001, 1000))),
        encoded(Image.new("L", (1001, 1000)), "PNG"),
        encoded(Image.new("L", (1001, 1000)), "BMP"),
        encoded(Image.new("L", (1001, 1000)), "WEBP"),
    ],
)
def test_too_many_pixels_are_refused(bomb: bytes) -> None:
    """The limit holds from the header on; the message names it, the size and the setting."""
    with pytest.raises(ImageError, match=r"\d+ x \d+ pixels, the limit is 1000000 \(the setting MAX_IMAGE_PIXELS\)"):
        decode(bomb)


def test_as_many_pixels_as_allowed() -> None:
    """The limit itself is allowed."""
    assert decode(encoded(Image.new("L", (1000, 1000)))).shape == (1000, 1000, 3)


def test_bombs_cost_no_memory() -> None:
    """Headers that promise gigapixels are refused without the memory for them."""
    bombs = [
        png(50_000, 50_000, 8, 0, b""),
        png(2**31 - 1, 2**31 - 1, 8, 6, b""),
        jpeg_header(65_500, 65_500),
        bmp_header(50_000, 50_000),
        bmp_header(2**31 - 1, -(2**31)),
        webp_header(16_383, 16_383),
        webp_header(1 << 24, 255),
    ]
    program = """
import resource, sys
from loop_node.errors import ImageError
from loop_node.images import decode_image
def peak_kib(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak_kib()
for bomb in eval(sys.stdin.read()):
    try:
        decode_image(bomb, max_pixels=1_000_000)
        print("decoded", bomb[:20])
    except ImageError: pass
print(peak_kib() - before)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, input=repr(bombs), capture_output=True, text=True, check=True, timeout=30)
    assert int(done.stdout) < 20_000


def test_many_scans_are_refused() -> None:
    """A small file cannot keep a core busy with thousands of passes over its pixels."""
    data = encoded(photo(), progressive=True)
    start = data.rindex(b"\xff\xda")
    with pytest.raises(ImageError, match="scans"):
        decode(data[:start] + data[start:-2] * MAX_JPEG_SCANS + data[-2:])


def test_no_warning_leaks() -> None:
    """Files that Pillow warns about print nothing, also where warnings are shown."""
    frames = bytearray(encoded(photo(), "PNG", save_all=True, append_images=[photo("astronaut.png")]))
    at = frames.index(b"acTL")
    frames[at + 4 : at + 8] = bytes(4)
    frames[at + 12 : at + 16] = struct.pack(">I", zlib.crc32(frames[at : at + 12]))
    palette = encoded(photo().convert("P"), "PNG", transparency=bytes(range(256)))
    program = "import sys; from loop_node.images import decode_image\n"
    program += "for data in eval(sys.stdin.read()): decode_image(data, max_pixels=10**6)"
    command = [sys.executable, "-W", "always", "-c", program]
    files = repr([bytes(frames), palette])
    done = subprocess.run(command, input=files, capture_output=True, text=True, check=True, timeout=30)
    assert done.stderr == ""


# encoding


@pytest.mark.parametrize("size", [(151, 100), (1, 1)])
def test_encoded_images_come_back(size: tuple[int, int]) -> None:
    """Quality 95 costs less than 2 grey levels on a photo, and keeps full chroma."""
    data = encode_jpeg(np.asarray(photo(size=size)))
    assert difference(decode(data), photo(size=size)) < 2
    sampling = {component[1:3] for component in Image.open(io.BytesIO(data)).layer}  # type: ignore[attr-defined]  # of JPEG only
    assert sampling == {(1, 1)}


def test_encoding_takes_any_memory_layout() -> None:
    """A view is as good as a copy."""
    image = np.asarray(photo())[::-1, ::2]
    assert encode_jpeg(image) == encode_jpeg(image.copy())


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((1, 65_501, 3), np.uint8),
    ],
)
def test_arrays_that_are_no_image_are_refused(image: NDArray[np.uint8]) -> None:
    """The message says what was expected and what came."""
    with pytest.raises(ImageError, match=r"shape \("):
        encode_jpeg(image)


@pytest.mark.parametrize("quality", [0, 101])
def test_quality_has_bounds(quality: int) -> None:
    """Quality is 1..100."""
    with pytest.raises(ValueError, match="quality"):
        encode_jpeg(np.zeros((4, 4, 3), np.uint8), quality)


def test_allocator() -> None:
    """On glibc the thresholds are taken; elsewhere nothing happens. In a process of its own: it cannot be undone."""
    program = "from loop_node.images import keep_large_buffers; print(keep_large_buffers())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() in (("True",) if sys.platform == "linux" else ("False",))
