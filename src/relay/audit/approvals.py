"""The audit events of a request's life, and what the workspace's webhook endpoints are told."""

from typing import Any

from relay.audit.record import event
from relay.core.event import EventDraft
from relay.store.approvals import ApprovalRow
from relay.store.attempts import AttemptRow


def request_event(
    what: str,
    request: ApprovalRow,
    *,
    status: str,
    principal: str,
    request_id: str,
    attempt: AttemptRow,
    persons: int = 0,
    comment: str = "",
) -> EventDraft:
    """Return the event ``approvals:request:<what>``. The comment stands in the erasable details alone.

    ``status`` is what the request has come to, ``persons`` how many have agreed to it.
    """
    details: dict[str, Any] | None = {"comment": comment} if comment else None
    return event(
        f"approvals:request:{what}",
        workspace_id=request.workspace_id,
        principal=principal,
        request_id=request_id,
        target=request.id,
        action=request.action,
        digest=request.digest,
        details=details,
        notice={
            "approval_id": request.id,
            "attempt_id": request.attempt_id,
            "requested_by": request.requester_id,
            "status": status,
            "approvals": persons,
            "approvers": request.approvers,
            "run_id": attempt.run_id,
            "step_id": attempt.step_id,
        },
    )


def cancelled_with_attempt(request: ApprovalRow, attempt: AttemptRow) -> EventDraft:
    """Return the event of a request that ended since its attempt did."""
    return request_event(
        "cancelled",
        request,
        attempt=attempt,
        status="cancelled",
        principal=attempt.principal_id,
        request_id=attempt.request_id,
    )
