"""What the embedded Learning Loop is asked over its management API, and the annotations of an image as it keeps them."""

from enum import StrEnum
from typing import Annotated, Any

from attrs import Factory, define

from .detections import Shape
from .models import CategoryType, OneOf, Within

__all__ = [
    "ANNOTATION_LISTS",
    "AnnotationSet",
    "AnyAnnotation",
    "BoxAnnotationIn",
    "ClassificationAnnotationIn",
    "DataSet",
    "GeneratorOrder",
    "ImageState",
    "NewCategory",
    "NewProject",
    "NewTraining",
    "PointAnnotationIn",
    "SegmentationAnnotationIn",
    "StateChange",
    "TargetChange",
    "UserLogout",
]


class ImageState(StrEnum):
    """How far an image has come on its way to a training."""

    INBOX = "inbox"
    ANNOTATE = "annotate"
    REVIEW = "review"
    COMPLETE = "complete"
    TRASH = "trash"


class DataSet(StrEnum):
    """What an image is for in a training."""

    TRAIN = "train"
    TEST = "test"
    VAL = "val"


@define(kw_only=True)
class NewCategory:
    """A category to be made; its name is unique in the project, `point_size` in pixels."""

    name: str
    type: CategoryType = CategoryType.BOX
    id: str | None = None
    description: str | None = None
    hotkey: str | None = None
    color: str | None = None
    point_size: int | None = None


@define(kw_only=True)
class NewProject:
    """A project to be made."""

    organization: str
    project: str
    categories: list[NewCategory] = Factory(list)


@define(kw_only=True)
class StateChange:
    """Images that change their state."""

    ids: list[str]
    state: ImageState


@define(kw_only=True)
class TargetChange:
    """The version that detectors are to follow; None for none."""

    version: str | None


@define(kw_only=True)
class NewTraining:
    """A training to be begun; `trainer` is a node's id or name, None the first that is idle."""

    trainer: str | None = None
    model_variant: str = ""
    base_model_version: str | None = None
    hyperparameters: dict[str, Any] = Factory(dict)


@define(kw_only=True)
class UserLogout:
    """A person who has left the annotation view."""

    frontend_id: str


@define(kw_only=True)
class BoxAnnotationIn:
    """A box, in pixels of the upright image; the category by id, or by name.

    Annotations may come back as records have them: their `image_id` counts for nothing.
    """

    x: int
    y: int
    width: int
    height: int
    id: str | None = None
    image_id: str | None = None
    category_id: str | None = None
    category_name: str | None = None


@define(kw_only=True)
class PointAnnotationIn:
    """A point, in pixels of the upright image."""

    x: float
    y: float
    id: str | None = None
    image_id: str | None = None
    category_id: str | None = None
    category_name: str | None = None


@define(kw_only=True)
class SegmentationAnnotationIn:
    """An outline, in pixels of the upright image."""

    shape: Shape | str
    id: str | None = None
    image_id: str | None = None
    category_id: str | None = None
    category_name: str | None = None


@define(kw_only=True)
class ClassificationAnnotationIn:
    """What the whole image shows."""

    id: str | None = None
    image_id: str | None = None
    category_id: str | None = None
    category_name: str | None = None


AnyAnnotation = BoxAnnotationIn | PointAnnotationIn | SegmentationAnnotationIn | ClassificationAnnotationIn

ANNOTATION_LISTS = ("box_annotations", "point_annotations", "segmentation_annotations")


@define(kw_only=True)
class AnnotationSet:
    """All annotations of one image."""

    box_annotations: list[BoxAnnotationIn] = Factory(list)
    point_annotations: list[PointAnnotationIn] = Factory(list)
    segmentation_annotations: list[SegmentationAnnotationIn] = Factory(list)
    classification_annotation: ClassificationAnnotationIn | None = None


Few = Annotated[int, Within(0, 10_000)]
"""Images a synthetic project may have in one state, annotations an image may have, ..."""


@define(kw_only=True)
class GeneratorOrder:
    """A synthetic project: how many images in each state, categories of each type, trainings with a model each.

    `box_detections` and `box_annotations` are numbers per image, `tags` of the project's images; `thumbs` changes nothing:
    thumbnails are made when they are looked at.
    """

    project_name: str
    inbox: Few = 0
    annotate: Few = 0
    review: Few = 0
    complete: Few = 0
    image_style: Annotated[str, OneOf(("plain", "beautiful"))] = "plain"
    box_categories: Annotated[int, Within(0, 100)] = 0
    point_categories: Annotated[int, Within(0, 100)] = 0
    segmentation_categories: Annotated[int, Within(0, 100)] = 0
    classification_categories: Annotated[int, Within(0, 100)] = 0
    trainings: Annotated[int, Within(0, 100)] = 0
    box_detections: Annotated[int, Within(0, 100)] = 0
    box_annotations: Annotated[int, Within(0, 100)] = 0
    thumbs: Any = True
    tags: Annotated[int, Within(0, 100)] = 0
