"""The state machine: what a run comes to, step by step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.core.action import Failure
from relay.core.problem import Denied, Invalid, OutcomeUnknown
from relay.gate.ask import AttemptState
from relay.runs.machine import FINISHED, StepEnd, conclude, end_of_attempt, end_of_refusal, next_step

STATUSES = ["queued", "running", "pending_approval", "succeeded", "failed", "cancelled", "unknown"]


def attempt(status: str, failure: Failure | None = None) -> AttemptState:
    return AttemptState("att_1", status, "test.say", 1, "write", "0" * 64, "key_1", None, failure, None, 0, None)


@pytest.mark.parametrize(
    ("steps", "cancel", "status"),
    [
        (["queued", "queued"], False, None),
        (["succeeded", "queued"], False, None),
        (["succeeded", "running"], True, None),
        (["succeeded", "queued"], True, "cancelled"),
        (["queued"], True, "cancelled"),
        (["succeeded", "succeeded"], True, "succeeded"),
        (["succeeded", "succeeded"], False, "succeeded"),
        (["succeeded", "failed", "queued"], False, "failed"),
        (["failed", "queued"], True, "failed"),
        (["unknown", "queued"], True, "unknown"),
        (["succeeded", "pending_approval", "queued"], False, "pending_approval"),
    ],
)
def test_what_a_run_comes_to(steps: list[str], cancel: bool, status: str | None) -> None:
    assert conclude(steps, cancel=cancel) == status


@given(st.integers(1, 20), st.lists(st.sampled_from(["succeeded", "failed", "unknown"]), max_size=20), st.booleans())
def test_a_run_worked_in_order_ends_with_every_step_ended_or_not_begun(count: int, ends: list[str], stop: bool) -> None:
    steps = ["queued"] * count
    for place, end in enumerate([*ends, *["succeeded"] * count][:count]):
        if conclude(steps, cancel=stop and place == count - 1) is not None:
            break
        assert next_step(steps) == place
        steps[place] = "running"
        assert conclude(steps, cancel=stop) is None, "a step under way is never abandoned"
        steps[place] = end
    ended = conclude(steps, cancel=stop)
    assert ended in FINISHED
    assert (ended == "succeeded") == all(status == "succeeded" for status in steps)
    assert (ended == "unknown") == ("unknown" in steps)


@pytest.mark.parametrize(
    ("status", "end"),
    [
        ("running", None),
        ("succeeded", "succeeded"),
        ("pending_approval", "pending_approval"),
        ("failed", "failed"),
        ("denied", "failed"),
        ("expired", "failed"),
        ("ready", None),
        ("cancelled", "cancelled"),
        ("unknown", "unknown"),
        ("something new", "unknown"),
    ],
)
def test_what_an_attempt_makes_of_its_step(status: str, end: str | None) -> None:
    found = end_of_attempt(attempt(status))
    assert (found.status if found else None) == end
    if found:
        assert found.attempt_id == "att_1"
        assert (found.error is None) == (end in ("succeeded", "pending_approval"))


def test_a_failure_keeps_its_code() -> None:
    end = end_of_attempt(attempt("failed", Failure("refused", "No such mailbox.", 502)))
    assert end == StepEnd("failed", "att_1", ("refused", "No such mailbox."))


def test_what_a_refusal_makes_of_its_step() -> None:
    assert end_of_refusal(Denied("Not here.")) == StepEnd("failed", None, ("denied", "Not here."))
    assert end_of_refusal(Invalid("Wrong.")).error == ("invalid", "Wrong.")
    unknown = end_of_refusal(OutcomeUnknown("Perhaps.", attempt_id="att_9"))
    assert unknown == StepEnd("unknown", "att_9", ("outcome-unknown", "Perhaps."))


@given(st.lists(st.sampled_from(STATUSES), min_size=1))
def test_the_next_step_is_the_first_that_has_not_ended(steps: list[str]) -> None:
    place = next_step(steps)
    open_ones = [at for at, status in enumerate(steps) if status in ("queued", "running")]
    assert place == (open_ones[0] if open_ones else None)
