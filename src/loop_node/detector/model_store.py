"""The models of the Learning Loop on this machine's disk. All of it blocks and belongs in a thread; one at a time.

Layout, in DATA_FOLDER; nodes of the asyncio implementation have the same, so that their models are found::

    models/<version>/            a model, with model.json at its top or deeper
    models/.incoming/            downloads, half-unpacked zips, what is about to be removed; emptied at start
    models/.replaced/<version>   what <version> was until a model of another id came; goes once that one has served
    current_model -> models/<version>
    model -> ...                 the same link of older nodes; read where there is no current_model
    model_store.json             see store_record.py

Invariants:

1. A folder `models/<version>` is whole: it was written elsewhere on the same disk, synced file by file, and renamed.
2. `current_model` is at every moment the model that was last noted to serve, or absent. It is made under another name
   and renamed.
3. Only what has the form of a version becomes part of a path.
4. A model is noted in `model_store.json` before it is built, and the note removed after: whoever finds a note at start
   knows that the process died of that build, or during it.
5. Of the versions that have served, the last KEEP_MODELS stay, the current one among them. Models held back do not
   count; they stay as long as one that served before them does.

A crash leaves: before the rename of 1, files in .incoming and nothing else; between moving an old folder away and the
rename, the old one in .replaced, from where the next start brings it back; after the rename, a whole model that has not
served, which the next update uses; between making and renaming the link of 2, a link of another name, which is removed.
Bringing back and sweeping can themselves be cut off anywhere and repeated. Folders are moved to .incoming before they
are deleted, so that half a folder never looks like a model.
"""

import errno
import json
import logging
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from attrs import define, field

from loop_node.archives import unpack
from loop_node.durable import remove, sync_folder, sync_tree
from loop_node.errors import ModelError
from loop_node.inference.sources import read_model_folder
from loop_node.schemas.models import ModelInformation

from .store_record import StoreRecord
from .update_policy import ModelRef, Quarantine, Quarantined, is_version

__all__ = ["ModelStore", "open_store"]

logger = logging.getLogger(__name__)


def open_store(data_folder: Path, *, keep: int = 3, max_bytes: int = 2 << 30, min_free_bytes: int = 0) -> "ModelStore":
    """Make the folders, finish what a crash has left undone, and read the record.

    Args:
        data_folder: DATA_FOLDER.
        keep: KEEP_MODELS.
        max_bytes: MODEL_MAX_BYTES, of one model, packed or unpacked.
        min_free_bytes: MIN_FREE_DISK_BYTES, what downloads leave free.

    Raises:
        OSError: The folders cannot be made.
    """
    store = ModelStore(data_folder, keep=keep, max_bytes=max_bytes, min_free_bytes=min_free_bytes)
    store.recover()
    return store


