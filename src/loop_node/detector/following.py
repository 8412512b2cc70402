"""Who chooses a detector's model: made from the settings, with a Learning Loop or without one."""

from attrs import frozen

from loop_node.errors import SettingsError
from loop_node.inference.engine import Engine
from loop_node.schemas.status import OperationMode, VersionControl
from loop_node.settings import Settings
from loop_node.supervision import Criticality, Restart, Task, TaskHandle

from .linking import LoopLink
from .logic import DetectorLogicFactory
from .model_control import ModelControl
from .model_exchange import ModelExchange
from .model_store import ModelStore, open_store
from .model_watcher import ModelWatcher
from .models import ModelBuild, ModelLoader, build_folder
from .state import DetectorState
from .status import NodeIdentity, StatusReporter
from .talking import Talk

__all__ = ["Models", "models_alone", "models_of_loop"]

_CYCLE_S = 5.0


@frozen(kw_only=True)
class Models:
    """Who chooses the model, and the tasks that see to it; the detector detects without any of them."""

    control: ModelControl
    tasks: list[Task]


def models_alone(engine: Engine, state: DetectorState, build: ModelBuild | None) -> Models:
    """The model that was asked for, without a Learning Loop."""
    loader = ModelLoader(engine, state, build)

    async def model_loader(handle: TaskHandle) -> None:
        handle.ready()
        try:
            if build is not None:
                await loader.load()
        finally:
            if state.operation_mode is OperationMode.STARTUP:
                state.operation_mode = OperationMode.IDLE

    task = Task(name="model_loader", run=model_loader, restart=Restart.NEVER, criticality=Criticality.DEGRADABLE)
    return Models(control=loader, tasks=[task])


def models_of_loop(
    settings: Settings,
    link: LoopLink,
    *,
    engine: Engine,
    state: DetectorState,
    local: ModelBuild | None,
    factory: DetectorLogicFactory | None,
    talk: Talk,
) -> Models:
    """Open the model store, follow the project's target and tell how it goes.

    Raises:
        SettingsError: DATA_FOLDER cannot be used.
    """
    model_format = settings.model_format if factory is None else factory.model_format
    exchange = ModelExchange(
        source=link.project,
        store=_open_store(settings),
        engine=engine,
        state=state,
        build_folder=lambda folder: build_folder(settings, factory, folder),
        local=local,
        model_format=model_format,
    )
    watcher = ModelWatcher(
        exchange=exchange,
        default_control=VersionControl(settings.version_control_default),
        exclusive=settings.exclusive_model_build,
        persist_mode=settings.persist_mode,
        cycle_s=_CYCLE_S,
        may_talk=talk.wait_on,
    )
    identity = NodeIdentity(
        uuid=link.uuid, name=settings.node_name, model_format=model_format, node_version=settings.node_version
    )
    reporter = StatusReporter(
        source=link.project,
        engine=engine,
        state=state,
        identity=identity,
        every_s=settings.sync_cycles * _CYCLE_S,
        may_talk=talk.wait_on,
    )
    return Models(
        control=watcher,
        tasks=[
            Task(name="model_watcher", run=watcher.run, criticality=Criticality.DEGRADABLE),
            Task(name="status_reporter", run=reporter.run, criticality=Criticality.DEGRADABLE),
        ],
    )


def _open_store(settings: Settings) -> ModelStore:
    try:
        return open_store(
            settings.data_folder,
            keep=settings.keep_models,
            max_bytes=settings.model_max_bytes,
            min_free_bytes=settings.min_free_disk_bytes,
        )
    except OSError as error:
        raise SettingsError([f"DATA_FOLDER={settings.data_folder}: no models can be kept there: {error}"]) from error
