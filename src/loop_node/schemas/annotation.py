"""What people do in the Learning Loop's annotation view, and what a tool makes of it. Coordinates are image pixels."""

from enum import StrEnum

from attrs import define

from .detections import Point, Shape
from .models import Category, Context

__all__ = ["AnnotationData", "EventType", "SegmentationAnnotation", "ToolOutput", "UserInput"]


class EventType(StrEnum):
    """What the mouse or the keyboard did."""

    LEFT_MOUSE_DOWN = "left_mouse_down"
    RIGHT_MOUSE_DOWN = "right_mouse_down"
    MOUSE_MOVE = "mouse_move"
    LEFT_MOUSE_UP = "left_mouse_up"
    RIGHT_MOUSE_UP = "right_mouse_up"
    KEY_UP = "key_up"
    KEY_DOWN = "key_down"


@define(kw_only=True)
class AnnotationData:
    """One input, on one image; `epsilon` is how much an outline may be simplified, in pixels."""

    coordinate: Point
    event_type: EventType
    context: Context
    image_uuid: str
    category: Category
    key_up: str | None = None
    key_down: str | None = None
    epsilon: float | None = None
    is_shift_key_pressed: bool | None = None


@define(kw_only=True)
class UserInput:
    """One input of one person; `frontend_id` tells people apart."""

    frontend_id: str
    data: AnnotationData


@define(kw_only=True)
class SegmentationAnnotation:
    """A finished polygon on its way to the Learning Loop."""

    id: str
    shape: Shape
    image_id: str
    category_id: str


@define(kw_only=True)
class ToolOutput:
    """What an annotation tool shows (`svg`), and the polygon once it is finished."""

    svg: str
    annotation: SegmentationAnnotation | None = None
