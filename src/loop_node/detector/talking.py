"""Whether a detector talks to its Learning Loop of its own accord; tests switch that off."""

import trio
from attrs import define, field
from quart import Response, request

from loop_node.serving.app import json_answer
from loop_node.serving.openapi import Endpoint
from loop_node.serving.uploads import read_body

__all__ = ["Talk"]


@define(eq=False)
class Talk:
    """A switch: off, targets are not read and nothing is reported; images are sent all the same.

    Args:
        is_on: How it starts: SKIP_REPEAT_ON_START.
    """

    is_on: bool = True
    _changed: trio.Event = field(factory=trio.Event)

    def switch(self, *, on: bool) -> None:
        """Turn it."""
        self.is_on = on
        self._changed.set()
        self._changed = trio.Event()

    async def wait_on(self) -> None:
        """Return once it is on."""
        await trio.lowlevel.checkpoint()
        while not self.is_on:
            await self._changed.wait()

    def endpoint(self) -> Endpoint:
        """`PUT /socketio`, by which tests of nodes have always done it."""
        return Endpoint(
            method="PUT",
            path="/socketio",
            handle=self._put,
            summary="Talk to the Learning Loop (`on`) or not (`off`).",
            text_body=("on", "off"),
            answer={"type": "string", "enum": ["on", "off"]},
            faults=(400,),
        )

    async def _put(self) -> Response:
        wanted = (await read_body(request)).decode("utf-8", "replace").strip()
        if wanted not in ("on", "off"):
            return json_answer({"detail": "Invalid state"}, 400)
        self.switch(on=wanted == "on")
        return json_answer(wanted)
