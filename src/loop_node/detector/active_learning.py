"""Which images a detector keeps for the Learning Loop, besides those that clients hand in for it.

A detection's image is chosen while its answer is on the way (that takes no disk and no network), encoded in a thread where it
is not a JPEG yet, and handed to the outbox, which never makes anybody wait. The answer itself is never touched.
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Protocol

import attrs
import trio
from attrs import define, field

from loop_node.errors import ImageError
from loop_node.schemas.detections import ImageMetadata, now
from loop_node.supervision import TaskHandle

from .detection import DetectionOrder, Pixels
from .relevance import CAUSES, RelevanceFilter
from .uploading import as_jpeg

__all__ = ["ActiveLearning", "Keeper"]

_JPEG_START: Final = b"\xff\xd8"
MAX_WAITING: Final = 16
MAX_WAITING_BYTES: Final = 64 << 20


class Keeper(Protocol):
    """Who keeps images."""

    def offer(self, jpeg: bytes, metadata: ImageMetadata, *, priority: bool = False) -> bool:
        """Take an image without making anybody wait; False if it had to be dropped, which is counted there."""
        ...

    def turn_away(self) -> None:
        """Count an image that was dropped before it could be offered."""
        ...


@define(eq=False)
class ActiveLearning:
    """Chooses, and encodes what has to be encoded, in `run_encoder`.

    Args:
        keeper: Gets what was chosen.
        relevance: The rules for `filtered`.
        max_pixels: Of images that are decoded to be encoded.
        encoders: Threads for that.
        is_on: Whether there is a Learning Loop to learn from; nothing is chosen otherwise.
        clock: Monotonic seconds.
    """

    keeper: Keeper
    relevance: RelevanceFilter
    max_pixels: int
    encoders: trio.CapacityLimiter
    is_on: bool = True
    clock: Callable[[], float] = trio.current_time
    selected: Counter[str] = field(factory=lambda: Counter(dict.fromkeys(CAUSES, 0)))
    _waiting: deque[tuple[bytes | Pixels, ImageMetadata]] = field(factory=deque)
    _waiting_bytes: int = 0
    _arrived: trio.Event = field(factory=trio.Event)

    def consider(self, image: bytes | Pixels, found: ImageMetadata, order: DetectionOrder) -> None:
        """Keep the image of a detection if its client wants that, or if it is worth learning from."""
        if order.autoupload == "disabled" or not self.is_on:
            return
        causes: list[str] = []
        if order.autoupload == "filtered":
            causes = self.relevance.causes(order.camera_id, found, self.clock())
            if not causes:
                return
        self.selected.update(causes)
        metadata = attrs.evolve(found, tags=[*found.tags, *causes], created=found.created or now())
        if isinstance(image, bytes) and image.startswith(_JPEG_START):
            self.keeper.offer(image, metadata)
        else:
            self._line_up(image, metadata)

    def _line_up(self, image: bytes | Pixels, metadata: ImageMetadata) -> None:
        size_bytes = _size_bytes(image)
        has_room = len(self._waiting) < MAX_WAITING and self._waiting_bytes + size_bytes <= MAX_WAITING_BYTES
        if self._waiting and not has_room:
            self.keeper.turn_away()
            return
        self._waiting.append((image, metadata))
        self._waiting_bytes += size_bytes
        self._arrived.set()

    async def run_encoder(self, handle: TaskHandle) -> None:
        """Encode what waits, one image after another. Cancelled, what waits is dropped."""
        handle.ready()
        while True:
            await self._arrived.wait()
            self._arrived = trio.Event()
            while self._waiting:
                await self._encode(*self._waiting.popleft())

    async def _encode(self, image: bytes | Pixels, metadata: ImageMetadata) -> None:
        self._waiting_bytes -= _size_bytes(image)
        try:
            work = partial(as_jpeg, image, max_pixels=self.max_pixels)
            jpeg = await trio.to_thread.run_sync(work, limiter=self.encoders)
        except ImageError:  # it was decoded before, so it is too large for a JPEG
            self.keeper.turn_away()
        else:
            self.keeper.offer(jpeg, metadata)

    def counts(self) -> Mapping[str, int]:
        """How often each cause has chosen an image."""
        return self.selected


def _size_bytes(image: bytes | Pixels) -> int:
    return len(image) if isinstance(image, bytes) else image.nbytes
