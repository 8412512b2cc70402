"""Which model a detector serves, and how it is built."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final
from uuid import NAMESPACE_URL, uuid5

import trio
from attrs import define, field, frozen

from loop_node.errors import InputError, ModelError, NoModel, SettingsError
from loop_node.inference.devices import DeviceOptions
from loop_node.inference.engine import Engine, ServingModel
from loop_node.inference.openvino import load_model
from loop_node.inference.sources import LocatedModel, locate_model, model_exists, read_model_folder
from loop_node.schemas.models import ModelInformation
from loop_node.schemas.status import OperationMode, VersionControl
from loop_node.settings import Settings

from .logic import DetectorLogicFactory, build_logic
from .state import DetectorState
from .update_policy import is_version

__all__ = ["BuildThreads", "ModelBuild", "ModelLoader", "build_folder", "prepare_build"]

logger = logging.getLogger(__name__)

_BUILDS_AT_ONCE: Final = 3
"""One that is waited for; the others hang, were given up and cannot be stopped."""


@define
class ModelLoader:
    """Builds the model off the event loop and installs it; the old one serves meanwhile. It follows no Learning Loop.

    Args:
        engine: Where it is installed.
        state: Where a failure is told.
        build: What to build; None for no model.
    """

    engine: Engine
    state: DetectorState
    build: "ModelBuild | None"
    _lock: trio.Lock = field(factory=trio.Lock)

    async def load(self) -> None:
        """Build and install. Cancelled, a build that runs already ends unheard.

        Raises:
            NoModel: There is none to build.
            ModelError: It does not build; whichever model served before still serves.
        """
        if self.build is None:
            raise NoModel("no model was asked for, so there is none to load")
        async with self._lock:
            logger.info("building model %s", self.build.name)
            self.engine.why_no_model = f"detector not yet initialized: model {self.build.name} is being built"
            try:
                model = await trio.to_thread.run_sync(self.build.run, abandon_on_cancel=True)
            except Exception as error:
                self.engine.why_no_model = self.state.model_error = f"model {self.build.name}: {error}"
                raise  # to the supervisor or the client that asked for it
            self.state.model_error = ""
            await self.engine.install(model)
            logger.info("model %s serves on %s", model.information.version, model.device)

    async def set_mode(self, text: str) -> None:
        """Without a Learning Loop there is nothing to choose from, but nobody to follow either.

        Raises:
            InputError: As `ModelWatcher.set_mode`.
        """
        await trio.lowlevel.checkpoint()
        if text in (VersionControl.FOLLOW_LOOP, VersionControl.PAUSE):
            self.state.version_control = VersionControl(text)
        elif text == "previous" or is_version(text):
            raise InputError("Failed to load models from learning loop")
        else:
            raise InputError("Invalid version number")

    def set_operation_mode(self, mode: OperationMode) -> None:
        """Say what the detector does; here nothing depends on it."""
        self.state.operation_mode = mode

    async def reset(self) -> None:
        """There are no models of the Learning Loop to forget."""
        await trio.lowlevel.checkpoint()


@frozen
class ModelBuild:
    """A model that can be built: `run` blocks for as long as that takes and raises `ModelError`."""

    name: str
    run: Callable[[], ServingModel]


@define(eq=False)
class BuildThreads:
    """Builds models in threads; one that takes too long is left alone, and freed should it ever be done.

    Args:
        timeout_s: How long a build may take.
    """

    timeout_s: float = 600.0
    _limiter: trio.CapacityLimiter = field(factory=lambda: trio.CapacityLimiter(_BUILDS_AT_ONCE))

    async def build(self, build: ModelBuild) -> ServingModel:
        """Run a build. Cancelled, it goes on unheard.

        Raises:
            ModelError: It failed, hangs, or too many that hang are there already.
        """
        if self._limiter.available_tokens < 1:
            raise ModelError(f"{_BUILDS_AT_ONCE} builds hang already; start the node anew to build another")
        thread = _BuildThread(build.run)
        model = None
        try:
            with trio.move_on_after(self.timeout_s):
                model = await trio.to_thread.run_sync(thread.run, limiter=self._limiter, abandon_on_cancel=True)
        finally:
            if model is None:
                thread.give_up()
        if model is None:
            raise ModelError(f"its build did not end within {self.timeout_s:g} s and was given up")
        return model


@define(eq=False)
class _BuildThread:
    """One build; its model is freed by whoever comes second, the thread or the one who gives it up."""

    _build: Callable[[], ServingModel]
    _given_up: bool = False
    _model: ServingModel | None = None
    _lock: threading.Lock = field(factory=threading.Lock)

    def run(self) -> ServingModel:
        model = self._build()
        with self._lock:
            if not self._given_up:
                self._model = model
                return model
        model.close()
        raise ModelError("nobody waits for it any more")

    def give_up(self) -> None:
        with self._lock:
            self._given_up, unheard = True, self._model
        if unheard is not None:
            unheard.close()


def prepare_build(settings: Settings, factory: DetectorLogicFactory | None) -> ModelBuild | None:
    """How the model that MODEL names is built; None without a model and without a logic.

    Raises:
        SettingsError: There is nothing at that place.
    """
    if settings.model is not None and not model_exists(settings.model):
        raise SettingsError([f"MODEL={settings.model}: there is no such file or folder; `coco` is the bundled model"])
    unpack_into = settings.data_folder / "unpacked"
    if factory is not None:
        if settings.model is None:
            return ModelBuild("without a model", lambda: build_logic(factory, _no_model(settings)))
        return ModelBuild(settings.model, lambda: _build_logic(settings.model or "", factory, unpack_into))
    if settings.model is None:
        return None
    source = settings.model
    return ModelBuild(source, lambda: _warm(locate_model(source, unpack_into), device_options(settings)))


def device_options(settings: Settings) -> DeviceOptions:
    """What the settings say of the device."""
    return DeviceOptions(
        device=settings.device,
        performance_hint=settings.performance_hint,
        inference_precision=settings.inference_precision,
        cache=settings.model_cache,
        conf_threshold=settings.conf_threshold,
        iou_threshold=settings.iou_threshold,
    )


def build_folder(settings: Settings, factory: DetectorLogicFactory | None, folder: Path) -> ServingModel:
    """Build the model in a folder that has `model.json` at its top. Blocks.

    Raises:
        ModelError: It cannot be read, is not understood, does not build, or answers what is no number.
    """
    if factory is not None:
        return _build_logic(str(folder), factory, folder)
    return _warm(locate_model(str(folder), folder), device_options(settings))


def _build_logic(source: str, factory: DetectorLogicFactory, unpack_into: Path) -> ServingModel:
    return build_logic(factory, read_model_folder(source, unpack_into))


def _no_model(settings: Settings) -> ModelInformation:
    """A logic without a model gets a description that names none: it may not need one."""
    return ModelInformation(
        id=str(uuid5(NAMESPACE_URL, "loop-node:no-model")),
        organization=settings.loop_organization or "",
        project=settings.loop_project or "",
        version="0.0",
    )


def _warm(located: LocatedModel, options: DeviceOptions) -> ServingModel:
    model = load_model(located, options)
    try:
        model.warm_up()
        model.probe()
    except ModelError:
        model.close()
        raise
    return model
