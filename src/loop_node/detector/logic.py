"""What an implementer writes: a detector of one's own, and how the node takes it in."""

import importlib.util
import inspect
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from attrs import frozen
from numpy.typing import NDArray

from loop_node.errors import ModelError, SettingsError
from loop_node.inference.engine import Detected
from loop_node.schemas.detections import ImageMetadata, ImagesMetadata
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
        metadata = self._logic.evaluate(image)
        if not isinstance(metadata, ImageMetadata):
            raise ModelError(f"the logic's evaluate() returned {type(metadata).__name__} instead of ImageMetadata")
        return Detected(metadata=metadata, infer_s=time.perf_counter() - started, post_s=0.0)

    def detect_batch(self, images: Sequence[NDArray[np.uint8]]) -> list[Detected]:
        """Call the logic with all images; each counts for its share of the time."""
        if not hasattr(self._logic, "batch_evaluate"):
            return [self.detect(image) for image in images]
        started = time.perf_counter()
        answer: object = self._logic.batch_evaluate(list(images))
        items: list[Any] = answer.items if isinstance(answer, ImagesMetadata) else []
        if len(items) != len(images) or not all(isinstance(item, ImageMetadata) for item in items):
            raise ModelError(f"the logic's batch_evaluate() must return ImagesMetadata with {len(images)} items")
        share_s = (time.perf_counter() - started) / max(len(images), 1)
        return [Detected(metadata=item, infer_s=share_s, post_s=0.0) for item in items]

    def close(self) -> None:
        """Nothing of ours is held; the logic goes with its last reference."""


def build_logic(factory: DetectorLogicFactory, information: ModelInformation) -> LogicModel:
    """Let `factory` build its logic for a model. Blocks.

    Raises:
        ModelError: The factory failed; its own error is the cause.
    """
    try:
        logic = factory.build(information)
    except Exception as error:  # a door to foreign code; the caller logs it
        raise ModelError(f"the logic could not be built: {type(error).__name__}: {error}") from error
    if not callable(getattr(logic, "evaluate", None)):
        raise ModelError(f"build() returned {type(logic).__name__}, which has no method evaluate(image)")
    return LogicModel(information, f"logic {type(logic).__name__}", logic)


def load_factory(where: str) -> DetectorLogicFactory:
    """Take a factory from `FILE.py:NAME`: an instance, or a class that is called without arguments.

    Raises:
        SettingsError: No such file or name, the file cannot be run, or what it holds is no factory.
    """
    file, _, name = where.rpartition(":")
    path = Path(file)
    if not file or not path.is_file():
        raise SettingsError([f"--logic {where}: no such file; it must be FILE.py:NAME"])
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SettingsError([f"--logic {where}: {path.name} is no Python file"])
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        found = getattr(module, name)
        factory = found() if inspect.isclass(found) else found
    except Exception as error:  # a door to foreign code
        raise SettingsError([f"--logic {where}: {type(error).__name__}: {error}"]) from error
    if not isinstance(factory, DetectorLogicFactory):
        raise SettingsError([f"--logic {where}: {name} needs a text model_format and a method build(model_info)"])
    return factory
