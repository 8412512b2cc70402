"""Upstream's AnnotatorNode with a tool that draws a triangle at the mouse and keeps it when the button goes up.

Upstream reads the environment: LOOP_HOST, LOOP_USERNAME, ..., DATA_FOLDER, NODE_HOST, NODE_PORT.
"""

from pathlib import Path
from uuid import uuid4

import uvicorn
from learning_loop_node.annotation.annotator_logic import AnnotatorLogic
from learning_loop_node.annotation.annotator_node import AnnotatorNode
from learning_loop_node.data_classes import Point, SegmentationAnnotation, Shape, ToolOutput, UserInput
from learning_loop_node.globals import GLOBALS
from learning_loop_node.helpers.entrypoint import node_parser


class Tool(AnnotatorLogic):
    async def handle_user_input(self, user_input: UserInput, history: dict[str, int]) -> ToolOutput:
        data = user_input.data
        image = Path(GLOBALS.data_folder, data.context.organization, data.context.project, "images")
        size = (image / f"{data.image_uuid}.jpg").stat().st_size
        history["inputs"] = history.get("inputs", 0) + 1
        x, y = data.coordinate.x, data.coordinate.y
        corners = [Point(x=x, y=y), Point(x=x + 20, y=y), Point(x=x, y=y + 20)]
        points = " ".join(f"{corner.x},{corner.y}" for corner in corners)
        annotation = SegmentationAnnotation(
            id=str(uuid4()), shape=Shape(points=corners), image_id=data.image_uuid, category_id=data.category.id
        )
        return ToolOutput(
            svg=f'<polygon points="{points}" data-inputs="{history["inputs"]}" data-bytes="{size}"/>',
            annotation=annotation if data.event_type == "left_mouse_up" else None,
        )

    def create_empty_history(self) -> dict[str, int]:
        return {}

    def logout_user(self, sid: str) -> bool:
        return bool(sid)


if __name__ == "__main__":
    served = node_parser(description=__doc__).parse_args()
    uvicorn.run(AnnotatorNode("foreign annotator", Tool()), host=served.host, port=served.port, lifespan="on")
