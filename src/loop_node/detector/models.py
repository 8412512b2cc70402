"""Which model a detector serves, and how it is built."""

import logging
from collections.abc import Callable
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

import trio
from attrs import define, field, frozen

from loop_node.errors import NoModel, SettingsError
from loop_node.inference.devices import DeviceOptions
from loop_node.inference.engine import Engine, ServingModel
from loop_node.inference.openvino import load_model
from loop_node.inference.sources import LocatedModel, locate_model, model_exists, read_model_folder
from loop_node.schemas.models import ModelInformation
from loop_node.settings import Settings

from .logic import DetectorLogicFactory, build_logic
from .state import DetectorState

__all__ = ["ModelBuild", "ModelLoader", "prepare_build"]

logger = logging.getLogger(__name__)


@define
class ModelLoader:
    """Builds the model off the event loop and installs it; the old one serves meanwhile.

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


@frozen
class ModelBuild:
    """A model that can be built: `run` blocks for as long as that takes and raises `ModelError`."""

    name: str
    run: Callable[[], ServingModel]


def prepare_build(settings: Settings, factory: DetectorLogicFactory | None) -> ModelBuild | None:
    """How the model that MODEL names is built; None without a model and without a logic.

    Raises:
        SettingsError: There is nothing at that place.
    """
    if settings.model is not None and not model_exists(settings.model):
        raise SettingsError([f"MODEL={settings.model}: there is no such file or folder; `coco` is the bundled model"])
    unpack_into = settings.data_folder / "unpacked"
    if factory is not None:
        return ModelBuild(settings.model or "without a model", lambda: _build_logic(settings, factory, unpack_into))
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


def _build_logic(settings: Settings, factory: DetectorLogicFactory, unpack_into: Path) -> ServingModel:
    """A logic without a model gets a description that names none: it may not need one."""
    information = _no_model(settings) if settings.model is None else read_model_folder(settings.model, unpack_into)
    return build_logic(factory, information)


def _no_model(settings: Settings) -> ModelInformation:
    return ModelInformation(
        id=str(uuid5(NAMESPACE_URL, "loop-node:no-model")),
        organization=settings.loop_organization or "",
        project=settings.loop_project or "",
        version="0.0",
    )


def _warm(located: LocatedModel, options: DeviceOptions) -> ServingModel:
    model = load_model(located, options)
    model.warm_up()
    return model
