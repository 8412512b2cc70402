"""A training: what the Learning Loop asks for, what is kept on disk, what is reported back."""

from typing import Any

from attrs import Factory, define

from .models import Category, Context

__all__ = ["ErrorConfiguration", "Training", "TrainingDetails", "TrainingOut", "TrainingStateData"]


@define(kw_only=True)
class TrainingDetails:
    """The details of the event `begin_training`; an empty `model_variant` leaves the choice to the trainer."""

    categories: list[Category]
    hyperparameters: dict[str, Any]
    training_number: int
    model_variant: str
    base_model_uuid: str | None = None


@define(kw_only=True)
class Training:
    """A running training, as the file `last_training__<uuid>.json` keeps it; `start_time` in seconds since 1970."""

    id: str
    context: Context
    project_folder: str
    images_folder: str
    training_folder: str
    categories: list[Category]
    hyperparameters: dict[str, Any]
    training_number: int
    training_state: str
    model_variant: str
    start_time: float
    base_model_uuid: str | None = None
    image_data: list[dict[str, Any]] | None = None
    skipped_image_count: int | None = None
    model_uuid_for_detecting: str | None = None


@define(kw_only=True)
class TrainingStateData:
    """The best model so far; `confusion_matrix` maps a category's id to its counts `tp`, `fp` and `fn`."""

    confusion_matrix: dict[str, dict[str, int]] = Factory(dict)
    meta_information: dict[str, Any] = Factory(dict)
    epoch: int | None = None


@define(kw_only=True)
class TrainingOut:
    """What a trainer reports of its best model so far."""

    trainer_id: str
    trainer_name: str | None = None
    confusion_matrix: dict[str, dict[str, int]] | None = None
    train_image_count: int | None = None
    test_image_count: int | None = None
    hyperparameters: dict[str, Any] | None = None
    best_epoch: int | None = None


@define(kw_only=True)
class ErrorConfiguration:
    """Where a mock trainer is to fail."""

    begin_training: bool | None = False
    save_model: bool | None = False
    get_new_model: bool | None = False
    crash_training: bool | None = False
