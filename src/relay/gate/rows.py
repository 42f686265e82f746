"""An attempt in its forms: the row that is inserted, the event that records it, the state that doors see."""

from typing import Any, Final

from relay.audit.record import event
from relay.catalog import ActionSpec
from relay.core.action import Decision, Failure, Outcome, Step
from relay.core.event import EventDraft
from relay.core.principal import Principal
from relay.gate.ask import Ask, AttemptState
from relay.store.attempts import AttemptRow

FIRST_FENCE: Final = 1


def attempt_row(
    principal: Principal, ask: Ask, spec: ActionSpec, step: Step, decision: Decision, attempt_id: str, at: int
) -> dict[str, Any]:
    """Return the columns of a new attempt; the caller sets ``status`` and what goes with it."""
    return {
        "id": attempt_id,
        "principal_id": principal.id,
        "action": step.action,
        "version": step.version,
        "effect": spec.effect,
        "nonce": step.nonce,
        "digest": step.digest,
        "policy_id": decision.policy_id,
        "policy_version": decision.policy_version,
        "approval_id": None,
        "preview_id": ask.preview_id,
        "run_id": ask.run_id,
        "step_id": ask.step_id,
        "request_id": ask.request_id,
        "fence": FIRST_FENCE,
        "lease_until": None,
        "created_at": at,
        "finished_at": None,
        "duration_ms": None,
        "error_code": None,
        "error_detail": None,
        "error_status": None,
    }


def ended_state(
    principal: Principal, spec: ActionSpec, step: Step, attempt_id: str, outcome: Outcome, created_at: int, at: int
) -> AttemptState:
    """Return the state of an attempt that has just ended."""
    return AttemptState(
        attempt_id=attempt_id,
        status=outcome.status,
        action=step.action,
        version=step.version,
        effect=spec.effect,
        digest=step.digest,
        requested_by=principal.id,
        result=outcome.result,
        failure=outcome.failure,
        duration_ms=outcome.duration_ms,
        created_at=created_at,
        finished_at=at,
    )


def attempt_event(
    principal: Principal,
    ask: Ask,
    tag: str,
    target: str,
    step: Step,
    *,
    decision: Decision | None = None,
    outcome: Outcome | None = None,
) -> EventDraft:
    """Return the audit event of one stage of an attempt; details hold the caller's address, or what went wrong."""
    details: dict[str, Any] | None = None
    if outcome is not None and outcome.failure is not None:
        details = {"code": outcome.failure.code, "detail": outcome.failure.detail}
    elif outcome is None and decision is not None:
        # Before anything leaves, or is refused: from where. What reached nothing outside needs no envelope of its own.
        details = {"client": ask.client, "reason": decision.reason}
    return event(
        tag,
        workspace_id=principal.workspace_id,
        principal=principal.id,
        request_id=ask.request_id,
        target=target,
        action=step.action,
        decision=f"{decision.effect} {decision.policy_id}@{decision.policy_version}" if decision else "",
        digest=step.digest,
        outcome=outcome.status if outcome else "",
        details=details,
    )


def stored_state(row: AttemptRow, result: dict[str, Any] | None) -> AttemptState:
    """Return the state of a stored attempt."""
    failure = None
    if row.error_code is not None:
        failure = Failure(row.error_code, row.error_detail or "", row.error_status or 500)
    return AttemptState(
        attempt_id=row.id,
        status=row.status,
        action=row.action,
        version=row.version,
        effect=row.effect,
        digest=row.digest,
        requested_by=row.principal_id,
        result=result,
        failure=failure,
        duration_ms=row.duration_ms,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )
