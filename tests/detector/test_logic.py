"""Logics of others: how they are found, built, called, and what is said when they are none."""

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import loop_node
from loop_node import BoxDetection, DetectorLogic, DetectorLogicFactory, ImageMetadata, ImagesMetadata, ModelInformation
from loop_node.detector.logic import build_logic, load_factory
from loop_node.errors import ModelError, SettingsError

IMAGE = np.zeros((4, 6, 3), np.uint8)
MODEL = ModelInformation(id="1", organization="o", project="p", version="3.1")

GOOD = """
class Logic:
    def evaluate(self, image):
        return None

class Factory:
    model_format = "mine"
    def build(self, model_info):
        return Logic()

instance = Factory()
number = 3
class NeedsArguments(Factory):
    def __init__(self, path): ...
class WithoutFormat:
    def build(self, model_info): ...
"""


class Sees(DetectorLogic):
    """Finds one box, as large as the image."""

    def evaluate(self, image: NDArray[np.uint8]) -> ImageMetadata:
        height, width = image.shape[:2]
        box = BoxDetection(
            category_name="all", x=0, y=0, width=width, height=height, model_name="mine", confidence=1, category_id="7"
        )
        return ImageMetadata(box_detections=[box])


class Builds(DetectorLogicFactory):
    """Builds whatever it was given."""

    model_format = "mine"

    def __init__(self, logic: object) -> None:
        self.logic = logic

    def build(self, model_info: ModelInformation) -> DetectorLogic:
        if isinstance(self.logic, Exception):
            raise self.logic
        return self.logic  # type: ignore[return-value] # what it is shall be found out


@pytest.fixture
def good_file(tmp_path: Path) -> Path:
    path = tmp_path / "my_logic.py"
    path.write_text(GOOD)
    return path


@pytest.mark.parametrize("name", ["Factory", "instance"])
def test_a_factory_is_a_class_or_an_instance_in_a_file(good_file: Path, name: str) -> None:
    """Nothing is installed for it."""
    assert load_factory(f"{good_file}:{name}").model_format == "mine"


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("{file}:Nothing", "Nothing"),
        ("{file}:number", "needs a text model_format and a method build"),
        ("{file}:WithoutFormat", "needs a text model_format"),
        ("{file}:NeedsArguments", "path"),
        ("{file}", "it must be FILE.py:NAME"),
        ("{file}.txt:Factory", "there is no file"),
        (":Factory", "it must be FILE.py:NAME"),
    ],
)
def test_what_is_no_factory_is_a_readable_setting_fault(good_file: Path, where: str, said: str) -> None:
    """The operator reads which option is wrong, and why."""
    where = where.format(file=good_file)
    with pytest.raises(SettingsError, match=said) as caught:
        load_factory(where)
    assert str(caught.value).startswith(f"--logic {where}: ")


@pytest.mark.parametrize("text", ["def broken(:", "raise RuntimeError('my own fault')", "import nothing_of_this_name"])
def test_a_file_that_cannot_run_says_why(tmp_path: Path, text: str) -> None:
    """Its own error comes along."""
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"invalid syntax|my own fault|nothing_of_this_name"):
        load_factory(f"{path}:Factory")


def test_a_file_may_use_what_lies_beside_it(tmp_path: Path) -> None:
    """Neighbours can be imported, and dataclasses find their module."""
    (tmp_path / "neighbour_of_logic.py").write_text("FORMAT = 'next door'")
    (tmp_path / "uses_it.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from neighbour_of_logic import FORMAT\n"
        "@dataclass\n"
        "class Factory:\n"
        "    model_format: str = FORMAT\n"
        "    def build(self, model_info): ...\n"
    )
    assert load_factory(f"{tmp_path / 'uses_it.py'}:Factory").model_format == "next door"


@pytest.mark.parametrize("in_flight", [0, -1, "two", 1.5])
def test_a_senseless_number_of_images_at_once_is_refused(in_flight: object) -> None:
    """Before it makes every request wait for ever."""
    logic = Sees()
    logic.max_in_flight = in_flight  # type: ignore[assignment] # that is the point
    with pytest.raises(ModelError, match=r"max_in_flight of Sees is .*: a whole number from 1 on"):
        build_logic(Builds(logic), MODEL)


