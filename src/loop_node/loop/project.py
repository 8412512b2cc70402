"""What a detector asks its project at the Learning Loop; every name from the Loop is checked before it is used."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeGuard
from urllib.parse import quote

from attrs import frozen

from loop_node.errors import LoopRefused, LoopUnavailable
from loop_node.schemas.status import DetectorStatus
from loop_node.schemas.wire import unstructure_flat

from .client import LoopClient
from .downloads import Download, OnReceived
from .faults import FaultKind
from .multipart import FilePart

__all__ = ["LoopProject", "ModelRow", "Target"]

log = logging.getLogger(__name__)

_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_VERSION: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9}){0,5}")
_NOT_FOUND: Final = 404
_POLL_S: Final = 15.0  # a few hundred bytes, asked for every 5 s: operators are to hear soon that none come
_UPLOAD_S: Final = 120.0  # for each 64 KiB: what a thin line has in its buffers counts as sent


@frozen(kw_only=True)
class Target:
    """The model that the Loop wants its detectors to serve; both are safe as names of files."""

    model_uuid: str
    version: str


@frozen(kw_only=True)
class ModelRow:
    """A model of the project as the Loop lists it; `id` and `version` are safe as names of files."""

    id: str
    version: str | None = None
    formats: tuple[str, ...] = ()
    host: str | None = None


class LoopProject:
    """One project at a Learning Loop; its calls raise as those of `LoopClient`.

    Args:
        client: Asks the Loop.
        organization: Whose project it is.
        project: Its name.
    """

    def __init__(self, client: LoopClient, organization: str, project: str) -> None:
        self._client = client
        self._path = f"/{_quoted(organization)}/projects/{_quoted(project)}"
        self._complaint = ""

    async def report_detector(self, status: DetectorStatus) -> None:
        """Tell the Loop how a detector is."""
        body = unstructure_flat(status)
        if status.node_version is None:
            del body["node_version"]
        await self._client.send_json("POST", f"{self._path}/detectors", body, limit_s=_POLL_S)

    async def deployment_target(self) -> Target | None:
        """The model to serve; None while none is chosen, or where the Loop names one that cannot be."""
        try:
            answer = await self._client.get_json(f"{self._path}/deployment/target", limit_s=_POLL_S)
        except LoopRefused as refusal:
            if refusal.status == _NOT_FOUND:
                return None
            raise
        members = answer if isinstance(answer, Mapping) else {}
        model_uuid, version = members.get("model_uuid"), members.get("version")
        if not model_uuid or not version:
            return None
        if _is_uuid(model_uuid) and _is_version(version):
            self._complaint = ""
            return Target(model_uuid=model_uuid.lower(), version=version)
        self._complain(f"the deployment target is ignored: {model_uuid!r:.60} {version!r:.60} are no id and version")
        return None

    async def models(self, model_format: str | None = None) -> list[ModelRow]:
        """The models of the project, or those there in one format; rows that cannot be read are left out."""
        params = {} if model_format is None else {"format": model_format}
        answer = await self._client.get_json(f"{self._path}/models", params=params)
        listed = answer.get("models") if isinstance(answer, Mapping) else None
        if not isinstance(listed, list):
            raise LoopUnavailable("the Learning Loop lists its models in a form we do not know", kind=FaultKind.FAILED)
        rows = [row for row in map(_model_row, listed) if row is not None]
        if len(rows) < len(listed):
            log.warning(
                "%d of %d models that the Learning Loop lists cannot be read", len(listed) - len(rows), len(listed)
            )
        return rows

    async def download_model(
        self,
        model_id: str,
        model_format: str,
        to: Path,
        *,
        max_bytes: int,
        on_progress: OnReceived = lambda _received_bytes, _all_bytes: None,
    ) -> Download:
        """Stream the zip of a model into the new file `to`; raises as `LoopClient.download`."""
        path = f"{self._path}/models/{_quoted(model_id)}/{_quoted(model_format)}/file"
        return await self._client.download(path, to, max_bytes=max_bytes, on_progress=on_progress)

    async def upload_images(self, parts: Sequence[FilePart]) -> None:
        """Send images with their metadata: pairs of `<stem>.json` and `<stem>.jpg`, stems unique in one call."""
        await self._client.send_files("POST", f"{self._path}/images", parts, limit_s=_UPLOAD_S)

    def _complain(self, complaint: str) -> None:
        """Once, not at every poll."""
        if complaint != self._complaint:
            log.warning("%s", complaint)
            self._complaint = complaint


def _model_row(value: Any) -> ModelRow | None:
    members = value if isinstance(value, Mapping) else {}
    model_id, version, formats = members.get("id"), members.get("version"), members.get("formats") or []
    if not _is_uuid(model_id) or not (version is None or _is_version(version)) or not isinstance(formats, list):
        return None
    host = members.get("host")
    return ModelRow(
        id=model_id.lower(),
        version=version,
        formats=tuple(name for name in formats if isinstance(name, str)),
        host=host if isinstance(host, str) else None,
    )


def _is_uuid(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and _UUID.fullmatch(value) is not None


def _is_version(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and _VERSION.fullmatch(value) is not None


def _quoted(name: str) -> str:
    return quote(name, safe="")
