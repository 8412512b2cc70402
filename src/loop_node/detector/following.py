"""The parts of a detector that follow a Learning Loop, made from the settings."""

from attrs import frozen

from loop_node.errors import SettingsError
from loop_node.inference.engine import Engine
from loop_node.schemas.status import VersionControl
from loop_node.settings import Settings
from loop_node.supervision import Criticality, Task

from .logic import DetectorLogicFactory
from .model_exchange import ModelExchange
from .model_source import ModelSource
from .model_store import ModelStore, open_store
from .model_watcher import ModelWatcher
from .models import ModelBuild, build_folder
from .state import DetectorState
from .status import NodeIdentity, StatusReporter

__all__ = ["Following", "prepare_following"]

_CYCLE_S = 5.0


@frozen(kw_only=True)
class Following:
    """Who chooses the model, and who tells the Learning Loop of it."""

    watcher: ModelWatcher
    reporter: StatusReporter

    def tasks(self) -> list[Task]:
        """Both as tasks; the detector detects without either."""
        return [
            Task(name="model_watcher", run=self.watcher.run, criticality=Criticality.DEGRADABLE),
            Task(name="status_reporter", run=self.reporter.run, criticality=Criticality.DEGRADABLE),
        ]


def prepare_following(
    settings: Settings,
    source: ModelSource,
    *,
    node_uuid: str,
    engine: Engine,
    state: DetectorState,
    local: ModelBuild | None,
    factory: DetectorLogicFactory | None,
) -> Following:
    """Open the model store and connect the parts.

    Raises:
        SettingsError: DATA_FOLDER cannot be used.
    """
    model_format = settings.model_format if factory is None else factory.model_format
    exchange = ModelExchange(
        source=source,
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
    )
    identity = NodeIdentity(
        uuid=node_uuid, name=settings.node_name, model_format=model_format, node_version=settings.node_version
    )
    reporter = StatusReporter(
        source=source, engine=engine, state=state, identity=identity, every_s=settings.sync_cycles * _CYCLE_S
    )
    return Following(watcher=watcher, reporter=reporter)


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
