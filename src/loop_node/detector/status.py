"""The task that tells the Learning Loop how the detector is."""

import random
from collections.abc import Awaitable, Callable

import trio
from attrs import define, evolve, field, frozen

from loop_node.errors import LoopError, LoopUnavailable
from loop_node.inference.engine import Engine
from loop_node.schemas.status import DetectorStatus, NodeState, OperationMode
from loop_node.supervision import TaskHandle

from .model_source import ModelSource
from .state import DetectorState
from .update_policy import Delays

__all__ = ["NodeIdentity", "StatusReporter"]

_CONCERN = "status_report"


@frozen(kw_only=True)
class NodeIdentity:
    """Who reports.

    Attributes:
        uuid: The Learning Loop's key of this node; the same as long as the node keeps its name.
        node_version: NODE_VERSION.
    """

    uuid: str
    name: str
    model_format: str
    node_version: str | None = None


@define(eq=False, kw_only=True)
class StatusReporter:
    """Reports at start, when something changes, and now and then in between.

    Whether something has changed is found out by comparing: so nobody has to remember to say so, and changes that
    follow each other quickly become one report.

    Args:
        every_s: Between two reports without a change; SYNC_CYCLES x 5 s.
        look_s: Between two comparisons.
        delays: Before a report that failed is tried again; those of a download.
        dice: 0..1.
        may_talk: Returns when something may be reported.
    """

    source: ModelSource
    engine: Engine
    state: DetectorState
    identity: NodeIdentity
    every_s: float = 30.0
    look_s: float = 1.0
    delays: Delays = field(factory=Delays)
    dice: Callable[[], float] = random.random
    may_talk: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
    _began_s: float | None = None

    async def run(self, handle: TaskHandle) -> None:
        """Report until cancelled. A fault of the Learning Loop is told in `/about` and in health."""
        handle.ready()
        if self._began_s is None:
            self._began_s = trio.current_time()
        failures = 0
        while True:
            await self.may_talk()
            said = self.status()
            try:
                await self.source.report_detector(said)
            except LoopError as error:
                failures += 1
                self.state.note_fault(_CONCERN, str(error))
                retry_after_s = error.retry_after_s if isinstance(error, LoopUnavailable) else None
                with handle.waiting(f"the status cannot be reported: {error}"):
                    await trio.sleep(self.delays.after_download(failures, self.dice(), retry_after_s))
                continue
            failures = 0
            self.state.note_fault(_CONCERN, "")
            await self._until_due(said)

    def status(self) -> DetectorStatus:
        """How the detector is now."""
        model = self.engine.model
        return DetectorStatus(
            uuid=self.identity.uuid,
            name=self.identity.name,
            state=self._node_state(),
            uptime=int(trio.current_time() - (self._began_s or trio.current_time())),
            model_format=self.identity.model_format,
            current_model=model.information.version if model is not None else None,
            target_model=self.state.target_model(model),
            errors={key: text for key, text in self.state.errors.items() if key != _CONCERN},
            operation_mode=self.state.operation_mode.value,
            node_version=self.identity.node_version,
        )

    async def _until_due(self, said: DetectorStatus) -> None:
        with trio.move_on_after(self.every_s):
            while evolve(self.status(), uptime=said.uptime) == said:  # noqa: ASYNC110  # comparing is what the class does
                await trio.sleep(self.look_s)

    def _node_state(self) -> NodeState:
        if self.state.download is not None or self.state.updating_to is not None:
            return NodeState.PREPARING
        return {
            OperationMode.STARTUP: NodeState.PREPARING,
            OperationMode.IDLE: NodeState.IDLE,
            OperationMode.DETECTING: NodeState.DETECTING,
        }[self.state.operation_mode]
