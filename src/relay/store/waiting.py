"""Attempts that wait, for a person or for their time: the one place where waiting ends, with all that hangs on it.

An attempt that waits may have an approval and may be a step of a run; the three move together or not at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import bindparam, literal_column, select

from relay.store.approvals import ApprovalRepository, ApprovalRow
from relay.store.attempts import AttemptRepository, AttemptRow
from relay.store.query import Query
from relay.store.runs import RunRepository
from relay.store.tables import attempts
from relay.store.writer import Tx

_WAITING = attempts.c.status.in_((literal_column("'pending_approval'"), literal_column("'ready'")))
_WAITING_OF = Query(
    select(attempts.c.id, attempts.c.principal_id, attempts.c.action)
    .where(attempts.c.workspace_id == bindparam("w"), attempts.c.id > bindparam("after"), _WAITING)
    .order_by(attempts.c.id)
    .limit(bindparam("most"))
)
_RUN_OF: Final = Query(
    select(attempts.c.run_id).where(attempts.c.id == bindparam("attempt"), attempts.c.workspace_id == bindparam("w"))
)
_PAGE: Final = 500
_UNKNOWN: Final = 504


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt, as it was, whose waiting has ended without it being run, and what it has come to.

    ``request`` is the approval that was still pending and ended with it, as it was; None where there was none.
    """

    attempt: AttemptRow
    status: str
    request: ApprovalRow | None


def end_waiting(
    tx: Tx,
    workspace_id: str,
    attempt_id: str,
    *,
    status: str,
    approval_status: str,
    error: tuple[str, str, int] | None,
    at: int,
) -> Ended | None:
    """End an attempt that waits: it, its approval if that is pending, and its run goes on to find out.

    ``status`` is denied, expired or cancelled; ``error`` a code, a sentence and an HTTP status. An attempt that waits
    to be tried again after an outcome that nobody knows ends as ``unknown`` instead: its effect may have happened.
    None when the attempt does not wait (any more), and then nothing has been written.
    """
    row = lock_waiting(tx, workspace_id, attempt_id)
    if row is None or row.status not in ("pending_approval", "ready"):
        return None
    if row.error_status == _UNKNOWN:
        status, error = "unknown", (row.error_code or "", row.error_detail or "", _UNKNOWN)
    requests = ApprovalRepository(workspace_id)
    request = None if row.approval_id is None else requests.lock(tx, row.approval_id)
    AttemptRepository(workspace_id).end_waiting(tx, attempt_id, status=status, at=at, error=error)
    pending = request is not None and requests.close(tx, request.id, status=approval_status, at=at)
    if row.run_id is not None and row.step_id is not None:
        RunRepository(workspace_id).resume_after_decision(tx, row.run_id, row.step_id, at)
    return Ended(row, status, request if pending else None)


def release(tx: Tx, approval: ApprovalRow, *, not_before: int, at: int) -> bool:
    """Let the attempt of an approval begin at a time: approval, attempt and run move together.

    False when the approval is not pending or its attempt does not wait for it (any more); nothing has been written.
    """
    repository = AttemptRepository(approval.workspace_id)
    row = lock_waiting(tx, approval.workspace_id, approval.attempt_id)
    if approval.status != "pending" or row is None or row.status != "pending_approval":
        return False
    ApprovalRepository(approval.workspace_id).close(tx, approval.id, status="approved", at=at)
    repository.make_ready(tx, row.id, was="pending_approval", fence=row.fence, not_before=not_before)
    if row.run_id is not None and row.step_id is not None:
        RunRepository(approval.workspace_id).resume_after_decision(tx, row.run_id, row.step_id, at)
    return True


def lock_waiting(tx: Tx, workspace_id: str, attempt_id: str) -> AttemptRow | None:
    """Return an attempt, kept from others until the transaction ends; None when there is none in the workspace.

    Its run is locked before it, as by whoever works on the run, and its approval is to be locked after it: those who
    take the same locks in one order never wait in a ring.
    """
    run = tx.one(_RUN_OF, attempt=attempt_id, w=workspace_id)
    if run is not None and run[0] is not None:
        RunRepository(workspace_id).lock(tx, run[0])
    return AttemptRepository(workspace_id).row(tx, attempt_id)


def cancel_waiting(
    tx: Tx,
    workspace_id: str,
    *,
    principals: Sequence[str] | None,
    actions: Sequence[str] | None,
    code: str,
    detail: str,
    limit: int,
    at: int,
) -> list[Ended]:
    """Cancel up to ``limit`` attempts of a workspace that wait; None for principals or actions means any.

    Returns what was cancelled; fewer than ``limit`` means that nothing that matches waits any more.
    """
    ended: list[Ended] = []
    after = ""
    while len(ended) < limit:
        rows = tx.all(_WAITING_OF, w=workspace_id, after=after, most=_PAGE)
        for attempt_id, principal_id, action in rows:
            after = attempt_id
            if principals is not None and principal_id not in principals:
                continue
            if actions is not None and action not in actions:
                continue
            done = end_waiting(
                tx,
                workspace_id,
                attempt_id,
                status="cancelled",
                approval_status="cancelled",
                error=(code, detail, 403),
                at=at,
            )
            if done is not None:
                ended.append(done)
            if len(ended) == limit:
                break
        if len(rows) < _PAGE:
            break
    return ended
