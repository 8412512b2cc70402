"""The doors to the outbox, REST and Socket.IO: images that clients hand in, and whether images are sent."""

from collections.abc import Sequence
from typing import Any, Final

from attrs import frozen
from quart import Response, request

from loop_node.errors import InputError
from loop_node.inference.engine import Engine
from loop_node.schemas.models import Category
from loop_node.serving.app import json_answer, text_answer
from loop_node.serving.openapi import Endpoint
from loop_node.serving.uploads import read_body
from loop_node.socketio.packets import Value
from loop_node.socketio.session import Handler, Peer

from .outbox import NewImage, Outbox, OutboxMode
from .uploading import UPLOAD_FORM, UPLOAD_WORDS, ImageUpload, UploadReader
from .words import parameters

__all__ = ["OutboxDoors"]

_STOP_PATIENCE_S: Final = 30.0
_OK: Final[dict[str, Any]] = {"type": "string", "enum": ["OK"]}
_UPLOADED: Final = {"type": "array", "items": {}, "example": [200, "OK"]}


@frozen(kw_only=True)
class OutboxDoors:
    """What clients may do with the outbox; an image is acknowledged when it is on disk.

    Args:
        outbox: Keeps and sends images.
        reader: Reads what clients hand in.
        engine: Whose model knows the categories.
    """

    outbox: Outbox
    reader: UploadReader
    engine: Engine

    def endpoints(self) -> list[Endpoint]:
        """The REST side."""
        return [
            Endpoint(
                method="POST",
                path="/upload",
                handle=self._post_upload,
                summary="Keep images for the Learning Loop; answered when they are on disk.",
                form_body=UPLOAD_FORM,
                parameters=parameters(UPLOAD_WORDS),
                answer=_UPLOADED,
                faults=(413, 422, 503, 507),
            ),
            Endpoint(
                method="GET",
                path="/outbox_mode",
                handle=self._get_mode,
                summary="Whether kept images are sent.",
                text_answer=tuple(OutboxMode),
            ),
            Endpoint(
                method="PUT",
                path="/outbox_mode",
                handle=self._put_mode,
                summary="Send kept images, or stop after the request in flight; 202 if that one takes longer than 30 s.",
                text_body=tuple(OutboxMode),
                answer=_OK,
                faults=(422,),
            ),
        ]

    def events(self) -> dict[str, Handler]:
        """The Socket.IO side."""
        return {
            "upload": self._on_upload,
            "get_outbox_mode": self._on_get_mode,
            "set_outbox_mode": self._on_set_mode,
        }

    async def _post_upload(self) -> Response:
        await self._keep(await self.reader.read_request(request, self._categories()))
        return json_answer([200, "OK"])

    async def _get_mode(self) -> Response:
        return text_answer(self.outbox.mode)

    async def _put_mode(self) -> Response:
        mode = _mode((await read_body(request)).decode("utf-8", "replace").strip())
        is_so = await self.outbox.set_mode(mode, within_s=_STOP_PATIENCE_S)
        return json_answer("OK", 200 if is_so else 202)

    async def _on_upload(self, _peer: Peer, data: Value = None) -> Value:
        await self._keep([await self.reader.read_event(data, self._categories())])
        return {"status": "OK"}

    async def _on_get_mode(self, _peer: Peer, _data: Value = None) -> Value:
        return {"outbox_mode": self.outbox.mode.value}

    async def _on_set_mode(self, _peer: Peer, mode: Value = None) -> Value:
        is_so = await self.outbox.set_mode(_mode(mode), within_s=_STOP_PATIENCE_S)
        return {"status": "OK"} if is_so else {"status": "OK", "still_sending": True}

    async def _keep(self, uploads: Sequence[ImageUpload]) -> None:
        await self.outbox.store_all(
            [NewImage(jpeg=one.jpeg, metadata=one.metadata, priority=one.priority) for one in uploads]
        )

    def _categories(self) -> Sequence[Category]:
        model = self.engine.model
        return model.information.categories if model else ()


def _mode(said: object) -> OutboxMode:
    if not isinstance(said, str) or said not in list(OutboxMode):
        quoted = repr(said[:40]) if isinstance(said, str) else type(said).__name__
        raise InputError(f"outbox_mode: one of {', '.join(OutboxMode)} is needed, not {quoted}")
    return OutboxMode(said)
