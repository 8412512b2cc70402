"""The table: every variable with its default, what it takes, who needs it and what it is for.

`Settings` is that table. The names, aliases and accepted spellings of the variables that Learning Loop nodes have
always had are theirs; so are their defaults, but for the address of the Loop (none: a detector then stands alone) and
the port.
"""

# ruff: noqa: RUF009  # `_variable` is `attrs.field` with a row of the table, not a computed default
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar, cast, overload

import attrs
from attrs import frozen

from loop_node.settings.kinds import (
    BIND_HOST,
    DEVICE,
    EXACT_FLAG,
    FILE,
    FLAG,
    LOOP_ADDRESS,
    NAME,
    ORIGINS,
    PATH,
    PRESENCE,
    SECRET,
    TEXT,
    VERSION_CONTROL,
    WEIGHT_TYPE,
    Kind,
    choice,
    number,
    whole_number,
)

__all__ = ["LOOP_REQUIRED", "VARIABLES", "VERBS", "WITHOUT_EFFECT", "Settings", "Variable"]

T = TypeVar("T")

VERBS: Final = ("detector", "trainer", "annotator", "converter", "loop", "demo")
LOOP_REQUIRED: Final = frozenset({"trainer", "annotator", "converter"})
NODES: Final = ("detector", "trainer", "annotator", "converter")
TRAINER: Final = ("trainer",)
DETECTING: Final = ("detector", "demo")
CYCLING: Final = ("detector", "trainer", "annotator")
LOCAL: Final = ("loop", "demo")
WEIGHING: Final = ("trainer", "converter")

WITHOUT_EFFECT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "UVICORN_RELOAD": "this node does not reload its code",
        "MANUAL_RESTART": "this node does not reload its code",
    }
)


@frozen(kw_only=True)
class Variable:
    """One row of the table.

    Attributes:
        name: The environment variable; it beats `alias`.
        kind: What its text may be.
        purpose: One line for operators.
        default: The value when nothing is set, unless `by_verb` or a rule knows better.
        by_verb: Defaults of single verbs.
        default_rule: In words, a default that is found out at run time.
        verbs: Who needs it.
        alias: The older name, "" for none.
        secret: Never shown.
        from_file: May also come from the file that `<name>_FILE` names, or from a systemd credential.
    """

    name: str
    kind: Kind[Any]
    purpose: str
    default: Any
    by_verb: Mapping[str, Any] = MappingProxyType({})
    default_rule: str = ""
    verbs: tuple[str, ...] = VERBS
    alias: str = ""
    secret: bool = False
    from_file: bool = False

    def default_for(self, verb: str) -> Any:
        """The value under `verb` when nothing is set and no rule applies."""
        return self.by_verb.get(verb, self.default)


@overload
def _variable(name: str, kind: Kind[T], purpose: str, *, default: T, **more: Any) -> T: ...
@overload
def _variable(name: str, kind: Kind[T], purpose: str, *, default: None = None, **more: Any) -> T | None: ...
def _variable(name: str, kind: Kind[Any], purpose: str, *, default: Any = None, **more: Any) -> Any:
    """A field of `Settings` that carries its row; typed as its value, as `attrs.field` is."""
    row = Variable(name=name, kind=kind, purpose=purpose, default=default, **more)
    return attrs.field(default=default, repr=_masked if row.secret else True, metadata={Variable: row})


def _masked(value: str | None) -> str:
    return "None" if value is None else "***"


