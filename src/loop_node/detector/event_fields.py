"""The fields of a Socket.IO event, as clients of all generations write them."""

from collections.abc import Mapping
from typing import Any

from loop_node import images
from loop_node.errors import ImageError, InputError
from loop_node.socketio.packets import Value

from .detection import Pixels

__all__ = ["kind", "quoted", "read_object", "read_sent_image", "read_tags", "read_text"]


def read_object(data: Value) -> dict[str, Any]:
    """What the event came with.

    Raises:
        InputError: No object.
    """
    if not isinstance(data, dict):
        raise InputError(f"an object with the request's fields is needed, not {kind(data)}")
    return data


def read_sent_image(image: Value, name: str, *, max_pixels: int) -> bytes | Pixels:
    """The image of an event in any of its forms: encoded bytes, `{format: jpeg, bytes}` or a raw array.

    Raises:
        InputError: None of them; names the field `name`.
        ImageError: An array that is no image.
    """
    if isinstance(image, bytes):
        return image
    if not isinstance(image, dict):
        raise InputError(f"{name}: an encoded image or an object with its bytes is needed, not {kind(image)}")
    data = image.get("bytes")
    form = image.get("format") or "raw"
    if form == "jpeg" and isinstance(data, bytes):
        return data
    if form != "raw":
        raise InputError(f"{name}: format 'raw' or 'jpeg' with its bytes is needed, not {quoted(form)}")
    try:
        return images.read_raw(data, dtype=image.get("dtype"), shape=image.get("shape"), max_pixels=max_pixels)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error


def read_text(request: Mapping[str, Any], name: str) -> str | None:
    """A text, which may be written as a number; an empty one is none.

    Raises:
        InputError: Something else.
    """
    value = request.get(name)
    if isinstance(value, (int, float)):
        return str(value)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{name}: a text is needed, not {kind(value)}")
    return value or None


def read_tags(request: Mapping[str, Any]) -> list[str]:
    """The field `tags`; null is the same as none.

    Raises:
        InputError: No list of texts.
    """
    tags = request.get("tags")
    if tags is None:
        return []
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise InputError("tags: a list of texts is needed")
    return tags


def quoted(value: object) -> str:
    """A client's value in few words, however large it is."""
    return repr(value[:40]) if isinstance(value, str) else kind(value)


def kind(value: object) -> str:
    """What a client's value is."""
    return "null" if value is None else type(value).__name__
