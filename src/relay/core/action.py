"""One action on its way through the gate: the step, the decision about it and what became of it."""

from dataclasses import dataclass, field
from typing import Any, Literal

Effect = Literal["read", "write", "destructive"]
DecisionEffect = Literal["allow", "deny", "require_approval"]
AttemptStatus = Literal[
    "pending_approval", "running", "succeeded", "failed", "unknown", "denied", "expired", "cancelled"
]
OutcomeStatus = Literal["succeeded", "failed", "unknown"]


@dataclass(frozen=True, slots=True)
class Step:
    """A validated action that is ready to be decided.

    ``params`` is the validated parameter model, defaults filled in. ``nonce`` makes two otherwise equal
    steps distinct and carries the moment of preparation, so that whatever is rendered from a step (a date,
    a message id, a MIME boundary) is the same at preview and at execution.
    """

    action: str
    version: int
    params: Any
    nonce: str
    digest: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What policy says about a step, with the policy that said it.

    ``approvers`` is how many persons must agree where approval is required, ``other_person`` that one of them at least
    must have had no part in making the requester's credential. ``inputs`` is canonical JSON of everything the decision
    was made upon, so that it can be made again under another policy; empty when there is nothing to replay.
    ``policies`` names those that decided, ``error`` says that a policy failed, which is a denial.
    """

    effect: DecisionEffect
    policy_id: str
    policy_version: int
    reason: str
    approvers: int = 1
    other_person: bool = False
    inputs: bytes = field(default=b"", repr=False, compare=False)
    policies: tuple[str, ...] = field(default=(), compare=False)
    error: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt did not succeed: a stable code, a sentence for people, and the HTTP status it maps to.

    ``retryable``: to try again cannot do anything twice.
    """

    code: str
    detail: str
    status: int
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an attempt.

    ``unknown`` means that the effect may have happened: nothing repeats such an attempt.
    """

    status: OutcomeStatus
    result: dict[str, Any] | None
    failure: Failure | None
    duration_ms: int
