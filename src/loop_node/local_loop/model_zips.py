"""Model zips as they are kept: what came, with a `model.json` that says what the Loop knows.

A zip comes as it is, or as loose files that are put into one. A model may come without a `model.json`; it gets one.
"""

import codecs
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

import msgspec

from loop_node.archives import copy_entries, read_file
from loop_node.errors import InputError, ModelError
from loop_node.inference.sources import MODEL_SUFFIXES

__all__ = ["MODEL_JSON", "doubt", "make_zip"]

MODEL_JSON: Final = "model.json"
_MAX_MODEL_JSON_BYTES: Final = 16 << 20
_MAX_LOOSE_FILES: Final = 1000
_OPENVINO: Final = "openvino"


def make_zip(files: Sequence[tuple[str, Path]], into: Path, known: Mapping[str, Any], *, max_bytes: int) -> None:
    """Write the zip that is kept. Blocking.

    Args:
        files: Name and place of what came: one zip, or loose files.
        into: The zip to be.
        known: What the Loop adds to `model.json`, or corrects there.
        max_bytes: Of all files, unpacked.

    Raises:
        InputError: No usable zip, a name that leads elsewhere, a broken `model.json`, more than a bound.
        OSError: The disk is at fault.
    """
    if not files:
        raise InputError("files: no file came; send a zip, or the model's files")
    try:
        with zipfile.ZipFile(into, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as sink:
            said = _copy_zip(files[0], sink, max_bytes) if _is_zip(files) else _copy_files(files, sink, max_bytes)
            sink.writestr(MODEL_JSON, msgspec.json.format(msgspec.json.encode({**said, **known}), indent=2))
    except ModelError as error:
        if isinstance(error.__cause__, OSError):  # the disk's fault, not the zip's
            raise error.__cause__ from None
        raise InputError(f"files: {error}") from error


def doubt(archive: Path, model_format: str) -> str:
    """Why a zip that was kept is plainly no model of this format; empty for others, and for formats of people's own. Blocking."""
    with zipfile.ZipFile(archive) as kept:
        names = [name.lower() for name in kept.namelist()]
    if model_format != _OPENVINO or any(name.endswith(MODEL_SUFFIXES) for name in names):
        return ""
    return (
        f"there is no {', '.join(MODEL_SUFFIXES[:-1])} or {MODEL_SUFFIXES[-1]} in it: detectors will not find a model"
    )


def _is_zip(files: Sequence[tuple[str, Path]]) -> bool:
    name = files[0][0]
    return len(files) == 1 and (not name or name.lower().endswith(".zip") or zipfile.is_zipfile(files[0][1]))


def _copy_zip(file: tuple[str, Path], sink: zipfile.ZipFile, max_bytes: int) -> dict[str, Any]:
    called, archive = file[0][:100] or "the body", file[1]
    copied = copy_entries(archive, sink, called=called, leave_out=(MODEL_JSON,), max_bytes=max_bytes)
    own = read_file(archive, MODEL_JSON, called=called, max_bytes=_MAX_MODEL_JSON_BYTES)
    if own is not None:
        return _read(own, f"{called}: {MODEL_JSON}")
    inner = [name for name in copied if PurePosixPath(name).name == MODEL_JSON]
    if len(inner) != 1:
        return {}
    found = read_file(archive, inner[0], called=called, max_bytes=_MAX_MODEL_JSON_BYTES)
    return _read(found or b"{}", f"{called}: {inner[0]}")  # a zip of the model's folder: what it says stands at the top


def _copy_files(files: Sequence[tuple[str, Path]], sink: zipfile.ZipFile, max_bytes: int) -> dict[str, Any]:
    names = [name for name, _ in files]
    for name in names:
        if not _is_bare(name) or names.count(name) > 1:
            raise InputError(f"files: bare names that differ are needed, not {name[:100]!r}")
    if len(files) > _MAX_LOOSE_FILES or sum(file.stat().st_size for _, file in files) > max_bytes:
        raise InputError(f"files: at most {_MAX_LOOSE_FILES} files of together {max_bytes} bytes")
    said: dict[str, Any] = {}
    for name, file in files:
        if name == MODEL_JSON:
            if file.stat().st_size > _MAX_MODEL_JSON_BYTES:
                raise InputError(f"files: {MODEL_JSON} has more than {_MAX_MODEL_JSON_BYTES} bytes")
            said = _read(file.read_bytes(), MODEL_JSON)
        else:
            sink.write(file, name)
    return said


def _read(data: bytes, called: str) -> dict[str, Any]:
    try:
        said = msgspec.json.decode(data.removeprefix(codecs.BOM_UTF8))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{called} is no JSON: {error}") from None
    if isinstance(said, dict):
        return said
    raise InputError(f"{called} is no JSON object")


def _is_bare(name: str) -> bool:
    return (
        name not in ("", ".", "..") and name.isprintable() and not set(name) & set("/\\:") and len(name.encode()) <= 255
    )
