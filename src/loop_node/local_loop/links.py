"""The nodes that are connected over Socket.IO: who they are, and what they are asked."""

from collections.abc import Iterator
from typing import Any, Final

import trio
from attrs import define, field

from loop_node.errors import Conflict, InputError, SchemaError
from loop_node.schemas.status import SocketResponse
from loop_node.schemas.wire import structure
from loop_node.socketio.session import Peer

from .nodes import NodeKind

__all__ = ["Link", "NodeLinks"]

_ANSWER_S: Final = 30


@define(eq=False)
class Link:
    """One connected node; `node_id` and `name` are known from its first status on."""

    peer: Peer
    kind: NodeKind
    organization: str = ""
    project: str = ""
    node_id: str = ""
    name: str = ""
    state: str | None = None

    async def ask(self, event: str, *args: Any) -> SocketResponse:
        """Send an event and wait for what the node says to it.

        Raises:
            Conflict: It did not answer, not in time, or not what it should.
        """
        who = self.name or self.node_id or self.kind
        try:
            with trio.fail_after(_ANSWER_S):
                answer = await self.peer.call(event, *args)
            return structure(SocketResponse, answer)
        except trio.TooSlowError:
            raise Conflict(f"{who} did not answer within {_ANSWER_S} s") from None
        except (ConnectionError, SchemaError) as error:
            raise Conflict(f"{who} did not answer: {error}") from None

    async def refusal_of(self, event: str, *args: Any) -> str:
        """Ask, and tell why the node does not do it; empty if it does."""
        try:
            answer = await self.ask(event, *args)
        except InputError as error:  # also one that is larger than the node takes
            return str(error)
        return "" if answer.success else f"{self.name} refused: {answer.error_msg}"


@define
class NodeLinks:
    """All of them, by their connection."""

    _links: dict[Peer, Link] = field(factory=dict)

    def add(self, link: Link) -> None:
        """A node has connected."""
        self._links[link.peer] = link

    def remove(self, peer: Peer) -> None:
        """A node is gone."""
        self._links.pop(peer, None)

    def of(self, peer: Peer) -> Link:
        """Whose connection this is."""
        return self._links[peer]

    def ids(self) -> set[str]:
        """Those who have told of themselves."""
        return {link.node_id for link in self._links.values() if link.node_id}

    def find(self, kind: NodeKind, named: str | None) -> Link | None:
        """The node of this id or name, the one that connected last; None as name takes the first that is idle."""
        fitting = [link for link in self._of_kind(kind) if named is None or named in (link.node_id, link.name)]
        if named is None:
            return next((link for link in fitting if link.state == "idle"), fitting[0] if fitting else None)
        return fitting[-1] if fitting else None

    def _of_kind(self, kind: NodeKind) -> Iterator[Link]:
        return (link for link in self._links.values() if link.kind is kind and link.node_id)
