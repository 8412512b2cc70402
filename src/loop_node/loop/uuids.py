"""`uuids.json` in the data folder: which id a node of this name has, so that the Loop knows it again.

Layout: one object, from node name in lower case with `_` for spaces to uuid4. It is replaced as a whole by an atomic
rename of a file that is on disk already, while the folder is locked: several nodes may share it. A file that cannot be
read is set aside as `uuids.json.broken`.
"""

import fcntl
import json
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from loop_node.durable import write_json

__all__ = ["node_uuid"]

log = logging.getLogger(__name__)

_NAME: Final = "uuids.json"


def node_uuid(folder: Path, node_name: str) -> str:
    """The id of the node `node_name`, made and kept if there is none yet. Blocking.

    Where it cannot be kept the node gets one for this run; the log says so.
    """
    key = node_name.lower().replace(" ", "_")
    path = folder / _NAME
    made = str(uuid.uuid4())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            known = _read(path)
            if _is_uuid(known.get(key)):
                return str(known[key])
            write_json(path, known | {key: made})
    except OSError as error:
        log.warning("the id of this node cannot be kept (%s): the Learning Loop will see a new node next time", error)
    return made


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        return value
    aside = path.with_name(f"{_NAME}.broken")
    path.replace(aside)
    log.warning("%s is damaged and was set aside as %s: nodes here get new ids", path, aside.name)
    return {}


def _is_uuid(value: object) -> bool:
    try:
        uuid.UUID(value if isinstance(value, str) else "")
    except ValueError:
        return False
    return True
