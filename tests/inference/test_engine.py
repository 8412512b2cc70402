"""The engine: the waiting line's bound, one model after another, and what cancellation leaves behind."""

import threading

import numpy as np
import pytest
import trio
import trio.testing
from numpy.typing import NDArray

from loop_node.errors import NoModel, Overloaded
from loop_node.inference.engine import Admission, Detected, Engine, Inference, open_engine
from loop_node.schemas.detections import ImageMetadata
from loop_node.schemas.models import ModelInformation

IMAGE = np.zeros((2, 2, 3), np.uint8)


class GatedModel:
    """A model whose threads wait at a gate; it knows who is inside and whether it was closed."""

    device = "test"

    def __init__(self, version: str = "1.0", *, max_in_flight: int = 1, is_open: bool = True) -> None:
        self.information = ModelInformation(id=version, organization="o", project="p", version=version)
        self.max_in_flight = max_in_flight
        self.gate = threading.Event()
        if is_open:
            self.gate.set()
        self.inside = 0
        self.most_inside = 0
        self.closed_with_inside: int | None = None
        self._lock = threading.Lock()
        self.entered = trio.Event()

    def detect(self, image: NDArray[np.uint8]) -> Detected:
        with self._lock:
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
        trio.from_thread.run_sync(self.entered.set)
        self.gate.wait(10)
        with self._lock:
            self.inside -= 1
        return Detected(metadata=ImageMetadata(source=self.information.version), infer_s=0.1, post_s=0.2)

    def close(self) -> None:
        self.closed_with_inside = self.inside


async def look(engine: Engine, answers: list[Inference]) -> None:
    with engine.admit() as admission:
        answers.append(await admission.detect(IMAGE))


async def test_without_a_model_nobody_is_admitted() -> None:
    """Clients hear why, and when to come back."""
    async with open_engine(max_queue=1) as engine:
        engine.why_no_model = "model coco: broken"
        with pytest.raises(NoModel, match="model coco: broken") as caught, engine.admit():
            pytest.fail("admitted")
        assert caught.value.retry_after_s > 0


async def test_an_inference_tells_its_times() -> None:
    """What the model says of its two steps, and how long the image waited for it."""
    async with open_engine(max_queue=1) as engine:
        await engine.install(GatedModel())
        answers: list[Inference] = []
        await look(engine, answers)
        assert (answers[0].infer_s, answers[0].post_s) == (0.1, 0.2)
        assert 0 <= answers[0].queue_s < 5


async def test_the_line_is_full_at_its_bound_and_free_again_after() -> None:
    """`max_queue` wait beyond those the model looks at; the next is told so at once."""
    model = GatedModel(max_in_flight=2, is_open=False)
    async with open_engine(max_queue=3) as engine, trio.open_nursery() as nursery:
        await engine.install(model)
        answers: list[Inference] = []
        for _ in range(5):
            nursery.start_soon(look, engine, answers)
        await model.entered.wait()
        with pytest.raises(Overloaded), engine.admit():
            pytest.fail("admitted")
        model.gate.set()
        while len(answers) < 5:
            await trio.testing.wait_all_tasks_blocked(0.001)
        assert model.most_inside <= 2
        await look(engine, answers)


async def test_the_model_is_exchanged_without_losing_a_request() -> None:
    """Requests of before end on the old model, requests of after on the new one; then the old one is freed."""
    old, new = GatedModel("old", is_open=False), GatedModel("new")
    async with open_engine(max_queue=9) as engine, trio.open_nursery() as nursery:
        await engine.install(old)
        before: list[Inference] = []
        for _ in range(3):
            nursery.start_soon(look, engine, before)
        await old.entered.wait()
        nursery.start_soon(engine.install, new)
        await trio.testing.wait_all_tasks_blocked()
        after: list[Inference] = []
        await look(engine, after)
        assert after[0].metadata.source == "new"
        assert old.closed_with_inside is None
        old.gate.set()
        while old.closed_with_inside is None:
            await trio.testing.wait_all_tasks_blocked(0.001)
        assert [inference.metadata.source for inference in before] == ["old"] * 3
        assert old.closed_with_inside == 0


async def test_who_is_cancelled_leaves_the_model_whole() -> None:
    """The waiting ends at once; the thread inside counts until it is out, also when the model is exchanged."""
    old = GatedModel("old", is_open=False)
    async with open_engine(max_queue=9) as engine, trio.open_nursery() as nursery:
        await engine.install(old)
        async with trio.open_nursery() as impatient:
            impatient.start_soon(look, engine, [])
            await old.entered.wait()
            impatient.cancel_scope.cancel()
        assert old.inside == 1
        nursery.start_soon(engine.install, GatedModel("new"))
        await trio.testing.wait_all_tasks_blocked()
        assert old.closed_with_inside is None
        old.gate.set()
        while old.closed_with_inside is None:
            await trio.testing.wait_all_tasks_blocked(0.001)
        assert old.closed_with_inside == 0


async def test_a_hanging_model_does_not_hold_up_the_end() -> None:
    """The engine's farewell is short; the thread is left behind."""
    model = GatedModel(is_open=False)
    with trio.fail_after(5):
        async with open_engine(max_queue=1) as engine:
            await engine.install(model)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(look, engine, [])
                await model.entered.wait()
                nursery.cancel_scope.cancel()
    assert model.closed_with_inside is None
    model.gate.set()


async def test_at_the_end_the_model_is_freed() -> None:
    """A quiet engine closes its model."""
    model = GatedModel()
    async with open_engine(max_queue=1) as engine:
        await engine.install(model)
        assert engine.model is model
    assert model.closed_with_inside == 0


async def test_a_failing_model_gives_its_place_back() -> None:
    """An error goes to the request alone, and the next request finds its place."""

    class Broken(GatedModel):
        def detect(self, image: NDArray[np.uint8]) -> Detected:
            raise ZeroDivisionError

    async with open_engine(max_queue=1) as engine:
        await engine.install(Broken())
        for _ in range(5):
            with pytest.raises(ZeroDivisionError), engine.admit() as admission:
                assert isinstance(admission, Admission)
                await admission.detect(IMAGE)