@frozen(kw_only=True)
class Settings:
    """The settings in force; their units are in their names.

    Attributes:
        verb: What runs.
        sources: Field name to where its value came from ("env HOST", "file LOOP_PASSWORD_FILE"); absent for a default.
    """

    verb: str = "detector"
    sources: Mapping[str, str] = attrs.field(factory=dict, eq=False, repr=False)

    loop_host: str | None = _variable(
        "LOOP_HOST", LOOP_ADDRESS, "Address of the Learning Loop; a detector without one stands alone", alias="HOST"
    )
    loop_username: str | None = _variable(
        "LOOP_USERNAME", SECRET, "User at the Learning Loop", alias="USERNAME", from_file=True
    )
    loop_password: str | None = _variable(
        "LOOP_PASSWORD", SECRET, "Password of that user", alias="PASSWORD", secret=True, from_file=True
    )
    loop_organization: str | None = _variable(
        "LOOP_ORGANIZATION", NAME, "Organization whose project a detector serves", alias="ORGANIZATION", verbs=DETECTING
    )
    loop_project: str | None = _variable(
        "LOOP_PROJECT", NAME, "Project whose models a detector follows", alias="PROJECT", verbs=DETECTING
    )
    loop_ssl_cert_path: Path | None = _variable(
        "LOOP_SSL_CERT_PATH", FILE, "Certificates (PEM) to trust at the Learning Loop", verbs=NODES
    )

    node_name: str = _variable(
        "NODE_NAME",
        NAME,
        "Name shown in the Learning Loop; the node keeps its id as long as it keeps its name",
        default="node",
        default_rule="verb and host name, like detector-pc7",
    )
    node_host: str = _variable(
        "NODE_HOST",
        BIND_HOST,
        "Address to listen on",
        default="0.0.0.0",  # noqa: S104  # a node serves robots of its network; documented, and logged at start
        by_verb={"loop": "127.0.0.1", "demo": "127.0.0.1"},
    )
    node_port: int = _variable(
        "NODE_PORT",
        whole_number(0, 65535),
        "Port to listen on; 0 takes a free one",
        default=8004,
        by_verb={"trainer": 8005, "annotator": 8006, "converter": 8007, "loop": 8000},
    )
    node_version: str | None = _variable(
        "NODE_VERSION", TEXT, "Version of the deployment, reported to the Learning Loop", verbs=DETECTING
    )
    data_folder: Path = _variable(
        "DATA_FOLDER",
        PATH,
        "Folder for everything that must survive a restart",
        default=Path("/data"),
        default_rule="STATE_DIRECTORY, else /data if writable, else loop-node in the user's state folder",
    )

    log_level: str = _variable(
        "LOG_LEVEL", choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"), "Least severity logged", default="INFO"
    )
    log_format: str = _variable(
        "LOG_FORMAT", choice("console", "json"), "Lines for people, or one JSON object a line", default="console"
    )
    no_color: bool = _variable("NO_COLOR", PRESENCE, "No colours in the log", default=False)

    model: str | None = _variable(
        "MODEL",
        TEXT,
        "Model folder, model zip, .xml, .onnx or .tflite to serve; coco is the bundled one",
        verbs=("detector",),
    )
    model_format: str = _variable(
        "MODEL_FORMAT", NAME, "Format of the models asked of the Learning Loop", default="openvino", verbs=DETECTING
    )
    device: str = _variable(
        "DEVICE",
        DEVICE,
        "Where to infer; AUTO is a GPU that builds the model, else the CPU",
        default="AUTO",
        verbs=DETECTING,
    )
    performance_hint: str = _variable(
        "PERFORMANCE_HINT",
        choice("LATENCY", "THROUGHPUT"),
        "What the device is tuned for: the single answer, or many clients at once",
        default="LATENCY",
        verbs=DETECTING,
    )
    inference_precision: str | None = _variable(
        "INFERENCE_PRECISION",
        choice("f32", "f16", "bf16"),
        "Arithmetic of the device",
        default_rule="the device's own choice",
        verbs=DETECTING,
    )
    model_cache: Path | None = _variable(
        "MODEL_CACHE", PATH, "Folder for compiled models, for a faster start; never cleaned up", verbs=DETECTING
    )
    conf_threshold: float | None = _variable(
        "CONF_THRESHOLD",
        number(0, 1),
        "Least confidence of a detection",
        default_rule="the model's, else 0.2",
        verbs=DETECTING,
    )
    iou_threshold: float | None = _variable(
        "IOU_THRESHOLD",
        number(0, 1),
        "Overlap above which two boxes are one",
        default_rule="the model's, else 0.45",
        verbs=DETECTING,
    )
    weight_type: str = _variable(
        "WEIGHT_TYPE", WEIGHT_TYPE, "Weights of converted and trained models", default="FP16", verbs=WEIGHING
    )

    max_queue: int = _variable(
        "MAX_QUEUE",
        whole_number(1, 100_000),
        "Images waiting for the engine; more are answered 503",
        default=64,
        verbs=DETECTING,
    )
    max_image_pixels: int = _variable(
        "MAX_IMAGE_PIXELS", whole_number(1, 2**40), "Pixels of one image; more are refused", default=100_000_000
    )
    max_body_bytes: int = _variable(
        "MAX_BODY_BYTES",
        whole_number(1024, 2**40),
        "Bytes of one request; more are refused",
        default=64 * 1024 * 1024,
        by_verb={"loop": 512 * 1024 * 1024},
    )
    max_connections: int = _variable(
        "MAX_CONNECTIONS", whole_number(1, 100_000), "Connections open at once", default=256
    )
    cors_allowed_origins: tuple[str, ...] = _variable(
        "CORS_ALLOWED_ORIGINS", ORIGINS, "Web pages of other origins that may call this node", default=()
    )

    min_uncertain_threshold: float = _variable(
        "MIN_UNCERTAIN_THRESHOLD",
        number(0, 1),
        "Least confidence that counts as uncertain",
        default=0.3,
        verbs=DETECTING,
    )
    max_uncertain_threshold: float = _variable(
        "MAX_UNCERTAIN_THRESHOLD",
        number(0, 1),
        "Greatest confidence that counts as uncertain",
        default=0.6,
        verbs=DETECTING,
    )
    version_control_default: str = _variable(
        "VERSION_CONTROL_DEFAULT",
        VERSION_CONTROL,
        "Whether a starting detector follows the Learning Loop's model",
        default="follow_loop",
        verbs=DETECTING,
    )
    exclusive_model_build: bool = _variable(
        "EXCLUSIVE_MODEL_BUILD", FLAG, "Free the old model before the new one is built", default=False, verbs=DETECTING
    )
    sync_cycles: int = _variable(
        "SYNC_CYCLES",
        whole_number(1, 1_000_000),
        "Cycles of 5 s between two status reports",
        default=6,
        verbs=DETECTING,
    )
    max_outbox_size: int = _variable(
        "MAX_OUTBOX_SIZE",
        whole_number(1, 10_000_000),
        "Images kept for upload; the oldest go first",
        default=1000,
        verbs=DETECTING,
    )

    max_outbox_bytes: int = _variable(
        "MAX_OUTBOX_BYTES",
        whole_number(1, 2**50),
        "Bytes kept for upload; the oldest images go first",
        default=4 * 2**30,
        verbs=DETECTING,
    )
    min_free_disk_bytes: int = _variable(
        "MIN_FREE_DISK_BYTES",
        whole_number(0, 2**50),
        "Room on the disk that the outbox, model downloads and uploads to an embedded Learning Loop leave free",
        default=500_000_000,
        verbs=("detector", "demo", "loop"),
    )
    keep_models: int = _variable(
        "KEEP_MODELS",
        whole_number(1, 1000),
        "Models that have served and are kept, the current one included",
        default=3,
        verbs=DETECTING,
    )
    persist_mode: bool = _variable(
        "PERSIST_MODE",
        FLAG,
        "Keep the model version mode that was set at run time over a restart",
        default=False,
        verbs=DETECTING,
    )
    model_max_bytes: int = _variable(
        "MODEL_MAX_BYTES",
        whole_number(1024, 2**50),
        "Bytes of one model, unpacked; more are refused",
        default=2 * 2**30,
        verbs=("detector", "demo", "loop"),
    )

    local_loop_folder: Path = _variable(
        "LOCAL_LOOP_FOLDER",
        PATH,
        "Folder of the embedded Learning Loop",
        default=Path("/data/local_loop"),
        default_rule="local_loop in DATA_FOLDER",
        verbs=LOCAL,
    )
    local_loop_port: int = _variable(
        "LOCAL_LOOP_PORT",
        whole_number(0, 65535),
        "Port of the demo's embedded Learning Loop; 0 takes a free one",
        default=8000,
        verbs=("demo",),
    )
    local_loop_demo: bool = _variable(
        "LOCAL_LOOP_DEMO",
        FLAG,
        "Give an embedded Learning Loop that has none a demo project",
        default=False,
        verbs=("loop",),
    )
    max_uploads_per_minute: int = _variable(
        "MAX_UPLOADS_PER_MINUTE",
        whole_number(0, 1_000_000),
        "Image uploads of one node a minute (imports are not counted); more are answered 429; 0 is no limit",
        default=0,
        verbs=LOCAL,
    )

    skip_repeat_on_start: bool = _variable(
        "SKIP_REPEAT_ON_START",
        EXACT_FLAG,
        "Start without talking to the Learning Loop (for tests)",
        default=False,
        verbs=CYCLING,
    )
    use_backdoor_controls: bool = _variable(
        "USE_BACKDOOR_CONTROLS",
        FLAG,
        "Endpoints that tests use, such as POST /reset",
        default=False,
        verbs=("detector", "trainer"),
    )

    inference_batch_size: int = _variable(
        "INFERENCE_BATCH_SIZE",
        whole_number(1, 100_000),
        "Images detected at a time after a training",
        default=10,
        verbs=TRAINER,
    )
    restart_after_training: bool = _variable(
        "RESTART_AFTER_TRAINING", FLAG, "End with exit code 75 after a training", default=False, verbs=TRAINER
    )
    keep_old_trainings: bool = _variable(
        "KEEP_OLD_TRAININGS", FLAG, "Keep the folders of earlier trainings", default=False, verbs=TRAINER
    )
    trainer_idle_timeout_s: float = _variable(
        "TRAINER_IDLE_TIMEOUT_SEC",
        number(0, 1e9),
        "Seconds without work until the trainer ends; 0 is never",
        default=0.0,
        verbs=TRAINER,
    )
    training_slot_lock: Path | None = _variable(
        "TRAINING_SLOT_LOCK", PATH, "Lock file by which trainers of one machine take turns", verbs=TRAINER
    )
    vram_limit_gb: float = _variable(
        "VRAM_LIMIT_GB", number(0, 1e6), "GPU memory a training may use; 0 is no limit", default=0.0, verbs=TRAINER
    )

    @property
    def secrets(self) -> tuple[str, ...]:
        """The secret values that are set, for the log to mask."""
        values = (getattr(self, field) for field, variable in VARIABLES.items() if variable.secret)
        return tuple(value for value in values if value is not None)

    @property
    def serves_project(self) -> bool:
        """Whether there is a Loop, an organization and a project: what a detector needs to follow and to upload."""
        return None not in (self.loop_host, self.loop_organization, self.loop_project)


def _rows() -> dict[str, Variable]:
    fields = attrs.fields(Settings)
    return {field.name: cast(Variable, field.metadata[Variable]) for field in fields if Variable in field.metadata}


VARIABLES: Final[Mapping[str, Variable]] = MappingProxyType(_rows())
