"""The engine: a bounded waiting line, and worker threads in which one model at a time looks at images.

A request is admitted before its image is decoded, so that the line bounds memory as well as time. It runs on the model
that was installed when it was admitted; an exchange waits for those requests and frees the old model afterwards.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Final, Protocol, runtime_checkable

import numpy as np
import trio
from attrs import define, field, frozen
from numpy.typing import NDArray

from loop_node.errors import InputError, NoModel, Overloaded
from loop_node.schemas.detections import ImageMetadata
from loop_node.schemas.models import ModelInformation

_FAREWELL_S: Final = 0.5

__all__ = ["BatchModel", "Detected", "Engine", "Inference", "ServingModel", "open_engine"]


@frozen(kw_only=True)
class Detected:
    """What a model found in one image, and how long its two steps took, in seconds."""

    metadata: ImageMetadata
    infer_s: float
    post_s: float


class ServingModel(Protocol):
    """A built model. Its methods block; `detect` is called from up to `max_in_flight` threads at once."""

    @property
    def information(self) -> ModelInformation:
        """Its `model.json`."""
        ...

    @property
    def max_in_flight(self) -> int:
        """How many images at once it makes good use of."""
        ...

    @property
    def device(self) -> str:
        """What it runs on, in words for the operator."""
        ...

    def detect(self, image: NDArray[np.uint8]) -> Detected:
        """Find things in an RGB image of shape (H, W, 3)."""
        ...

    def close(self) -> None:
        """Free what it holds; no `detect` runs or follows."""
        ...


@runtime_checkable
class BatchModel(ServingModel, Protocol):
    """A model with a better way for several images than one after another."""

    def detect_batch(self, images: Sequence[NDArray[np.uint8]]) -> list[Detected]:
        """Find things in RGB images; the answers in their order."""
        ...


@frozen(kw_only=True)
class Inference:
    """The way of one image through the engine; times in seconds."""

    metadata: ImageMetadata
    queue_s: float
    infer_s: float
    post_s: float


@define(eq=False)
class Admission:
    """A place in the waiting line, and the model that will serve it.

    Attributes:
        near: To be held while an image is decoded and looked at: bounds the decoded images in memory to those the model
            looks at and two more, which keeps it busy.
    """

    model: ServingModel
    near: trio.Semaphore
    _limiter: trio.CapacityLimiter

    async def detect(self, image: NDArray[np.uint8]) -> Inference:
        """Let the model look at `image` (RGB, uint8, shape (H, W, 3)) as soon as it is free.

        Cancelled, it returns at once; a model already looking finishes unheard, and counts as busy until then.
        """
        (inference,) = await self._look(lambda: [self.model.detect(image)])
        return inference

    async def detect_batch(self, images: Sequence[NDArray[np.uint8]]) -> list[Inference]:
        """Let the model look at several images in its own way, else at one after another; otherwise as `detect`."""
        model = self.model
        if isinstance(model, BatchModel):
            return await self._look(lambda: model.detect_batch(images))
        return [await self.detect(image) for image in images]

    async def _look(self, detect: Callable[[], list[Detected]]) -> list[Inference]:
        asked = time.perf_counter()

        def look() -> list[Inference]:
            queue_s = time.perf_counter() - asked
            return [
                Inference(metadata=found.metadata, queue_s=queue_s, infer_s=found.infer_s, post_s=found.post_s)
                for found in detect()
            ]

        return await trio.to_thread.run_sync(look, limiter=self._limiter, abandon_on_cancel=True)


@define(eq=False)
class _Place:
    """An installed model with one token per image it may look at, and the requests admitted to it."""

    model: ServingModel
    limiter: trio.CapacityLimiter
    near: trio.Semaphore
    admitted: int = 0
    left: trio.Event = field(factory=trio.Event)

    async def emptied(self) -> None:
        """Wait until no request holds the model and no thread is inside it, abandoned ones included."""
        while self.admitted:
            self.left = trio.Event()
            await self.left.wait()
        for _ in range(self.model.max_in_flight):
            await self.limiter.acquire_on_behalf_of(object())


def _place(model: ServingModel) -> _Place:
    return _Place(model, trio.CapacityLimiter(model.max_in_flight), trio.Semaphore(model.max_in_flight + 2))


@define(eq=False)
class Engine:
    """Where images meet the model.

    Attributes:
        max_queue: How many requests may wait beyond those the model looks at.
        why_no_model: What clients are told while no model is installed.
    """

    max_queue: int = 64
    why_no_model: str = "detector not yet initialized (MODEL or --model names its model)"
    _place: _Place | None = None
    _waiting: int = 0

    @property
    def model(self) -> ServingModel | None:
        """The installed model."""
        return None if self._place is None else self._place.model

    @contextmanager
    def admit(self, images: int = 1) -> Iterator[Admission]:
        """Places in the line for that many images, for the length of the block.

        Raises:
            InputError: More images than the line has places.
            NoModel: None is installed.
            Overloaded: The line is full.
        """
        place = self._place
        if place is None:
            raise NoModel(self.why_no_model, retry_after_s=5)
        places = self.max_queue + place.model.max_in_flight
        if images > places:
            raise InputError(f"{images} images at once are too many: at most {places} (the setting MAX_QUEUE)")
        if self._waiting + images > places:
            raise Overloaded(f"{self._waiting} images are being looked at or wait already")
        self._waiting += images
        place.admitted += 1
        try:
            yield Admission(place.model, place.near, place.limiter)
        finally:
            self._waiting -= images
            place.admitted -= 1
            place.left.set()

    async def install(self, model: ServingModel | None) -> None:
        """Let `model` serve from now on; returns when the one before has finished its requests and is freed.

        Cancelled, the new model serves and the old one is left to the garbage collector.
        """
        old = self._place
        self._place = None if model is None else _place(model)
        if old is not None:
            await old.emptied()
            await trio.to_thread.run_sync(old.model.close)


@asynccontextmanager
async def open_engine(*, max_queue: int) -> AsyncIterator[Engine]:
    """An engine without a model; at the end of the block its model is freed, unless a thread still hangs in it."""
    engine = Engine(max_queue=max_queue)
    try:
        yield engine
    finally:
        engine.why_no_model = "the node is stopping"
        with trio.move_on_after(_FAREWELL_S, shield=True):
            await engine.install(None)
