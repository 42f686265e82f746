"""What a door hands to the gate, and what it gets back."""

from dataclasses import dataclass
from typing import Any

from relay.catalog import ActionSpec, Rendering
from relay.core.action import Decision, Failure, Step


@dataclass(frozen=True, slots=True)
class Ask:
    """A wish to run one action: by preview, or by name and parameters. ``client`` is the caller's address."""

    request_id: str
    client: str
    action: str | None = None
    params: dict[str, Any] | None = None
    preview_id: str | None = None
    idempotency_key: str | None = None
    run_id: str | None = None
    step_id: str | None = None


@dataclass(frozen=True, slots=True)
class AttemptState:
    """An attempt as it stands. ``result`` is None until it succeeded, and again after its retention."""

    attempt_id: str
    status: str
    action: str
    version: int
    effect: str
    digest: str
    requested_by: str
    result: dict[str, Any] | None
    failure: Failure | None
    duration_ms: int | None
    created_at: int
    finished_at: int | None


@dataclass(frozen=True, slots=True)
class Considered:
    """A validated and decided step that nobody has asked to run yet."""

    spec: ActionSpec
    step: Step
    decision: Decision
    rendering: Rendering


@dataclass(frozen=True, slots=True)
class PreviewState:
    """A stored preview, as its maker sees it."""

    preview_id: str
    considered: Considered
    expires_at: int
