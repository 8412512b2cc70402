"""A detector's link to its project of a Learning Loop: where that is, as whom it asks, and how images get there."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio
from attrs import frozen

from loop_node.loop.address import login_in_clear, loop_url
from loop_node.loop.client import LoopAccess, open_loop_client
from loop_node.loop.link_state import LinkState
from loop_node.loop.multipart import FilePart
from loop_node.loop.project import LoopProject
from loop_node.loop.uuids import node_uuid
from loop_node.settings import Settings

from .outbox import OutgoingImage

__all__ = ["LoopLink", "open_loop_link"]

logger = logging.getLogger(__name__)


@frozen(kw_only=True)
class LoopLink:
    """The link.

    Attributes:
        project: Is asked.
        state: What is known of the connection.
        uuid: This node's id at the Learning Loop.
    """

    project: LoopProject
    state: LinkState
    uuid: str

    async def send(self, images: Sequence[OutgoingImage]) -> None:
        """Send images of the outbox, each with its metadata, in one request.

        Raises:
            LoopRefused, LoopUnavailable: As all calls.
        """
        parts = [part for image in images for part in _parts(image)]
        await self.project.upload_images(parts)


def _parts(image: OutgoingImage) -> list[FilePart]:
    return [
        FilePart(filename=f"{image.stem}.json", content=image.metadata, content_type="application/json"),
        FilePart(filename=f"{image.stem}.jpg", content=image.jpeg, content_type="image/jpeg"),
    ]


@asynccontextmanager
async def open_loop_link(settings: Settings) -> AsyncIterator[LoopLink | None]:
    """The link to the project that the settings name; None where they name none. Nothing is asked yet.

    Raises:
        SettingsError: The address or the certificates cannot be used.
    """
    host, organization, project = settings.loop_host, settings.loop_organization, settings.loop_project
    if host is None or organization is None or project is None:
        yield None
        return
    access = LoopAccess(
        url=loop_url(host),
        username=settings.loop_username,
        password=settings.loop_password,
        ca_file=settings.loop_ssl_cert_path,
    )
    if access.has_login and login_in_clear(access.url):
        logger.warning("the password travels to %s in clear text: put https:// before the address", access.url)
    uuid = await trio.to_thread.run_sync(node_uuid, settings.data_folder, settings.node_name)
    async with open_loop_client(access) as client:
        yield LoopLink(project=LoopProject(client, organization, project), state=client.link, uuid=uuid)
