"""Sends waiting images to the Learning Loop, request after request as long as there is work."""

import math
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Protocol

import trio

from loop_node.errors import LoopRefused, LoopUnavailable

from .delivery import Attempt, Delivery
from .store import OutgoingImage, Store, Trouble

__all__ = ["Drainer", "Handle", "OutboxMode", "Send"]

Send = Callable[[Sequence[OutgoingImage]], Awaitable[None]]
"""Sends images in one request; returns when the Learning Loop has all of them.

Raises `LoopRefused` or `LoopUnavailable`.
"""


class OutboxMode(StrEnum):
    """Whether images are sent; they are taken in anyway."""

    CONTINUOUS_UPLOAD = "continuous_upload"
    STOPPED = "stopped"


class Handle(Protocol):
    """What a task tells its supervisor."""

    def ready(self) -> None:
        """It is up."""
        ...

    def waiting(self, reason: str) -> AbstractContextManager[None]:
        """It is up, but waits for something outside of the node."""
        ...


class Drainer:
    """The one that sends.

    Attributes:
        mode: Changed by `set_mode`.
        is_idle: Whether there is nothing to send, or nothing is to be sent.
    """

    def __init__(self, store: Store) -> None:
        self.mode = OutboxMode.CONTINUOUS_UPLOAD
        self._store = store
        self._stirred = trio.Event()
        self._hurry = False
        self._sending = False
        self._rested = trio.Event()
        self.is_idle = False
        self._became_idle = trio.Event()
        self._link = Trouble()

    def stir(self) -> None:
        """Say that there may be something new to send."""
        self.is_idle = False
        self._stirred.set()

    async def set_mode(self, mode: OutboxMode, *, within_s: float) -> bool:
        """Send, or stop to send after the request in flight; a wait for the next try ends at once.

        Returns:
            Whether it is so; False if a request is still in flight after `within_s` seconds. The mode holds anyway.
        """
        self.mode, self._hurry = mode, True
        self.stir()
        with trio.move_on_after(within_s):
            while self._sending and self.mode is OutboxMode.STOPPED:
                await self._rested.wait()
        return not (self._sending and self.mode is OutboxMode.STOPPED)

    async def wait_idle(self) -> None:
        """Wait until it has become idle, at least once from now on unless it is."""
        if not self.is_idle:
            await self._became_idle.wait()

    async def run(self, send: Send, *, handle: Handle, rng: Callable[[], float] = random.random) -> None:
        """Send until cancelled; a request that is cut off by that is repeated after the next start.

        Args:
            send: Sends one batch.
            handle: Told whether the Learning Loop takes images.
            rng: The dice of the backoff, 0..1.
        """
        delivery = Delivery(self._store.backlog)
        handle.ready()
        while True:
            self._stirred = trio.Event()
            if self._hurry:
                self._hurry = False
                delivery.hurry()
            if self.mode is OutboxMode.STOPPED:
                await self._rest(math.inf)
                continue
            step = delivery.next(trio.current_time())
            if isinstance(step, Attempt):
                await self._send(step, delivery, send, rng)
            elif delivery.why:
                self._link.begin(f"images cannot be sent: {delivery.why}")
                with handle.waiting(delivery.why):
                    await self._rest(step.until_s)
            else:
                await self._rest(step.until_s)

    async def _rest(self, until_s: float) -> None:
        if math.isinf(until_s):
            self.is_idle = True
            self._became_idle.set()
            self._became_idle = trio.Event()
        with trio.move_on_at(until_s):
            await self._stirred.wait()

    async def _send(self, attempt: Attempt, delivery: Delivery, send: Send, rng: Callable[[], float]) -> None:
        store = self._store
        self._sending = True
        store.backlog.in_flight = frozenset(attempt.ids)
        try:
            images, unread = await store.read(attempt.ids)
            for item in unread:
                delivery.postpone(item, trio.current_time())
            if not images:
                return
            sent = Attempt(tuple(image.id for image in images))
            try:
                await send(images)
            except LoopRefused as error:
                condemned = delivery.refused(sent, error, trio.current_time(), rng())
                if condemned and not await store.bury(condemned, str(error)):
                    delivery.postpone(condemned, trio.current_time())
            except LoopUnavailable as error:
                delivery.unavailable(sent, error, trio.current_time(), rng())
            else:
                delivery.delivered(sent, trio.current_time())
                self._link.end("images are sent again")
                await store.delivered(sent.ids)
        finally:
            self._sending = False
            store.backlog.in_flight = frozenset()
            self._rested.set()
            self._rested = trio.Event()
