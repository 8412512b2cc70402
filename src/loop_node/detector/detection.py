"""One detection: encoded image in, metadata out, with the time each step took."""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

import attrs
import numpy as np
import trio
from attrs import frozen
from numpy.typing import NDArray

from loop_node import images
from loop_node.errors import ImageError, InputError, LoopNodeError
from loop_node.inference.engine import Admission, BatchModel, Engine, Inference
from loop_node.schemas.detections import ImageMetadata

__all__ = ["AUTOUPLOAD_MODES", "Detection", "DetectionOrder", "Detector", "read_autoupload", "read_creation_date"]

logger = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]
AUTOUPLOAD_MODES: Final = ("filtered", "all", "disabled")


@frozen(kw_only=True)
class DetectionOrder:
    """What a client says beside the image.

    Attributes:
        camera_id: Groups images for the choice of what to upload.
        creation_date: When the image was taken; checked by `read_creation_date`.
        autoupload: One of `AUTOUPLOAD_MODES`.
    """

    camera_id: str | None = None
    tags: list[str] = attrs.Factory(list)
    source: str | None = None
    creation_date: str | None = None
    autoupload: str = "filtered"


Consider = Callable[[bytes | Pixels, ImageMetadata, DetectionOrder], None]


def _nobody(_image: bytes | Pixels, _found: ImageMetadata, _order: DetectionOrder) -> None:
    """Nobody is told."""


@frozen(kw_only=True)
class Detection:
    """The answer to one order; times in seconds."""

    metadata: ImageMetadata
    decode_s: float
    queue_s: float
    infer_s: float
    post_s: float


def read_autoupload(text: str | None) -> str:
    """The mode a client asks for; none means `filtered`.

    Raises:
        InputError: Another word.
    """
    mode = text or "filtered"
    if mode not in AUTOUPLOAD_MODES:
        raise InputError(f"autoupload: one of {', '.join(AUTOUPLOAD_MODES)} is needed, not {mode!r}")
    return mode


def read_creation_date(text: str | None) -> str | None:
    """The date as the client wrote it if it is an ISO 8601 date (`_` may stand for `T`), else None and a warning.

    A robot whose clock or format is wrong keeps its detections.
    """
    if not text:
        return None
    try:
        datetime.fromisoformat(text.replace("_", "T"))
    except ValueError:
        logger.warning("creation_date %.40r is no ISO 8601 date; the image goes without one", text)
        return None
    return text


@frozen(kw_only=True)
class _Seen:
    waited_s: float
    decode_s: float
    inference: Inference


@frozen
class Detector:
    """Takes images through decoding and the engine.

    Args:
        engine: Where the model is.
        max_image_pixels: Larger images are refused before they are decoded.
        decoders: How many images are decoded at once, each in a thread.
        consider: Told of each image, what was found in it and its order; must not wait, and must not change anything.
    """

    engine: Engine
    max_image_pixels: int
    decoders: trio.CapacityLimiter
    consider: Consider = _nobody

    async def detect(self, image: bytes | Pixels, order: DetectionOrder) -> Detection:
        """Find things in an image: encoded, or an array as `images.read_raw` returns it.

        Raises:
            ImageError: It cannot be decoded, or has too many pixels.
            Unavailable: No model, or the waiting line is full.
        """
        with self.engine.admit() as admission:
            return self._answer(image, await self._look(admission, image), order)

    async def detect_batch(self, images: Sequence[bytes | Pixels], order: DetectionOrder) -> list[Detection]:
        """Find things in several images, which share one order; the answers in their order.

        Raises:
            InputError: More images than the waiting line has places.
            ImageError: One of them cannot be decoded; says which.
            Unavailable: As `detect`.
        """
        with self.engine.admit(len(images)) as admission:
            look = self._look_at_all if isinstance(admission.model, BatchModel) else self._look_one_by_one
            seen = await look(admission, images)
        return [self._answer(image, one, order) for image, one in zip(images, seen, strict=True)]

    async def _look(self, admission: Admission, image: bytes | Pixels) -> _Seen:
        asked = time.perf_counter()
        async with admission.near:
            started = time.perf_counter()
            pixels = await self._decode(image)
            decoded = time.perf_counter()
            return _Seen(waited_s=started - asked, decode_s=decoded - started, inference=await admission.detect(pixels))

    async def _look_one_by_one(self, admission: Admission, images: Sequence[bytes | Pixels]) -> list[_Seen]:
        seen: list[_Seen | None] = [None] * len(images)
        faults: list[LoopNodeError] = []

        async def look(index: int) -> None:
            try:
                seen[index] = await self._look(admission, images[index])
            except LoopNodeError as error:  # not through the nursery: it would come out as a group
                faults.append(ImageError(f"images[{index}]: {error}") if isinstance(error, ImageError) else error)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for index in range(len(images)):
                nursery.start_soon(look, index)
        if faults:
            raise faults[0]
        return [one for one in seen if one is not None]

    async def _look_at_all(self, admission: Admission, images: Sequence[bytes | Pixels]) -> list[_Seen]:
        started = time.perf_counter()
        pixels = [await self._decode(image) for image in images]
        share_s = (time.perf_counter() - started) / max(len(images), 1)
        return [_Seen(waited_s=0.0, decode_s=share_s, inference=one) for one in await admission.detect_batch(pixels)]

    async def _decode(self, image: bytes | Pixels) -> Pixels:
        if not isinstance(image, bytes):
            if image.ndim == 3 and image.shape[2] == 3:
                return image
            return await trio.to_thread.run_sync(images.as_rgb, image, limiter=self.decoders)
        return await trio.to_thread.run_sync(
            lambda: images.decode_image(image, max_pixels=self.max_image_pixels),
            limiter=self.decoders,
            abandon_on_cancel=True,
        )

    def _answer(self, image: bytes | Pixels, seen: _Seen, order: DetectionOrder) -> Detection:
        found = seen.inference
        # a logic may return the same object twice, so the order's words go into a copy
        metadata = attrs.evolve(
            found.metadata,
            tags=[*order.tags, *found.metadata.tags],
            created=order.creation_date,
            source=order.source or found.metadata.source,
        )
        self.consider(image, metadata, order)
        return Detection(
            metadata=metadata,
            decode_s=seen.decode_s,
            queue_s=seen.waited_s + found.queue_s,
            infer_s=found.infer_s,
            post_s=found.post_s,
        )
