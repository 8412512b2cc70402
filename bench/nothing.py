"""A detector logic that sees nothing, so that what is measured is everything around it."""

import numpy as np
from numpy.typing import NDArray

from loop_node import DetectorLogic, DetectorLogicFactory, ImageMetadata, ModelInformation


class Nothing(DetectorLogic):
    """Finds nothing, at once."""

    def evaluate(self, _image: NDArray[np.uint8]) -> ImageMetadata:
        """See nothing."""
        return ImageMetadata()


class NothingFactory(DetectorLogicFactory):
    """Builds it from any model or none."""

    model_format = "nothing"

    def build(self, _model_info: ModelInformation) -> Nothing:
        """Build it."""
        return Nothing()
