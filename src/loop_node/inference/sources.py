"""Where a model comes from: a folder, a zip, a bare file, or the one that ships with the program."""

import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from attrs import frozen

from loop_node.archives import unpack
from loop_node.errors import ModelError, SchemaError
from loop_node.schemas.models import ModelInformation
from loop_node.schemas.wire import read_model_information

__all__ = ["BUNDLED", "MODEL_SUFFIXES", "LocatedModel", "locate_model", "model_exists", "read_model_folder"]

BUNDLED = "coco"
MODEL_SUFFIXES = (".xml", ".onnx", ".tflite")

_ACCEPTED = (
    f"a model folder, a model zip, a file that ends in {', '.join(MODEL_SUFFIXES[:-1])} or {MODEL_SUFFIXES[-1]}, "
    f"or the word {BUNDLED}"
)
_MAX_MODEL_JSON_BYTES = 16 * 2**20
_NAMESPACE = UUID("0f3f3c55-7c0d-5d52-a5cf-0f9a1c2b8e11")


@frozen(kw_only=True)
class LocatedModel:
    """A model on this machine's disk, not yet read.

    Attributes:
        file: What OpenVINO reads.
        root: The folder that holds it and `model.json`.
        information: `model.json`, or what stands in for it: an id made from the content, the file's name as version.
    """

    file: Path
    root: Path
    information: ModelInformation


def locate_model(source: str, unpack_into: Path) -> LocatedModel:
    """Find the model that `--model` or MODEL names. Blocking: reads and writes files.

    Args:
        source: A model folder, a model zip, a bare model file, or `coco`, the model that ships with the program.
        unpack_into: Folder in which a zip gets a folder of its own, named for its content; unpacked only once.

    Raises:
        ModelError: There is nothing, or nothing usable; says what and where.
    """
    if source == BUNDLED:
        return _in_folder(_bundled())
    path = Path(source)
    if path.is_dir():
        return _in_folder(path)
    if not path.is_file():
        raise ModelError(f"there is no model at {source!r}; accepted are {_ACCEPTED}")
    if path.suffix.lower() == ".zip":
        return _in_folder(unpack(path, unpack_into))
    if path.suffix.lower() not in MODEL_SUFFIXES:
        raise ModelError(f"{source!r} is no model; accepted are {_ACCEPTED}")
    return _located(path, path.parent)


def read_model_folder(source: str, unpack_into: Path) -> ModelInformation:
    """The description of a model of any format, for a logic that reads the rest itself. Blocking.

    Args:
        source: A folder or a zip with `model.json`, at its top or in the only folder that has one; a bare file, beside
            which there may be one; or `coco`.
        unpack_into: As for `locate_model`.

    Raises:
        ModelError: There is nothing there, or no readable `model.json`.
    """
    path = _bundled() if source == BUNDLED else Path(source)
    root = unpack(path, unpack_into) if path.suffix.lower() == ".zip" and path.is_file() else path
    if root.is_file():
        information = _model_json(root, root.parent) or _stand_in(root)
        information.model_root_path = str(root.parent)
        return information
    if not root.is_dir():
        raise ModelError(f"there is no model folder, zip or file at {source!r}")
    found = [root / "model.json"] if (root / "model.json").is_file() else sorted(root.rglob("model.json"))
    if len(found) != 1:
        raise ModelError(f"{root} must hold one model.json, not {len(found)}")
    information = _read_model_json(found[0])
    information.model_root_path = str(found[0].parent)
    return information


def model_exists(source: str) -> bool:
    """Whether there is anything at all where `--model` or MODEL points to."""
    return source == BUNDLED or Path(source).exists()


def _bundled() -> Path:
    return Path(str(resources.files("loop_node") / "bundled" / BUNDLED))


def _in_folder(root: Path) -> LocatedModel:
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in MODEL_SUFFIXES and path.is_file())
    preferred = [path for path in files if path.name == "model.xml"]
    chosen = files if len(files) == 1 else preferred
    if len(chosen) != 1:
        names = ", ".join(str(path.relative_to(root)) for path in files)
        fault = f"several: {names}; leave one, or name one model.xml" if files else "none"
        raise ModelError(
            f"a model folder holds one file that ends in {', '.join(MODEL_SUFFIXES)}; {root} holds {fault}"
        )
    return _located(chosen[0], root)


def _located(file: Path, root: Path) -> LocatedModel:
    if file.suffix.lower() == ".xml" and not file.with_suffix(".bin").is_file():
        raise ModelError(f"{file} has no weights: {file.with_suffix('.bin').name} must lie beside it")
    information = _model_json(file, root) or _stand_in(file)
    information.model_root_path = str(root)
    return LocatedModel(file=file, root=root, information=information)


def _model_json(file: Path, root: Path) -> ModelInformation | None:
    for folder in dict.fromkeys((file.parent, root)):
        path = folder / "model.json"
        if path.is_file():
            return _read_model_json(path)
    return None


def _read_model_json(path: Path) -> ModelInformation:
    try:
        if path.stat().st_size > _MAX_MODEL_JSON_BYTES:
            raise ModelError(f"{path} is larger than {_MAX_MODEL_JSON_BYTES} bytes")
        raw = json.loads(path.read_bytes())
        json.dumps(raw, ensure_ascii=False).encode()  # what JSON can escape need not be text: half a surrogate pair
        return read_model_information(_what_the_loop_adds(path) | raw if isinstance(raw, dict) else raw)
    except SchemaError as error:
        raise ModelError(f"{path} cannot be used: {error}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None


def _what_the_loop_adds(path: Path) -> dict[str, Any]:
    """What a `model.json` has that went through the Learning Loop, for one that did not."""
    version = path.parent.resolve().name or "0"
    return {"id": _id_of(path), "organization": "", "project": "", "version": version}


def _stand_in(file: Path) -> ModelInformation:
    return ModelInformation(id=_id_of(file), organization="", project="", version=file.stem or "0")


def _id_of(file: Path) -> str:
    with file.open("rb") as stream:
        return str(uuid5(_NAMESPACE, hashlib.file_digest(stream, "sha256").hexdigest()))
