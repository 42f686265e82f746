"""Cancelling what waits, with its audit events: attempts that have not begun, and runs whose turn has not come."""

from collections.abc import Collection
from typing import Final

from relay.audit.approvals import cancelled_with_attempt
from relay.audit.record import event
from relay.core.clock import now
from relay.store.waiting import cancel_waiting
from relay.store.waiting_runs import cancel_queued_runs
from relay.store.writer import Tx

AT_ONCE: Final = 100


def cancel_some(
    tx: Tx,
    workspace: str,
    *,
    principals: Collection[str] | None,
    actions: Collection[str] | None,
    tag: str,
    code: str,
    detail: str,
) -> int:
    """Cancel up to :data:`AT_ONCE` attempts and as many runs of a workspace; return how many it was.

    None for principals or actions means any. ``tag`` is that of each attempt's event, ``code`` and ``detail`` are its
    error.
    """
    at = now()
    wanted = None if actions is None else list(actions)
    whose = None if principals is None else list(principals)
    cancelled = cancel_queued_runs(tx, workspace, principals=whose, actions=wanted, limit=AT_ONCE, at=at)
    for run in cancelled:
        tx.record(
            event(
                "runs:run:finished",
                workspace_id=workspace,
                principal=run.principal_id,
                request_id=run.request_id,
                target=run.id,
                outcome="cancelled",
            )
        )
    ended = cancel_waiting(
        tx, workspace, principals=whose, actions=wanted, code=code, detail=detail, limit=AT_ONCE, at=at
    )
    for one in ended:
        attempt = one.attempt
        tx.record(
            event(
                tag,
                workspace_id=workspace,
                principal=attempt.principal_id,
                request_id=attempt.request_id,
                target=attempt.id,
                action=attempt.action,
                digest=attempt.digest,
                outcome=one.status,
            )
        )
        if one.request is not None:
            tx.record(cancelled_with_attempt(one.request, attempt))
    return len(cancelled) + len(ended)
