"""The states of a run and of its steps, and how one follows from the other. Pure: no clock, no database."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from relay.core.problem import OutcomeUnknown, Problem
from relay.core.storable import storable
from relay.gate.ask import AttemptState

Status = Literal["queued", "running", "pending_approval", "succeeded", "failed", "cancelled", "unknown"]

FINISHED: Final[frozenset[str]] = frozenset({"succeeded", "failed", "cancelled", "unknown"})


@dataclass(frozen=True, slots=True)
class StepEnd:
    """What a step came to. ``error`` is a stable code and a sentence, None unless it did not succeed.

    In both, U+FFFD stands for each control character and lone surrogate: a sentence may quote what a caller wrote.
    """

    status: Status
    attempt_id: str | None = None
    error: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if self.error is not None:
            code, detail = map(storable, self.error)
            object.__setattr__(self, "error", (code, detail))


def conclude(steps: Sequence[str], *, cancel: bool) -> Status | None:
    """Return the status that a run has come to, None while its next step is to be worked on.

    ``steps`` are the statuses of its steps in order; ``cancel`` says that somebody asked for it. A step under way
    is always brought to its end, since its effect may have begun: a cancellation stops what has not.
    """
    if "unknown" in steps:
        return "unknown"
    if "failed" in steps:
        return "failed"
    if "pending_approval" in steps:
        return "pending_approval"
    if "running" in steps:
        return None
    if all(status == "succeeded" for status in steps):
        return "succeeded"
    if cancel or "cancelled" in steps:
        return "cancelled"
    return None


def next_step(steps: Sequence[str]) -> int | None:
    """Return the position of the step to work on: the first that has not ended; None when all have."""
    return next((place for place, status in enumerate(steps) if status in ("queued", "running")), None)


def end_of_attempt(state: AttemptState) -> StepEnd | None:
    """Return what an attempt makes of its step, None while the attempt is under way."""
    if state.status in ("ready", "running"):
        return None
    if state.status == "succeeded":
        return StepEnd("succeeded", state.attempt_id)
    if state.status == "pending_approval":
        return StepEnd("pending_approval", state.attempt_id)
    if state.failure is not None:
        error = (state.failure.code, state.failure.detail)
    else:
        error = (state.status, f"The attempt ended as {state.status}.")
    if state.status == "cancelled":
        return StepEnd("cancelled", state.attempt_id, error)
    # Whatever is neither known to have succeeded nor known to be over without effect counts as unknown.
    status: Status = "failed" if state.status in ("failed", "denied", "expired") else "unknown"
    return StepEnd(status, state.attempt_id, error)


def end_of_refusal(problem: Problem) -> StepEnd:
    """Return what a refusal by the gate makes of a step: a failure, since nothing was executed."""
    attempt_id = problem.extensions.get("attempt_id")
    status: Status = "unknown" if isinstance(problem, OutcomeUnknown) else "failed"
    return StepEnd(status, attempt_id, (problem.slug, problem.detail))
