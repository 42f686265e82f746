"""An attempt in its forms: the row that is inserted, the event that records it, the state that doors see."""

from typing import Any, Final

from relay.audit.record import event
from relay.core.action import Failure, Outcome
from relay.core.clock import now
from relay.core.event import EventDraft
from relay.gate.ask import Ask, AttemptState, Intent
from relay.store.attempts import AttemptRow

FIRST_FENCE: Final = 1


def attempt_row(intent: Intent, attempt_id: str, at: int) -> dict[str, Any]:
    """Return the columns of a new attempt; the caller sets ``status`` and what goes with it."""
    step, decision, ask = intent.step, intent.decision, intent.ask
    return {
        "id": attempt_id,
        "principal_id": intent.principal.id,
        "action": step.action,
        "version": step.version,
        "effect": intent.spec.effect,
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
        "not_before": None,
        "tries": 1,
        "created_at": at,
        "finished_at": None,
        "duration_ms": None,
        "error_code": None,
        "error_detail": None,
        "error_status": None,
    }


def ended_state(
    intent: Intent,
    attempt_id: str,
    outcome: Outcome,
    *,
    created_at: int,
    at: int,
    approval_id: str | None = None,
    tries: int = 1,
) -> AttemptState:
    """Return the state of an attempt that has just ended."""
    return AttemptState(
        attempt_id=attempt_id,
        status=outcome.status,
        action=intent.step.action,
        version=intent.step.version,
        effect=intent.spec.effect,
        digest=intent.step.digest,
        requested_by=intent.principal.id,
        result=outcome.result,
        failure=outcome.failure,
        duration_ms=outcome.duration_ms,
        created_at=created_at,
        finished_at=at,
        approval_id=approval_id,
        tries=tries,
    )


def waiting_state(
    intent: Intent,
    attempt_id: str,
    status: str,
    *,
    created_at: int,
    approval_id: str | None = None,
    held_until: int | None = None,
    tries: int = 0,
) -> AttemptState:
    """Return the state of an attempt that waits for a person or for its time."""
    return AttemptState(
        attempt_id=attempt_id,
        status=status,
        action=intent.step.action,
        version=intent.step.version,
        effect=intent.spec.effect,
        digest=intent.step.digest,
        requested_by=intent.principal.id,
        result=None,
        failure=None,
        duration_ms=None,
        created_at=created_at,
        finished_at=None,
        approval_id=approval_id,
        held_until=held_until,
        tries=tries,
    )


def attempt_event(
    intent: Intent,
    tag: str,
    target: str,
    *,
    decided: bool = False,
    outcome: Outcome | None = None,
    notice: dict[str, Any] | None = None,
) -> EventDraft:
    """Return the audit event of one stage of an attempt; details hold the caller's address, or what went wrong.

    ``decided``: the event carries the decision.
    """
    decision = intent.decision
    details: dict[str, Any] | None = None
    if outcome is not None and outcome.failure is not None:
        details = {"code": outcome.failure.code, "detail": outcome.failure.detail}
    elif outcome is None and decided:
        # Before anything leaves, or is refused: from where. What reached nothing outside needs no envelope of its own.
        details = {"client": intent.ask.client, "reason": decision.reason}
    return event(
        tag,
        workspace_id=intent.principal.workspace_id,
        principal=intent.principal.id,
        request_id=intent.ask.request_id,
        target=target,
        action=intent.step.action,
        decision=f"{decision.effect} {decision.policy_id}@{decision.policy_version}" if decided else "",
        digest=intent.step.digest,
        outcome=outcome.status if outcome else "",
        details=details,
        notice={**_run_of(intent.ask), **(notice or {})} or None,
    )


def _run_of(ask: Ask) -> dict[str, Any]:
    """Return what whoever is told of an attempt needs to know of the run that it is a step of."""
    return {} if ask.run_id is None else {"run_id": ask.run_id, "step_id": ask.step_id}


def _held_until(row: AttemptRow) -> int | None:
    """Return until when an attempt does not begin; None once it may begin at any moment."""
    if row.status != "ready" or row.not_before is None or row.not_before <= now():
        return None
    return row.not_before


def stored_state(row: AttemptRow, result: dict[str, Any] | None) -> AttemptState:
    """Return the state of a stored attempt."""
    failure = None
    if row.error_code is not None:
        failure = Failure(row.error_code, row.error_detail or "", row.error_status or 500)
    return AttemptState(
        attempt_id=row.id,
        status="running" if row.status == "ready" else row.status,
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
        approval_id=row.approval_id,
        held_until=_held_until(row),
        tries=row.tries,
    )
