"""Arrays that clients take apart into bytes, dtype and shape."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_node.errors import ImageError
from loop_node.images import as_rgb, read_raw

LIMIT = 100_000_000


def raw(image: Any, **lies: Any) -> dict[str, Any]:
    return {"data": image.tobytes(), "dtype": str(image.dtype), "shape": list(image.shape), "max_pixels": LIMIT} | lies


RGB = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)


def test_an_rgb_array_is_seen_without_a_copy() -> None:
    """The bytes that came are the image."""
    data = RGB.tobytes()
    image = as_rgb(read_raw(data, dtype="uint8", shape=(2, 4, 3), max_pixels=8))
    assert (image == RGB).all()
    assert np.shares_memory(image, np.frombuffer(data, np.uint8))


@pytest.mark.parametrize("shape", [[2, 4], [2, 4, 1]])
def test_grey_becomes_rgb(shape: list[int]) -> None:
    """Three times the same."""
    grey = np.arange(8, dtype=np.uint8).reshape(shape)
    image = as_rgb(read_raw(**raw(grey)))
    assert image.shape == (2, 4, 3)
    assert (image == grey.reshape(2, 4, 1)).all()


def test_alpha_is_dropped() -> None:
    """The colours stay as they are."""
    rgba = np.dstack([RGB, np.zeros((2, 4), np.uint8)])
    image = as_rgb(read_raw(**raw(rgba)))
    assert (image == RGB).all()
    assert image.flags.c_contiguous


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ({"dtype": "float32"}, "dtype: 'uint8'"),
        ({"dtype": "object"}, "dtype"),
        ({"dtype": "O"}, "dtype"),
        ({"dtype": None}, "dtype"),
        ({"shape": [2, 4, 4]}, "needs 32 bytes, 24 came"),
        ({"shape": [4, 4, 3]}, "needs 48 bytes"),
        ({"shape": [2, 4, 2]}, "shape"),
        ({"shape": [2, -4, 3]}, "shape"),
        ({"shape": [0, 4, 3]}, "shape"),
        ({"shape": [2.0, 4, 3]}, "shape"),
        ({"shape": [True, 4, 3]}, "shape"),
        ({"shape": [24]}, "shape"),
        ({"shape": [2, 2, 2, 3]}, "shape"),
        ({"shape": "243"}, "shape"),
        ({"shape": None}, "shape"),
        ({"shape": [10**12, 10**12, 3]}, "shape"),
        ({"shape": [50_000, 50_000, 3]}, "MAX_IMAGE_PIXELS"),
        ({"data": "text"}, "bytes"),
        ({"data": None}, "bytes"),
        ({"data": b""}, "bytes"),
    ],
)
def test_a_lie_is_named_and_costs_nothing(lie: dict[str, Any], said: str) -> None:
    """Which of the three is wrong; and no memory for what was claimed."""
    tracemalloc.start()
    with pytest.raises(ImageError, match=said):
        read_raw(**raw(RGB, **lie))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 1_000_000


@given(
    data=st.none() | st.binary(max_size=30),
    dtype=st.sampled_from(["uint8", "int8", None, 1]),
    shape=st.none() | st.lists(st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=2), max_size=4),
)
def test_whatever_is_said_it_is_an_image_or_an_error(data: Any, dtype: Any, shape: Any) -> None:
    """Nothing else comes out."""
    try:
        image = as_rgb(read_raw(data, dtype=dtype, shape=shape, max_pixels=LIMIT))
    except ImageError:
        return
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
