"""A detector that looks at nothing: random boxes, for trying a robot's side without a model.

Run it with `loop-node detector --logic examples/mock_detector/mock_detector.py:MockDetectorFactory`.
"""

import random

import numpy as np
from numpy.typing import NDArray

from loop_node import BoxDetection, DetectorLogic, DetectorLogicFactory, ImageMetadata, ModelInformation


class MockDetector(DetectorLogic):
    """Finds up to three things of the model's categories, somewhere in the image."""

    def __init__(self, model_info: ModelInformation) -> None:
        self.model_info = model_info
        self.names = [category.name for category in model_info.categories] or ["thing"]

    def evaluate(self, image: NDArray[np.uint8]) -> ImageMetadata:
        height, width = image.shape[:2]
        return ImageMetadata(box_detections=[self.some_box(width, height) for _ in range(random.randint(0, 3))])

    def some_box(self, width: int, height: int) -> BoxDetection:
        x, y = random.randrange(width), random.randrange(height)
        return BoxDetection(
            category_name=random.choice(self.names),
            x=x,
            y=y,
            width=random.randint(1, width - x),
            height=random.randint(1, height - y),
            model_name=self.model_info.version,
            confidence=random.random(),
        )


class MockDetectorFactory(DetectorLogicFactory):
    """Builds mock detectors; the Learning Loop is asked for models of the format `mocked`."""

    model_format = "mocked"

    def build(self, model_info: ModelInformation) -> MockDetector:
        return MockDetector(model_info)
