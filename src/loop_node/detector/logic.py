"""What an implementer writes: a detector of one's own, and how the node takes it in."""

import importlib.util
import inspect
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Final, Protocol, runtime_checkable

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from loop_node.errors import ModelError, SettingsError
from loop_node.inference.engine import Detected
from loop_node.schemas.detections import (
    BoxDetection,
    ClassificationDetection,
    ImageMetadata,
    ImagesMetadata,
    PointDetection,
    SegmentationDetection,
)
from loop_node.schemas.models import ModelInformation

__all__ = ["DetectorLogic", "DetectorLogicFactory", "LogicModel", "build_logic", "load_factory"]


class DetectorLogic(Protocol):
    """Looks at images. Inherit from it, or just look like it.

    Attributes:
        max_in_flight: How many images at once `evaluate` may be called with, each in a thread of its own.
    """

    max_in_flight: int = 1

    def evaluate(self, image: NDArray[np.uint8]) -> ImageMetadata:
        """Find things in `image`: RGB, uint8, shape (H, W, 3). Runs in a worker thread and may block."""
        ...

    def batch_evaluate(self, images: list[NDArray[np.uint8]]) -> ImagesMetadata:
        """Find things in several images; override it where that is faster than one after another."""
        return ImagesMetadata(items=[self.evaluate(image) for image in images])


@runtime_checkable
class DetectorLogicFactory(Protocol):
    """Builds a `DetectorLogic` from a model.

    Attributes:
        model_format: The format in which the Learning Loop is asked for models.
    """

    model_format: str

    def build(self, model_info: ModelInformation) -> DetectorLogic:
        """Build a logic from the model in `model_info.model_root_path`. Runs in a worker thread and may block."""
        ...


@frozen
class LogicModel:
    """A built logic as the engine sees it. What it returns goes out unchanged."""

    information: ModelInformation
    device: str
    _logic: DetectorLogic

    @property
    def max_in_flight(self) -> int:
        """What the logic says, else one image at a time."""
        return int(getattr(self._logic, "max_in_flight", 1))

    def detect(self, image: NDArray[np.uint8]) -> Detected:
        """Call the logic; all of its time counts as inference."""
        started = time.perf_counter()
        metadata = _checked(_call(self._logic.evaluate, image), "evaluate()")
        return Detected(metadata=metadata, infer_s=time.perf_counter() - started, post_s=0.0)

    def detect_batch(self, images: Sequence[NDArray[np.uint8]]) -> list[Detected]:
        """Call the logic with all images; each counts for its share of the time."""
        if not hasattr(self._logic, "batch_evaluate"):
            return [self.detect(image) for image in images]
        started = time.perf_counter()
        answer = _call(self._logic.batch_evaluate, list(images))
        if not isinstance(answer, ImagesMetadata) or len(answer.items) != len(images):
            raise ModelError(f"the logic's batch_evaluate() must return ImagesMetadata with {len(images)} items")
        items = [_checked(item, "batch_evaluate()") for item in answer.items]
        share_s = (time.perf_counter() - started) / max(len(images), 1)
        return [Detected(metadata=item, infer_s=share_s, post_s=0.0) for item in items]

    def close(self) -> None:
        """Nothing of ours is held; the logic goes with its last reference."""


_FINDINGS: Final = {
    "box_detections": BoxDetection,
    "point_detections": PointDetection,
    "segmentation_detections": SegmentationDetection,
    "classification_detections": ClassificationDetection,
}


def _call(function: Callable[..., object], *arguments: object) -> object:
    """Call foreign code; what would end this process otherwise is a fault of the logic."""
    try:
        return function(*arguments)
    except (SystemExit, KeyboardInterrupt) as error:
        raise ModelError(f"the logic tried to end the process: {type(error).__name__}({error})") from error


def _checked(metadata: object, where: str) -> ImageMetadata:
    if not isinstance(metadata, ImageMetadata):
        raise ModelError(f"the logic's {where} returned {type(metadata).__name__} instead of ImageMetadata")
    for name, kind in _FINDINGS.items():
        found = getattr(metadata, name)
        if not isinstance(found, list) or not all(isinstance(one, kind) for one in found):
            raise ModelError(f"the logic's {where} returned {name} that are no list of {kind.__name__}")
    return metadata


def build_logic(factory: DetectorLogicFactory, information: ModelInformation) -> LogicModel:
    """Let `factory` build its logic for a model. Blocks.

    Raises:
        ModelError: The factory failed; its own error is the cause.
    """
    try:
        logic = factory.build(information)
    except (Exception, SystemExit, KeyboardInterrupt) as error:  # a door to foreign code; the caller logs it
        raise ModelError(f"the logic could not be built: {type(error).__name__}: {error}") from error
    if not callable(getattr(logic, "evaluate", None)):
        raise ModelError(f"build() returned {type(logic).__name__}, which has no method evaluate(image)")
    in_flight = getattr(logic, "max_in_flight", 1)
    if not isinstance(in_flight, int) or in_flight < 1:
        raise ModelError(
            f"max_in_flight of {type(logic).__name__} is {in_flight!r}: a whole number from 1 on is needed"
        )
    return LogicModel(information, f"logic {type(logic).__name__}", logic)


def load_factory(where: str) -> DetectorLogicFactory:
    """Take a factory from `FILE.py:NAME`: an instance, or a class that is called without arguments.

    Raises:
        SettingsError: No such file or name, the file cannot be run, or what it holds is no factory.
    """
    file, _, name = where.rpartition(":")
    path = Path(file)
    if not file or not name:
        raise SettingsError([f"--logic {where}: it must be FILE.py:NAME, with the name of a factory in that file"])
    if not path.is_file():
        raise SettingsError([f"--logic {where}: there is no file {file}; it must be FILE.py:NAME"])
    try:
        found = getattr(_module(path), name)
        factory = found() if inspect.isclass(found) else found
    except (Exception, SystemExit) as error:  # a door to foreign code
        raise SettingsError([f"--logic {where}: {type(error).__name__}: {error}"]) from error
    if not isinstance(factory, DetectorLogicFactory):
        raise SettingsError([f"--logic {where}: {name} needs a text model_format and a method build(model_info)"])
    return factory


def _module(path: Path) -> ModuleType:
    """Run a Python file as a module of a name of its own; the files beside it can be imported from it."""
    name = f"loop_node_logic_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path.name} is no Python file")
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.append(folder)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # classes look their module up there
    spec.loader.exec_module(module)
    return module
