"""One detection: encoded image in, metadata out, with the time each step took."""

import logging
import time
from datetime import datetime
from typing import Final

import attrs
import trio
from attrs import frozen

from loop_node import images
from loop_node.errors import InputError
from loop_node.inference.engine import Engine
from loop_node.schemas.detections import ImageMetadata

__all__ = ["AUTOUPLOAD_MODES", "Detection", "DetectionOrder", "Detector", "read_autoupload", "read_creation_date"]

logger = logging.getLogger(__name__)

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


@frozen
class Detector:
    """Takes encoded images through decoding and the engine.

    Args:
        engine: Where the model is.
        max_image_pixels: Larger images are refused before they are decoded.
        decoders: How many images are decoded at once, each in a thread.
    """

    engine: Engine
    max_image_pixels: int
    decoders: trio.CapacityLimiter
    _told: set[str] = attrs.Factory(set)

    async def detect(self, image: bytes, order: DetectionOrder) -> Detection:
        """Find things in an encoded image.

        Raises:
            ImageError: It cannot be decoded, or has too many pixels.
            Unavailable: No model, or the waiting line is full.
        """
        with self.engine.admit() as admission:
            started = time.perf_counter()
            pixels = await trio.to_thread.run_sync(
                lambda: images.decode_image(image, max_pixels=self.max_image_pixels),
                limiter=self.decoders,
                abandon_on_cancel=True,
            )
            decode_s = time.perf_counter() - started
            seen = await admission.detect(pixels)
        self._tell_of_no_outbox(order)
        # a logic may return the same object twice, so the order's words go into a copy
        metadata = attrs.evolve(
            seen.metadata,
            tags=[*order.tags, *seen.metadata.tags],
            created=order.creation_date,
            source=order.source or seen.metadata.source,
        )
        return Detection(
            metadata=metadata, decode_s=decode_s, queue_s=seen.queue_s, infer_s=seen.infer_s, post_s=seen.post_s
        )

    def _tell_of_no_outbox(self, order: DetectionOrder) -> None:
        if order.autoupload != "disabled" and order.autoupload not in self._told:
            self._told.add(order.autoupload)
            logger.warning(
                "autoupload=%s: there is no outbox yet, so no image is kept for the Learning Loop", order.autoupload
            )
