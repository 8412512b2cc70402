"""The pure rules of updates, for any situation."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop_node.detector.update_policy import (
    Delays,
    Failure,
    Fetch,
    ModelRef,
    Quarantined,
    Serve,
    Situation,
    Wait,
    checked_ref,
    is_version,
    next_step,
    quarantined,
)
from loop_node.errors import ModelError
from loop_node.schemas.status import OperationMode, VersionControl

models = st.sampled_from([ModelRef(f"id{number}", f"1.{number}") for number in range(4)])
times = st.floats(0, 1000)
held = st.builds(
    Quarantined,
    model=models,
    failure=st.sampled_from(Failure),
    reason=st.just("bad"),
    failures=st.integers(1, 9),
    retry_at_s=times,
)
situations = st.builds(
    Situation,
    mode=st.sampled_from(VersionControl),
    operation_mode=st.sampled_from(OperationMode),
    target=st.none() | models,
    chosen=st.none() | models,
    current=st.none() | models,
    candidates=st.lists(models, max_size=3).map(tuple),
    quarantine=st.lists(held, max_size=4).map(lambda all_held: {one.model.id: one for one in all_held}),
    now_s=times,
)


def free(situation: Situation, model: ModelRef) -> bool:
    record = situation.quarantine.get(model.id)
    return record is None or record.retry_at_s <= situation.now_s


@given(situations)
def test_what_is_held_back_is_never_tried(situation: Situation) -> None:
    """Neither served nor fetched before its time."""
    step = next_step(situation)
    if isinstance(step, (Serve, Fetch)):
        assert free(situation, step.model)


@given(situations)
def test_only_what_is_wanted_is_fetched(situation: Situation) -> None:
    """The target in follow_loop, the chosen one in specific_version, nothing in pause; and only while idle."""
    step = next_step(situation)
    if isinstance(step, Fetch):
        wanted = {VersionControl.FOLLOW_LOOP: situation.target, VersionControl.SPECIFIC_VERSION: situation.chosen}
        assert step.model == wanted[situation.mode] != situation.current
        assert situation.operation_mode is OperationMode.IDLE
        assert situation.may_fetch(step.model)


@given(situations)
def test_something_serves_before_anything_is_fetched(situation: Situation) -> None:
    """As long as there is a candidate that may serve."""
    may_serve = [model for model in situation.candidates if free(situation, model)]
    step = next_step(situation)
    if situation.current is None and may_serve:
        assert step == Serve(may_serve[0])
    else:
        assert not isinstance(step, Serve)


@given(situations)
def test_what_is_wanted_and_free_is_fetched(situation: Situation) -> None:
    """No wish is forgotten."""
    wanted = situation.wanted
    if wanted is not None and situation.may_fetch(wanted) and free(situation, wanted):
        assert isinstance(next_step(situation), Serve) or next_step(situation) == Fetch(wanted)


@given(situations)
def test_a_wait_ends_when_something_can_be_done(situation: Situation) -> None:
    """At its end the step is another one; one without an end waits for a change."""
    step = next_step(situation)
    if isinstance(step, Wait) and step.until_s is not None:
        assert step.until_s > situation.now_s
        later = Situation(**{name: getattr(situation, name) for name in SITUATION} | {"now_s": step.until_s})
        assert not isinstance(next_step(later), Wait)


SITUATION = ("mode", "operation_mode", "target", "chosen", "current", "candidates", "quarantine")


@given(st.integers(1, 10**6), st.floats(0, 1), st.none() | st.floats(0, 1e9))
def test_a_download_waits_between_its_bounds(failures: int, dice: float, asked_s: float | None) -> None:
    """From 5 s less jitter to 60 s, or what the Loop asks for, up to ten minutes."""
    wait_s = Delays().after_download(failures, dice, asked_s)
    assert 3.5 <= wait_s <= max(60.0, min(asked_s or 0, 600.0))
    if asked_s is not None:
        assert wait_s >= min(asked_s, 600.0)


def test_the_delays_of_the_defaults() -> None:
    """5 s, doubled up to a minute; ten minutes after a build."""
    assert [Delays().after_download(failures, 0) for failures in range(1, 7)] == [5, 10, 20, 40, 60, 60]
    assert Delays().build_s == 600


@given(models, st.lists(st.sampled_from(Failure), min_size=1, max_size=20), st.floats(0, 1))
def test_failures_in_a_row_are_counted(model: ModelRef, failures: list[Failure], dice: float) -> None:
    """Of the same kind; another kind begins anew."""
    record, in_a_row, last = None, 0, None
    for now_s, failure in enumerate(failures):
        in_a_row = in_a_row + 1 if failure is last else 1
        last = failure
        record = quarantined(model, failure, "bad", before=record, now_s=now_s, delays=Delays(), dice=dice)
        assert record.failures == in_a_row
        if failure is Failure.BUILD:
            assert record.retry_at_s == now_s + 600


@given(st.text(max_size=20) | st.from_regex(r"[0-9.]{1,12}", fullmatch=True))
def test_a_version_is_digits_and_dots_alone(text: str) -> None:
    """So that it is a name of a folder on every system, and none of those that lead elsewhere."""
    if is_version(text):
        assert text.isascii()
        assert all(part.isdigit() for part in text.split("."))


@pytest.mark.parametrize("version", ["1", "1.0", "10.22.333"])
def test_versions_and_uuids_are_taken(version: str) -> None:
    """As they are."""
    model_id = "F" * 8 + "-0000-0000-0000-" + "a" * 12
    assert checked_ref(model_id, version) == ModelRef(model_id, version)


@pytest.mark.parametrize(
    ("model_id", "version"),
    [("..", "1.0"), ("f" * 32, "1.0"), ("", "1.0")]
    + [("00000000-0000-0000-0000-000000000000", bad) for bad in ("", ".", "..", "1..0", "1.0\n", "1/0", "1" * 99)],
)
def test_what_could_lead_out_of_a_folder_is_refused(model_id: Any, version: str) -> None:
    """With words that name it."""
    with pytest.raises(ModelError, match="the Learning Loop names a model"):
        checked_ref(model_id, version)