def test_a_logic_cannot_end_the_node() -> None:
    """sys.exit is an error like any other."""

    class Leaves(Sees):
        def evaluate(self, image: NDArray[np.uint8]) -> ImageMetadata:
            sys.exit(3)

    with pytest.raises(ModelError, match="tried to end the process"):
        build_logic(Builds(Leaves()), MODEL).detect(IMAGE)
    with pytest.raises(ModelError, match="tried to end the process"):
        build_logic(Builds(Leaves()), MODEL).detect_batch([IMAGE])


@pytest.mark.parametrize("boxes", [None, ["a box"], (1,)])
def test_lists_of_something_else_are_named(boxes: object) -> None:
    """The implementer reads which list, and what belongs into it."""

    class Odd(Sees):
        def evaluate(self, image: NDArray[np.uint8]) -> ImageMetadata:
            return ImageMetadata(box_detections=boxes)  # type: ignore[arg-type] # that is the point

    with pytest.raises(ModelError, match="box_detections that are no list of BoxDetection"):
        build_logic(Builds(Odd()), MODEL).detect(IMAGE)


def test_a_batch_of_the_wrong_length_is_refused() -> None:
    """One answer per image, in order."""

    class Short(Sees):
        def batch_evaluate(self, images: list[NDArray[np.uint8]]) -> ImagesMetadata:
            return ImagesMetadata(items=[self.evaluate(images[0])])

    model = build_logic(Builds(Short()), MODEL)
    with pytest.raises(ModelError, match="ImagesMetadata with 2 items"):
        model.detect_batch([IMAGE, IMAGE])
    assert len(model.detect_batch([IMAGE])) == 1


def test_a_logic_without_a_batch_looks_one_by_one() -> None:
    """Whatever has `evaluate` is enough."""

    class Duck:
        evaluate = Sees.evaluate

    assert len(build_logic(Builds(Duck()), MODEL).detect_batch([IMAGE] * 3)) == 3


def test_what_a_logic_returns_goes_out_unchanged() -> None:
    """Category ids and model names are the logic's business."""
    metadata = build_logic(Builds(Sees()), MODEL).detect(IMAGE).metadata
    assert metadata.box_detections[0] == BoxDetection(
        category_name="all", x=0, y=0, width=6, height=4, model_name="mine", confidence=1, category_id="7"
    )


def test_a_batch_is_one_after_another_unless_said_otherwise() -> None:
    """An implementer writes `evaluate` alone."""
    assert [len(item.box_detections) for item in Sees().batch_evaluate([IMAGE] * 3).items] == [1, 1, 1]


def test_a_logic_says_how_many_images_at_once() -> None:
    """One, unless it knows better; a logic that only looks like one need not say."""

    class Wide(Sees):
        max_in_flight = 3

    class Duck:
        evaluate = Sees.evaluate

    assert [build_logic(Builds(one), MODEL).max_in_flight for one in (Sees(), Wide(), Duck())] == [1, 3, 1]


@pytest.mark.parametrize(
    ("logic", "said"),
    [(ZeroDivisionError("oops"), "ZeroDivisionError: oops"), (3, "int, which has no method evaluate")],
)
def test_a_logic_that_cannot_be_built_is_a_bad_model(logic: object, said: str) -> None:
    """Foreign errors become ours, with their own as the cause."""
    with pytest.raises(ModelError, match=said):
        build_logic(Builds(logic), MODEL)


def test_a_logic_that_returns_something_else_is_told_so() -> None:
    """Not an AttributeError somewhere later."""

    class Wrong(Sees):
        def evaluate(self, image: NDArray[np.uint8]) -> ImageMetadata:
            return {}  # type: ignore[return-value] # that is the point

    with pytest.raises(ModelError, match="returned dict instead of ImageMetadata"):
        build_logic(Builds(Wrong()), MODEL).detect(IMAGE)


def test_the_package_exports_what_it_says() -> None:
    """Everything in `__all__` is there."""
    assert all(hasattr(loop_node, name) for name in loop_node.__all__)
