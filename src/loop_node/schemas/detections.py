"""What a detector finds, and what people say is there: the contract's classes, field by field.

Field names, order and types are those of the Learning Loop's wire contract. All classes take keyword arguments only.
Coordinates are pixels of the upright image; (0, 0) is the top left corner of the top left pixel.
"""

from datetime import datetime

from attrs import Factory, define

__all__ = [
    "BoxAnnotation",
    "BoxDetection",
    "ClassificationAnnotation",
    "ClassificationDetection",
    "Detections",
    "ImageMetadata",
    "ImagesMetadata",
    "Point",
    "PointAnnotation",
    "PointDetection",
    "SegmentationDetection",
    "Shape",
    "now",
]


def now() -> str:
    """Local time as the contract writes it: `2026-11-23_02:34:25.998`."""
    return datetime.now().astimezone().strftime("%Y-%m-%d_%H:%M:%S.%f")[:-3]


@define(kw_only=True)
class Point:
    """A corner of a polygon, in pixels."""

    x: int
    y: int


@define(kw_only=True)
class Shape:
    """A closed polygon."""

    points: list[Point]

    def __str__(self) -> str:
        """The flat form `x1,y1,x2,y2` that REST clients and the Learning Loop read."""
        return ",".join(f"{point.x},{point.y}" for point in self.points)


@define(kw_only=True)
class BoxDetection:
    """An axis-aligned box: (x, y) is its top left corner, all lengths in pixels; confidence in 0..1."""

    category_name: str
    x: int
    y: int
    width: int
    height: int
    model_name: str
    confidence: float
    category_id: str | None = None


@define(kw_only=True)
class PointDetection:
    """A thing's centre, in pixels; confidence in 0..1."""

    category_name: str
    x: float
    y: float
    model_name: str
    confidence: float
    category_id: str | None = None


@define(kw_only=True)
class ClassificationDetection:
    """What the whole image shows; confidence in 0..1."""

    category_name: str
    model_name: str
    confidence: float
    category_id: str | None = None


@define(kw_only=True)
class SegmentationDetection:
    """A thing's outline; confidence in 0..1. The shape is a polygon, or the polygon's flat string form."""

    category_name: str
    shape: Shape | str
    model_name: str
    confidence: float
    category_id: str | None = None


@define(kw_only=True)
class BoxAnnotation:
    """A box somebody drew; lengths in pixels."""

    category_name: str
    x: int
    y: int
    width: int
    height: int
    category_id: str | None = None


@define(kw_only=True)
class PointAnnotation:
    """A point somebody set, in pixels."""

    category_name: str
    x: float
    y: float
    category_id: str | None = None


@define(kw_only=True)
class ClassificationAnnotation:
    """What somebody says the whole image shows."""

    category_name: str
    category_id: str | None = None


@define(kw_only=True)
class ImageMetadata:
    """All that is known of one image: the answer of `/detect`, and what goes to the Learning Loop beside the image.

    Attributes:
        created: Local time as `YYYY-MM-DD_HH:MM:SS.mmm`, or None.
    """

    box_detections: list[BoxDetection] = Factory(list)
    point_detections: list[PointDetection] = Factory(list)
    segmentation_detections: list[SegmentationDetection] = Factory(list)
    classification_detections: list[ClassificationDetection] = Factory(list)
    box_annotations: list[BoxAnnotation] = Factory(list)
    point_annotations: list[PointAnnotation] = Factory(list)
    classification_annotation: ClassificationAnnotation | None = None
    tags: list[str] = Factory(list)
    created: str | None = Factory(now)
    source: str | None = None
    state: str | None = None


@define(kw_only=True)
class ImagesMetadata:
    """The answer to a batch: one entry per image, in the order they came."""

    items: list[ImageMetadata] = Factory(list)


@define(kw_only=True)
class Detections:
    """What a trainer found in one image of the Learning Loop."""

    box_detections: list[BoxDetection] = Factory(list)
    point_detections: list[PointDetection] = Factory(list)
    segmentation_detections: list[SegmentationDetection] = Factory(list)
    classification_detections: list[ClassificationDetection] = Factory(list)
    image_id: str | None = None
