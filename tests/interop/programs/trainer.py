"""Upstream's TrainerNode with a training of one second that ends with a model in two formats.

Upstream reads the environment: LOOP_HOST, LOOP_USERNAME, ..., DATA_FOLDER, NODE_HOST, NODE_PORT.
"""

import shlex
import sys
from pathlib import Path
from typing import Any

import uvicorn
from learning_loop_node import TrainerNode
from learning_loop_node.data_classes import (
    BoxDetection,
    Detections,
    ModelInformation,
    PretrainedModel,
    TrainingStateData,
)
from learning_loop_node.helpers.entrypoint import node_parser
from learning_loop_node.trainer.trainer_logic import TrainerLogic

TRAINING = """
import time
from pathlib import Path

time.sleep(1)
Path("model.pt").write_text("weights")
Path("model.xml").write_text("the same, converted")
"""


class Logic(TrainerLogic):
    def __init__(self) -> None:
        super().__init__("mocked")
        self.published: TrainingStateData | None = None

    @property
    def training_progress(self) -> float | None:
        return 0.5

    @property
    def model_architecture(self) -> str | None:
        return "one second"

    @property
    def provided_pretrained_models(self) -> list[PretrainedModel]:
        return [PretrainedModel(name="small", label="Small", description="a small one")]

    async def _start_training_from_scratch(self) -> None:
        self.published = None
        await self.executor.start(shlex.join([sys.executable, "-c", TRAINING]))

    async def _start_training_from_base_model(self) -> None:
        folder = Path(self.training.training_folder)
        assert (folder / "base_model.json").is_file(), "what model.json of the base model has become"
        assert (folder / "model.pt").is_file()
        await self._start_training_from_scratch()

    def _can_resume(self) -> bool:
        return False

    async def _resume(self) -> None:
        raise NotImplementedError

    def _get_new_best_training_state(self) -> TrainingStateData | None:
        if self.published or not (Path(self.training.training_folder) / "model.xml").is_file():
            return None
        counts = {"tp": 3, "fp": 2, "fn": 1}
        return TrainingStateData(confusion_matrix={c.id: counts for c in self.training.categories}, epoch=7)

    def _on_metrics_published(self, training_state_data: TrainingStateData) -> None:
        self.published = training_state_data

    async def _get_latest_model_files(self) -> dict[str, list[str]]:
        folder = self.training.training_folder
        return {"mocked": [f"{folder}/model.pt"], "mocked2": [f"{folder}/model.xml"]}

    def _get_model_metadata(self) -> dict[str, Any]:
        return {"resolution": 640, "conf_threshold": 0.25}

    async def _detect(self, model: ModelInformation, images: list[str], model_folder: str) -> list[Detections]:
        assert (Path(model_folder) / "model.pt").read_text() == "weights"
        return [Detections(image_id=Path(image).stem, box_detections=[box(model)]) for image in images]

    async def _clear_training_data(self, training_folder: str) -> None:
        remove_weights(Path(training_folder))


def remove_weights(folder: Path) -> None:
    for file in folder.glob("model.*"):
        file.unlink()


def box(model: ModelInformation) -> BoxDetection:
    category = next(c for c in model.categories if c.type == "box")
    return BoxDetection(
        category_name=category.name,
        category_id=category.id,
        x=1,
        y=2,
        width=30,
        height=40,
        model_name=model.version,
        confidence=0.9,
    )


if __name__ == "__main__":
    served = node_parser(description=__doc__).parse_args()
    uvicorn.run(TrainerNode("foreign trainer", Logic()), host=served.host, port=served.port, lifespan="on")
