import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_node.inference.preprocessing import Geometry, ResizeType, fit, prepare
from loop_node.inference.resampling import resample

SIDES = st.integers(1, 3000)
INPUT_SIDES = st.integers(1, 700)


@given(st.sampled_from(ResizeType), SIDES, SIDES, INPUT_SIDES, INPUT_SIDES, st.data())
def test_points_survive_the_way_to_the_input_and_back(resize_type, width, height, input_width, input_height, data):
    """Whatever the sizes, image -> input -> image is the identity."""
    geometry = fit(resize_type, (width, height), (input_width, input_height))
    point = data.draw(st.tuples(st.floats(0, width), st.floats(0, height)))
    assert geometry.to_image(geometry.to_input(np.array([point])))[0] == pytest.approx(point, abs=1e-6)


@given(st.sampled_from(ResizeType), SIDES, SIDES, INPUT_SIDES, INPUT_SIDES)
def test_an_image_lands_inside_the_input(resize_type, width, height, input_width, input_height):
    """Source lies in the image, target in the input, and neither is empty."""
    geometry = fit(resize_type, (width, height), (input_width, input_height))
    left, top, right, bottom = geometry.source
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    x, y, w, h = geometry.target
    assert min(x, y) >= 0
    assert min(w, h) >= 1
    assert x + w <= input_width
    assert y + h <= input_height


@given(SIDES, SIDES, INPUT_SIDES, INPUT_SIDES)
def test_a_fitted_image_fills_one_side_and_keeps_its_aspect(width, height, input_width, input_height):
    """Letterbox and fit_to_window scale both sides alike, to within the rounding of a pixel."""
    for resize_type in (ResizeType.LETTERBOX, ResizeType.FIT_TO_WINDOW):
        _, _, w, h = fit(resize_type, (width, height), (input_width, input_height)).target
        assert w == input_width or h == input_height
        scale = min(input_width / width, input_height / height)
        assert abs(w - max(1, width * scale)) <= 0.5
        assert abs(h - max(1, height * scale)) <= 0.5


def test_each_resize_type_has_its_place():
    """1280x720 in 416x416: stretched, top left, centred, or cut to the square in the middle."""

    def layout(resize_type: ResizeType) -> tuple[object, object]:
        geometry = fit(resize_type, (1280, 720), (416, 416))
        return geometry.source, geometry.target

    whole = (0.0, 0.0, 1280.0, 720.0)
    assert layout(ResizeType.STANDARD) == (whole, (0, 0, 416, 416))
    assert layout(ResizeType.FIT_TO_WINDOW) == (whole, (0, 0, 416, 234))
    assert layout(ResizeType.LETTERBOX) == (whole, (0, 91, 416, 234))
    assert layout(ResizeType.CROP) == ((280.0, 0.0, 1000.0, 720.0), (0, 0, 416, 416))


def _filled(resize_type: ResizeType, image: np.ndarray, input_size: tuple[int, int], pad_value: int) -> np.ndarray:
    geometry = fit(resize_type, (image.shape[1], image.shape[0]), input_size)
    out = np.full((input_size[1], input_size[0], 3), 77, np.uint8)
    prepare(image, geometry, pad_value=pad_value, resample=resample, out=out)
    return out


def test_the_rest_of_the_input_is_padding():
    """Around a fitted image there is the pad value, and no trace of the image before."""
    image = np.full((50, 100, 3), 200, np.uint8)
    centred = _filled(ResizeType.LETTERBOX, image, (64, 64), 114)
    assert (centred[16:48] == 200).all()
    assert (centred[:16] == 114).all()
    assert (centred[48:] == 114).all()
    top_left = _filled(ResizeType.FIT_TO_WINDOW, image, (64, 64), 3)
    assert (top_left[:32] == 200).all()
    assert (top_left[32:] == 3).all()


def test_crop_sees_the_middle_only():
    """Red margins left and right of a green square are not in the input."""
    image = np.zeros((40, 120, 3), np.uint8)
    image[:, :, 0] = 255
    image[:, 40:80] = (0, 255, 0)
    assert (_filled(ResizeType.CROP, image, (40, 40), 0) == (0, 255, 0)).all()


def test_an_image_of_the_right_size_is_copied_untouched():
    """No resampling where none is needed, for all resize types."""
    image = np.random.default_rng(1).integers(0, 256, (32, 48, 3), np.uint8)
    for resize_type in ResizeType:
        assert (_filled(resize_type, image, (48, 32), 0) == image).all()


@given(st.sampled_from(ResizeType), st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(1, 40))
def test_any_size_fits_into_any_input(resize_type, width, height, input_width, input_height):
    """A plain image stays plain: its colour fills the target exactly, down to one pixel."""
    image = np.full((height, width, 3), (10, 20, 30), np.uint8)
    out = _filled(resize_type, image, (input_width, input_height), 0)
    x, y, w, h = fit(resize_type, (width, height), (input_width, input_height)).target
    assert (out[y : y + h, x : x + w] == (10, 20, 30)).all()


def test_resampling_is_half_pixel_centred():
    """A bright square's centre of mass lands where the geometry says, so boxes carry no offset."""
    image = np.zeros((720, 1280, 3), np.uint8)
    image[300:361, 500:541] = 255
    out = _filled(ResizeType.LETTERBOX, image, (416, 416), 0)[:, :, 0].astype(float)
    rows, columns = np.mgrid[:416, :416]
    centre = [((axis + 0.5) * out).sum() / out.sum() for axis in (columns, rows)]
    expected = fit(ResizeType.LETTERBOX, (1280, 720), (416, 416)).to_input(np.array([[520.5, 330.5]]))[0]
    assert centre == pytest.approx(expected, abs=0.1)


def test_points_are_clipped_to_the_image():
    """What a model sees in the padding is moved to the border."""
    geometry: Geometry = fit(ResizeType.LETTERBOX, (100, 50), (64, 64))
    assert geometry.clip(geometry.to_image(np.array([[-5.0, 0.0], [70.0, 64.0]]))).tolist() == [[0, 0], [100, 50]]