@define(eq=False)
class ModelStore:
    """The models on disk; made by `open_store`."""

    data_folder: Path
    keep: int = field(kw_only=True)
    max_bytes: int = field(kw_only=True)
    min_free_bytes: int = field(kw_only=True)
    _record: StoreRecord = field(init=False)
    _suspect: set[str] = field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        self._record = self._new_record()

    @property
    def models(self) -> Path:
        """The folder with a folder for each version."""
        return self.data_folder / "models"

    @property
    def link(self) -> Path:
        """The link to the last model that served."""
        return self.data_folder / "current_model"

    @property
    def _incoming(self) -> Path:
        return self.models / ".incoming"

    @property
    def _replaced(self) -> Path:
        return self.models / ".replaced"

    def versions(self) -> list[str]:
        """The versions on this disk, in their order."""
        names = [path.name for path in self.models.iterdir() if is_version(path.name) and path.is_dir()]
        return sorted(names, key=lambda name: ([int(part) for part in name.split(".")], name))

    def folder(self, model: ModelRef) -> Path | None:
        """The folder with its `model.json`, if this model is here."""
        information = self._information(model.version)
        if information is None or information.id != model.id:
            return None
        return Path(information.model_root_path or "")

    def find(self, model: ModelRef) -> Path | None:
        """As `folder`, for a model that is worth another try: not for one that had to be discarded."""
        return None if model.id in self._suspect else self.folder(model)

    def served(self) -> list[ModelRef]:
        """The models that have served and are still here, the last one first."""
        return [model for model in reversed(self._record.served) if self.folder(model) is not None]

    def room_bytes(self) -> int:
        """How many bytes a model may have.

        Raises:
            ModelError: The disk is as full as it may get; the cause is an OSError.
        """
        room_bytes = shutil.disk_usage(self.models).free - self.min_free_bytes
        if room_bytes <= 0:
            text = f"no room for a model: MIN_FREE_DISK_BYTES keeps {self.min_free_bytes} bytes of the disk free"
            raise ModelError(text) from OSError(errno.ENOSPC, "the disk is full")
        return min(room_bytes, self.max_bytes)

    def download_path(self, model: ModelRef) -> Path:
        """Where its zip is to be written to; nothing is there yet."""
        shutil.rmtree(self._incoming, ignore_errors=True)  # what downloads have left that were cut off
        self._incoming.mkdir(parents=True, exist_ok=True)
        return self._incoming / f"{model.version}.zip"

    def take_in(self, archive: Path, model: ModelRef) -> Path:
        """Unpack a downloaded zip, check it and put it in its place; the zip goes in any case.

        Returns:
            The folder with its `model.json`, which names the id and version under which the Learning Loop gave it.

        Raises:
            ModelError: It cannot be unpacked, has no usable `model.json`, or the disk is at fault, which is the cause then.
        """
        unpacked: Path | None = None
        try:
            unpacked = unpack(archive, self._incoming, max_bytes=self.room_bytes())
            self._name(unpacked, model)
            sync_tree(unpacked)
            self._move_in(unpacked, model)
        except OSError as error:
            raise ModelError(f"model {model.version} cannot be stored: {error}") from error
        finally:
            with suppress(OSError):
                remove(archive)
                if unpacked is not None:
                    remove(unpacked)
        self._suspect.discard(model.id)
        root = self.folder(model)
        if root is None:
            raise ModelError(f"model {model.version} is not in its folder any more")
        return root

    def begin_build(self, model: ModelRef) -> None:
        """Note that this model is going to be built; there is one at a time.

        Raises:
            OSError: The disk does not take the note.
        """
        self._record.begin_build(model)
        self._record.write()

    def end_build(self) -> None:
        """Take the note back: the process has survived the build, whatever came of it.

        Raises:
            OSError: The disk does not take it.
        """
        self._record.end_build()
        self._record.write()

    def serve(self, model: ModelRef) -> None:
        """Note that this model serves: link it, and let go of what is too many.

        Raises:
            OSError: The disk does not take it; after a restart the one before serves.
        """
        replaced = self._replaced / model.version
        if replaced.exists():
            self._throw_away(replaced)
        self._switch_link(model.version)
        self._record.serves(model)
        self._record.write()
        self._prune(model.version)

    def discard(self, model: ModelRef) -> None:
        """Do without a model that does not work: the next download of it is a fresh one.

        One that has never served goes at once, and what it replaced comes back. One that has served stays for times
        without a network.
        """
        self._suspect.add(model.id)
        final, replaced = self.models / model.version, self._replaced / model.version
        has_served = model in self._record.served and not replaced.exists()
        if has_served or self.folder(model) is None:
            return
        self._throw_away(final)
        if replaced.exists():
            replaced.rename(final)
        sync_folder(self.models)

    def hold_back(self, quarantine: Iterable[Quarantined], now_s: float) -> None:
        """Remember failed builds over a restart; as `StoreRecord.hold_back`.

        Raises:
            OSError: The disk does not take it.
        """
        self._record.hold_back(quarantine, now_s)
        self._record.write()

    def quarantine(self, now_s: float, build_s: float) -> Quarantine:
        """As `StoreRecord.quarantine`."""
        return self._record.quarantine(now_s, build_s)

    def recover(self) -> None:
        """Bring the folder from whatever a crash left to what the invariants say; read the record."""
        self.models.mkdir(parents=True, exist_ok=True)
        if self._replaced.is_dir():
            for replaced in self._replaced.iterdir():
                remove(self.models / replaced.name)
                replaced.rename(self.models / replaced.name)
        shutil.rmtree(self._incoming, ignore_errors=True)
        self._incoming.mkdir(exist_ok=True)
        remove(self.data_folder / "current_model.tmp")
        has_record = self._record.read()
        self._take_over([] if has_record else self.versions())
        with suppress(OSError):  # on a full disk what is there must serve all the same
            self._record.write()

    def reset(self) -> None:
        """Remove every model and the record."""
        for path in (self.link, self.data_folder / "model", self._record.path, self.models):
            remove(path)
        self._record = self._new_record()
        self._suspect.clear()
        self.recover()

    def _new_record(self) -> StoreRecord:
        return StoreRecord(self.data_folder / "model_store.json")

    def _name(self, unpacked: Path, model: ModelRef) -> None:
        """Let `model.json` say what the Learning Loop says; the rest of it stays as it is."""
        information = read_model_folder(str(unpacked), self._incoming)
        path = Path(information.model_root_path or "") / "model.json"
        said = json.loads(path.read_bytes())
        names = {"id": model.id, "version": model.version}
        if said != said | names:
            path.write_text(json.dumps(said | names, indent=1), "utf-8")

    def _move_in(self, unpacked: Path, model: ModelRef) -> None:
        final, replaced = self.models / model.version, self._replaced / model.version
        if final.exists() and replaced.exists():  # what is in its place now has never served
            self._throw_away(final)
        elif final.exists():
            self._replaced.mkdir(exist_ok=True)
            final.rename(replaced)
            sync_folder(self._replaced)
        unpacked.rename(final)
        sync_folder(self.models)

    def _switch_link(self, version: str) -> None:
        fresh = self.data_folder / "current_model.tmp"
        remove(fresh)
        fresh.symlink_to(Path("models", version))
        if self.link.is_dir() and not self.link.is_symlink():
            self._throw_away(self.link)  # a copy of a data folder may hold the folder itself
        fresh.replace(self.link)
        sync_folder(self.data_folder)

    def _prune(self, current: str) -> None:
        stay, good = {current}, 0
        for model in reversed(self._record.served):
            if good == self.keep:
                break
            stay.add(model.version)
            good += not self._record.is_held_back(model)
        for version in self.versions():
            if version not in stay:
                logger.info("model %s goes: it is none of the last %d that served", version, self.keep)
                self._throw_away(self.models / version)

    def _take_over(self, older: list[str]) -> None:
        """Let the linked model be the last that served, and those of a node that kept no record the ones before."""
        linked = self._linked()
        older = sorted((version for version in older if version != linked), key=self._age)
        for version in [*older, *([linked] if linked is not None else [])]:
            information = self._information(version)
            if information is not None:
                model = ModelRef(information.id, version)
                self._record.served = [one for one in self._record.served if one.version != version] + [model]

    def _age(self, version: str) -> float:
        return (self.models / version).stat().st_mtime

    def _linked(self) -> str | None:
        for link in (self.link, self.data_folder / "model"):
            with suppress(OSError):
                version = link.readlink().name
                if is_version(version) and (self.models / version).is_dir():
                    return version
        return None

    def _information(self, version: str) -> ModelInformation | None:
        folder = self.models / version
        if not folder.is_dir():
            return None
        try:
            return read_model_folder(str(folder), self._incoming)
        except ModelError as error:
            logger.warning("model %s is not usable: %s", version, error)
            return None

    def _throw_away(self, path: Path) -> None:
        """Out of sight first, in one step."""
        self._incoming.mkdir(parents=True, exist_ok=True)
        aside = self._incoming / f"{path.name}.{time.monotonic_ns()}"
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
