"""The steps of an update: fetch a model, build it, let it serve; each leaves the model that serves alone until the last."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import trio
from attrs import define, field

from loop_node.errors import ModelError
from loop_node.inference.engine import Engine, ServingModel

from .model_source import ModelSource
from .model_store import ModelStore
from .models import BuildThreads, ModelBuild
from .state import DetectorState, Download
from .update_policy import ModelRef

__all__ = ["ModelExchange"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_DISK: Final = "model_store"
_FAREWELL_S: Final = 2.0


@define(eq=False, kw_only=True)
class ModelExchange:
    """Fetches, builds and exchanges models.

    Args:
        build_folder: Builds the model in a folder; blocks, and may raise anything.
        local: The model that MODEL names.
        model_format: The format asked of the Learning Loop.
        drain_timeout_s: How long the old model's images may take after an exchange.
    """

    source: ModelSource
    store: ModelStore
    engine: Engine
    state: DetectorState
    build_folder: Callable[[Path], ServingModel]
    local: ModelBuild | None = None
    model_format: str = "openvino"
    build_timeout_s: float = 600.0
    drain_timeout_s: float = 60.0
    _threads: BuildThreads = field(init=False)
    _disk: trio.CapacityLimiter = field(factory=lambda: trio.CapacityLimiter(1))
    _local_serves: bool = False
    _not_noted: ModelRef | None = None

    def __attrs_post_init__(self) -> None:
        self._threads = BuildThreads(self.build_timeout_s)

    @property
    def local_ref(self) -> ModelRef | None:
        """A name for the model that MODEL names."""
        return ModelRef("MODEL", self.local.name) if self.local is not None else None

    @property
    def current(self) -> ModelRef | None:
        """The model that serves."""
        model = self.engine.model
        return _named(model) if model is not None else None

    @property
    def serving_ref(self) -> ModelRef | None:
        """How to build the model that serves once more."""
        return self.local_ref if self._local_serves else self.current

    async def on_disk(self, call: Callable[..., T], *arguments: Any) -> T:
        """Call the store in a thread, one call at a time. Cancelled, the call is finished unheard."""
        return await trio.to_thread.run_sync(call, *arguments, limiter=self._disk, abandon_on_cancel=True)

    async def note_on_disk(self, call: Callable[..., object], *arguments: Any) -> bool:
        """As `on_disk`, where it does not stop us that the disk fails; `/about` says so, and the answer whether not."""
        with self.disk_faults():
            await self.on_disk(call, *arguments)
            return True
        return False

    @contextmanager
    def disk_faults(self) -> Iterator[None]:
        """A failing disk ends the block, and is only said."""
        try:
            yield
        except OSError as error:
            logger.warning("the model store is not up to date: %s", error)
            self.state.note_fault(_DISK, f"{self.store.data_folder}: {error}")
        else:
            self.state.note_fault(_DISK, "")

    async def download(self, model: ModelRef) -> Path:
        """Fetch a model's zip from the Learning Loop.

        Cancelled or cut off, it leaves a part of the zip, which the next download or the next start removes.

        Raises:
            LoopError: It did not come.
            ModelError: It is too large.
            OSError: The disk did not take it.
        """
        room_bytes = await self.on_disk(self.store.room_bytes)
        archive = await self.on_disk(self.store.download_path, model)
        logger.info("downloading model %s", model.version)
        self.state.download = Download(version=model.version)

        def progress(received_bytes: int, total_bytes: int | None) -> None:
            if total_bytes is not None and total_bytes > room_bytes:
                raise ModelError(
                    f"model {model.version} has {total_bytes} bytes, there is room for {room_bytes} "
                    "(MODEL_MAX_BYTES, MIN_FREE_DISK_BYTES)"
                )
            self.state.download = Download(
                version=model.version, received_bytes=received_bytes, total_bytes=total_bytes
            )

        try:
            await self.source.download_model(
                model.id, self.model_format, archive, max_bytes=room_bytes, on_progress=progress
            )
        finally:
            self.state.download = None
        return archive

    async def build(self, model: ModelRef, folder: Path) -> ServingModel:
        """Build the model in `folder`, with a note on disk meanwhile.

        Raises:
            ModelError: It does not build, hangs, or is another than its folder says.
            Exception: Whatever foreign code raises.
        """
        logger.info("building model %s", model.version)
        await self.note_on_disk(self.store.begin_build, model)
        try:
            built = await self._threads.build(ModelBuild(model.version, lambda: self.build_folder(folder)))
        finally:
            with trio.move_on_after(_FAREWELL_S, shield=True):  # else the next start takes a stop for a death
                await self.note_on_disk(self.store.end_build)
        named = _named(built)
        if named != model:
            built.close()
            raise ModelError(f"it is model {named.version} ({named.id}), not {model.version} ({model.id})")
        return built

    async def serve(self, built: ServingModel, model: ModelRef) -> None:
        """Let a built model of the store serve from now on."""
        self._local_serves = False
        await self._install(built)
        self._not_noted = None if await self.note_on_disk(self.store.serve, model) else model

    async def catch_up(self) -> None:
        """Note on disk which model serves, where the disk did not take it before."""
        model = self._not_noted
        if model is not None and model == self.current and await self.note_on_disk(self.store.serve, model):
            self._not_noted = None

    async def serve_again(self, model: ModelRef) -> None:
        """Build and install a model that is on this machine: MODEL, or one of the store.

        Raises:
            ModelError: As `build`.
        """
        if self.engine.model is None and self.state.updating_to is None:
            self.engine.why_no_model = f"detector not yet initialized: model {model.version} is being built"
        if model == self.local_ref and self.local is not None:
            built = await self._threads.build(self.local)
            self._local_serves = True
            await self._install(built)
            return
        folder = await self.on_disk(self.store.folder, model)
        if folder is None:
            raise ModelError("it is not on this disk any more")
        await self.serve(await self.build(model, folder), model)

    async def free_current(self, version: str) -> None:
        """Let the model that serves go before the next one is built."""
        self.state.updating_to = version
        self.engine.why_no_model = f"updating model to version {version}"
        await self._install(None)

    async def forget_all(self) -> None:
        """Let no model serve, and remove those of the Learning Loop from the disk."""
        self._local_serves, self.state.updating_to, self.state.model_error = False, None, ""
        self.engine.why_no_model = "detector not yet initialized: it was reset"
        await self._install(None)
        await self.on_disk(self.store.reset)

    async def _install(self, model: ServingModel | None) -> None:
        with trio.move_on_after(self.drain_timeout_s) as drain:
            await self.engine.install(model)
        if drain.cancelled_caught:
            logger.warning(
                "an image has been in the old model for %g s; the model is left behind", self.drain_timeout_s
            )
        if model is not None:
            self.state.updating_to = None
            logger.info("model %s serves on %s", model.information.version, model.device)


def _named(model: ServingModel) -> ModelRef:
    return ModelRef(model.information.id, model.information.version)
