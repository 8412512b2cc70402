"""Upstream's DetectorNode with a logic that finds one thing of each category its model names, always at the same place.

Upstream reads the environment: LOOP_HOST, LOOP_USERNAME, ..., DATA_FOLDER, NODE_HOST, NODE_PORT.
"""

import numpy as np
import uvicorn
from learning_loop_node import DetectorNode
from learning_loop_node.data_classes import (
    BoxDetection,
    Category,
    ClassificationDetection,
    ImageMetadata,
    ImagesMetadata,
    ModelInformation,
    Point,
    PointDetection,
    SegmentationDetection,
    Shape,
)
from learning_loop_node.helpers.entrypoint import node_parser


class Logic:
    def __init__(self, model: ModelInformation) -> None:
        self.model = model

    def evaluate(self, image: np.ndarray) -> ImageMetadata:
        found = ImageMetadata()
        for category in self.model.categories:
            self.add(found, category)
        return found

    def batch_evaluate(self, images: list[np.ndarray]) -> ImagesMetadata:
        return ImagesMetadata(items=[self.evaluate(image) for image in images])

    def add(self, found: ImageMetadata, category: Category) -> None:
        common = {
            "category_name": category.name,
            "category_id": category.id,
            "model_name": self.model.version,
            "confidence": 0.9,
        }
        if category.type == "point":
            found.point_detections.append(PointDetection(x=10.5, y=11.5, **common))
        elif category.type == "segmentation":
            corners = [Point(x=1, y=2), Point(x=30, y=2), Point(x=30, y=40)]
            found.segmentation_detections.append(SegmentationDetection(shape=Shape(points=corners), **common))
        elif category.type == "classification":
            found.classification_detections.append(ClassificationDetection(**common))
        else:
            found.box_detections.append(BoxDetection(x=1, y=2, width=30, height=40, **common))


class Factory:
    model_format = "mocked"

    async def build(self, model_info: ModelInformation) -> Logic:
        return Logic(model_info)


if __name__ == "__main__":
    served = node_parser(description=__doc__).parse_args()
    uvicorn.run(DetectorNode("foreign detector", Factory()), host=served.host, port=served.port, lifespan="on")
