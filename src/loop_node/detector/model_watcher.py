"""The task that lets the right model serve: it reads the Learning Loop's target and does what `update_policy` says.

Whatever goes wrong with a model ends in its quarantine and in words, never in the end of the task: the model that serves
goes on serving. An update can be given up until its model is built; from then on it is carried through.
"""

import logging
import math
import random
from collections.abc import Awaitable, Callable
from typing import Final

import trio
from attrs import define, field

from loop_node.durable import remove
from loop_node.errors import Conflict, InputError, LoopError, LoopNodeError, LoopUnavailable, ModelError, NoModel
from loop_node.inference.engine import ServingModel
from loop_node.schemas.status import OperationMode, VersionControl
from loop_node.supervision import TaskHandle

from .model_control import ChosenMode, checked_mode, mode_file, read_mode, write_mode
from .model_exchange import ModelExchange
from .state import DetectorState
from .update_policy import (
    Delays,
    Failure,
    Fetch,
    ModelRef,
    Quarantined,
    Serve,
    Situation,
    Wait,
    checked_ref,
    next_step,
    quarantined,
)

__all__ = ["ModelWatcher"]

logger = logging.getLogger(__name__)

_TARGET: Final = "deployment_target"
_MOST_HELD_BACK: Final = 50


@define(eq=False, kw_only=True)
class ModelWatcher:
    """Follows the Learning Loop's deployment target, or does not, as clients say.

    Args:
        exchange: Does the steps.
        default_control: VERSION_CONTROL_DEFAULT.
        exclusive: EXCLUSIVE_MODEL_BUILD, the old model goes before the new one is built.
        persist_mode: PERSIST_MODE.
        cycle_s: Between two looks at the target.
        delays: How long models that failed are held back.
        answer_timeout_s: How long a client that names a version waits for the Learning Loop.
        dice: 0..1.
        may_talk: Returns when the Learning Loop may be asked.
    """

    exchange: ModelExchange
    default_control: VersionControl = VersionControl.FOLLOW_LOOP
    exclusive: bool = False
    persist_mode: bool = False
    cycle_s: float = 5.0
    delays: Delays = field(factory=Delays)
    answer_timeout_s: float = 10.0
    dice: Callable[[], float] = random.random
    may_talk: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint

    _mode: ChosenMode = field(init=False)
    _target: ModelRef | None = field(default=None, init=False)
    _last: ModelRef | None = field(default=None, init=False)
    _served: tuple[ModelRef, ...] = field(default=(), init=False)
    _quarantine: dict[str, Quarantined] = field(factory=dict, init=False)
    _attempt: "_Attempt | None" = field(default=None, init=False)
    _changed: trio.Event = field(factory=trio.Event, init=False)
    _idle: trio.Event = field(factory=trio.Event, init=False)
    _exchanging: trio.Lock = field(factory=trio.Lock, init=False)
    _persisting: trio.Lock = field(factory=trio.Lock, init=False)
    _begun: bool = field(default=False, init=False)
    _started: bool = field(default=False, init=False)
    _requests: int = field(default=0, init=False)
    _last_granted: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._mode = ChosenMode(self.default_control)

    @property
    def state(self) -> DetectorState:
        """What the detector says of itself."""
        return self.exchange.state

    async def run(self, handle: TaskHandle) -> None:
        """Serve the last good model, then follow, until cancelled; that leaves the model that serves."""
        handle.ready()
        await self._begin()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_target, handle)
            await self._follow()

    async def wait_idle(self) -> None:
        """Wait until there is nothing to do before something changes or a retry is due."""
        while not self._idle.is_set():
            await self._idle.wait()

    async def read_target(self) -> None:
        """Look once at the Learning Loop's target; in every mode, because clients ask for it.

        Raises:
            LoopError: It could not be read; the target stays what it was.
        """
        try:
            said = await self.exchange.source.deployment_target()
            target = checked_ref(said.model_uuid, said.version) if said is not None else None
        except (LoopError, ModelError) as error:
            self.state.note_fault(_TARGET, str(error))
            if isinstance(error, LoopError):
                raise
            return
        self.state.note_fault(_TARGET, "")
        self.state.loop_version = target.version if target is not None else None
        if target != self._target:
            logger.info("the deployment target is %s", target.version if target else "no model")
            self._target = target
            if self._mode.control is VersionControl.FOLLOW_LOOP:
                self._wants_another()

    async def set_mode(self, text: str) -> None:
        """Let `follow_loop`, `pause`, `previous` or a version choose the model; as `ModelControl.set_mode`.

        `previous` is the model that served before this one; asked for twice, it comes back to this one.
        """
        self._requests += 1
        request = self._requests
        previous = next((model for model in self._served if model != self.exchange.current), None)
        mode = await checked_mode(
            text.strip(),
            previous=previous,
            source=self.exchange.source,
            model_format=self.exchange.model_format,
            answer_timeout_s=self.answer_timeout_s,
        )
        if request < self._last_granted:
            raise InputError("another version control was asked for meanwhile")
        self._last_granted = request
        logger.info("version control is %s%s", mode.control, f" {mode.model.version}" if mode.model else "")
        self._mode = mode
        self._wants_another()
        await trio.lowlevel.checkpoint()
        if self.persist_mode:
            await self._persist()

    def set_operation_mode(self, mode: OperationMode) -> None:
        """Say what the detector does; as `ModelControl.set_operation_mode`."""
        self.state.operation_mode = mode
        self._poke()

    async def load(self) -> None:
        """Build the model that serves anew.

        Raises:
            Conflict: A model is being exchanged already.
            NoModel: None serves.
            ModelError: It does not build; it goes on serving as it was.
        """
        model = self.exchange.serving_ref
        if self._exchanging.locked():
            raise Conflict("the model is being exchanged already")
        if model is None:
            raise NoModel("no model serves, so there is none to load anew")
        async with self._exchanging:
            await self.exchange.serve_again(model)

    async def reset(self) -> None:
        """Forget all models of the Learning Loop and every mode; what MODEL names serves again, then the target."""
        if self._attempt is not None:
            self._attempt.scope.cancel()
        async with self._exchanging:
            self._mode, self._target, self._last = ChosenMode(self.default_control), None, None
            self._quarantine.clear()
            await self.exchange.forget_all()
            await self.exchange.on_disk(remove, mode_file(self.exchange.store.data_folder))
            await self._look_at_disk()
        self._wants_another()

    async def _begin(self) -> None:
        if self._begun:
            return
        exchange = self.exchange
        folder = exchange.store.data_folder
        if self.persist_mode:
            remembered = await exchange.on_disk(read_mode, folder)
            if remembered is not None and not self._last_granted:
                self._mode = remembered
        self._quarantine = dict(exchange.store.quarantine(trio.current_time(), self.delays.build_s))
        exchange.engine.why_no_model = "detector not yet initialized: no model has come from the Learning Loop yet"
        await self._look_at_disk()
        self._tell()
        self._begun = True

    async def _watch_target(self, handle: TaskHandle) -> None:
        failures = 0
        while True:
            await self.exchange.catch_up()
            await self.may_talk()
            try:
                await self.read_target()
            except LoopError as error:
                failures += 1
                wait_s = self.delays.after_download(failures, self.dice(), _retry_after_s(error))
                with handle.waiting(f"the deployment target cannot be read: {error}"):
                    await trio.sleep(wait_s)
            else:
                failures = 0
                await trio.sleep(self.cycle_s)

    async def _follow(self) -> None:
        while True:
            self._changed = trio.Event()
            async with self._exchanging:
                step = next_step(self._situation())
                if isinstance(step, Serve):
                    await self._serve_again(step.model)
                elif isinstance(step, Fetch):
                    await self._update(step.model)
            if isinstance(step, Wait):
                await self._rest(step)

    async def _rest(self, step: Wait) -> None:
        if not self._started:
            self._started = True
            if self.state.operation_mode is OperationMode.STARTUP:
                self.state.operation_mode = OperationMode.IDLE
                return
        self._idle.set()
        with trio.move_on_at(math.inf if step.until_s is None else step.until_s):
            await self._changed.wait()
        self._wake()

    async def _serve_again(self, model: ModelRef) -> None:
        try:
            await self.exchange.serve_again(model)
        except Exception as error:  # noqa: BLE001  # a door to foreign code: _hold_back logs it
            self.state.updating_to = None
            await self._hold_back(model, Failure.BUILD, error)
            return
        self._last = model
        await self._look_at_disk()

    async def _update(self, model: ModelRef) -> None:
        built = None
        with trio.CancelScope() as scope:
            self._attempt = _Attempt(model, scope)
            try:
                built = await self._prepare(model)
            finally:
                self._attempt = None
        if built is None:
            return
        if scope.cancel_called:
            built.close()
            return
        self._quarantine.pop(model.id, None)
        self.state.model_error = ""
        await self.exchange.serve(built, model)
        self._last = model
        await self._look_at_disk()

    async def _prepare(self, model: ModelRef) -> ServingModel | None:
        """The model, ready to serve; None if it is held back now."""
        exchange = self.exchange
        failure = Failure.DOWNLOAD
        try:
            folder = await exchange.on_disk(exchange.store.find, model)
            if folder is None:
                archive = await exchange.download(model)
                failure = Failure.UNPACK
                folder = await exchange.on_disk(exchange.store.take_in, archive, model)
            failure = Failure.BUILD
            if self.exclusive:
                await exchange.free_current(model.version)
            return await exchange.build(model, folder)
        except Exception as error:  # noqa: BLE001  # a door to foreign code: _hold_back logs it
            await self._hold_back(model, failure, error)
        return None

    async def _hold_back(self, model: ModelRef, failure: Failure, error: Exception) -> None:
        """Put a model into quarantine and say why."""
        is_ours = isinstance(error, (LoopNodeError, OSError))
        reason = str(error) if isinstance(error, LoopNodeError) else f"{type(error).__name__}: {error}"
        logger.error("%s", _in_words(model, reason), exc_info=None if is_ours else error)
        if failure is Failure.UNPACK and isinstance(error.__cause__, OSError):  # the disk's fault, not the model's
            failure = Failure.DOWNLOAD
        held = quarantined(
            model,
            failure,
            reason,
            before=self._quarantine.pop(model.id, None),
            now_s=trio.current_time(),
            delays=self.delays,
            dice=self.dice(),
            retry_after_s=_retry_after_s(error),
        )
        self._quarantine[model.id] = held
        while len(self._quarantine) > _MOST_HELD_BACK:
            del self._quarantine[next(iter(self._quarantine))]
        self.state.held_back, self.state.model_error = dict(self._quarantine), _in_words(model, reason)
        if self.exchange.engine.model is None and self.state.updating_to is None:
            self.exchange.engine.why_no_model = self.state.model_error
        if failure is not Failure.DOWNLOAD and model != self.exchange.local_ref:
            await self.exchange.note_on_disk(self.exchange.store.discard, model)
            of_the_loop = [one for one in self._quarantine.values() if one.model != self.exchange.local_ref]
            await self.exchange.note_on_disk(self.exchange.store.hold_back, of_the_loop, trio.current_time())
        await self._look_at_disk()

    async def _persist(self) -> None:
        """Write the mode that is in force when it is our turn: the last one written is the last one set."""
        async with self._persisting:
            try:
                await trio.to_thread.run_sync(write_mode, self.exchange.store.data_folder, self._mode)
            except OSError as error:
                logger.warning("the version control will not survive a restart: %s", error)

    async def _look_at_disk(self) -> None:
        """Know what is on disk, and tell."""
        store = self.exchange.store
        with self.exchange.disk_faults():
            self._served = tuple(await self.exchange.on_disk(store.served))
            self.state.local_versions = await self.exchange.on_disk(store.versions)
        self.state.held_back = dict(self._quarantine)

    def _situation(self) -> Situation:
        return Situation(
            mode=self._mode.control,
            operation_mode=self.state.operation_mode,
            target=self._target,
            chosen=self._mode.model,
            current=self.exchange.current,
            candidates=self._candidates(),
            quarantine=self._quarantine,
            now_s=trio.current_time(),
        )

    def _candidates(self) -> tuple[ModelRef, ...]:
        """What may serve while nothing does: what served last, what was chosen, the store's models, MODEL."""
        local = [self.exchange.local_ref] if self.exchange.local_ref is not None else []
        stored: list[ModelRef] = [*self._served]
        if self._mode.model in stored:
            stored.insert(0, self._mode.model)
        order = [*local, *stored] if self._mode.control is VersionControl.PAUSE else [*stored, *local]
        return tuple(dict.fromkeys([self._last, *order] if self._last in order else order))

    def _wants_another(self) -> None:
        """Another model may be wanted now: what did not come before is asked for at once."""
        in_earnest = {key: held for key, held in self._quarantine.items() if held.failure is not Failure.DOWNLOAD}
        self._quarantine = in_earnest
        self._tell()
        self._poke()

    def _tell(self) -> None:
        """Say who chooses, what should serve, and why it does not."""
        wanted = self._situation().wanted
        held = self._quarantine.get(wanted.id) if wanted is not None else None
        self.state.version_control = self._mode.control
        self.state.target_version = wanted.version if wanted is not None else None
        self.state.held_back = dict(self._quarantine)
        if held is not None:
            self.state.model_error = _in_words(held.model, held.reason)
        elif self.exchange.engine.model is not None:
            self.state.model_error = ""

    def _poke(self) -> None:
        """Look again at what is to be done; an update that is not wanted any more ends."""
        self._wake()
        self._changed.set()
        if self._attempt is not None and not self._situation().may_fetch(self._attempt.model):
            logger.info("the update to model %s is given up", self._attempt.model.version)
            self._attempt.scope.cancel()

    def _wake(self) -> None:
        if self._idle.is_set():
            self._idle = trio.Event()


@define(eq=False)
class _Attempt:
    """An update that can still be given up."""

    model: ModelRef
    scope: trio.CancelScope


def _in_words(model: ModelRef, reason: str) -> str:
    name = f"model {model.version}"
    return reason if reason.startswith(f"{name} ") else f"{name}: {reason}"


def _retry_after_s(error: Exception) -> float | None:
    return error.retry_after_s if isinstance(error, LoopUnavailable) else None
