"""Fourth stage, approve: steps that wait, for the approval of a person or, held back, for their time."""

from dataclasses import replace
from typing import Any, Final

from relay.approvals.intake import Intake
from relay.audit.approvals import cancelled_with_attempt
from relay.audit.record import event
from relay.core.clock import MICROSECONDS, iso, now
from relay.core.event import EventDraft
from relay.core.ids import new_id
from relay.core.principal import Principal
from relay.core.problem import Conflict, InsufficientScope, NotFound
from relay.gate.ask import AttemptState, Intent
from relay.gate.asked import Asked
from relay.gate.attempts import Attempts
from relay.gate.checks import Checks
from relay.gate.rows import attempt_event, attempt_row, waiting_state
from relay.store.api_keys import are_one_line
from relay.store.approvals import ApprovalRow, chain
from relay.store.attempts import AttemptRepository, AttemptRow
from relay.store.database import Database
from relay.store.idempotency import Remembered
from relay.store.vault import Vault
from relay.store.waiting import end_waiting, lock_waiting
from relay.store.writer import Tx

RUN_CANCELLED: Final = ("run_cancelled", "The run that this is a step of was cancelled.", 403)
RECALLED: Final = ("recalled", "The attempt was recalled before it began.", 403)


class Holds:
    """Makes attempts wait and ends their waiting. ``approval_ttl`` is in microseconds, ``hold_back`` in seconds."""

    def __init__(
        self,
        database: Database,
        attempts: Attempts,
        checks: Checks,
        intake: Intake,
        *,
        approval_ttl: int,
        hold_back: int,
    ) -> None:
        self._database = database
        self._attempts = attempts
        self._checks = checks
        self._intake = intake
        self._approval_ttl = approval_ttl
        self._hold_back = hold_back

    def holds_back(self, intent: Intent) -> bool:
        """Say whether this has to wait for its time although it is allowed."""
        return intent.spec.irreversible and self._hold_back > 0 and not intent.ask.reads_version

    async def for_approval(self, intent: Intent) -> AttemptState | Remembered:
        """Make an attempt that waits for approval, with its request, consuming preview and idempotency key.

        Returns what is remembered instead, and refuses, as :meth:`relay.gate.attempts.Attempts.begin` does; 429 too
        where too many requests wait already.
        """
        at, attempt_id, approval_id = now(), new_id("att"), new_id("apr")
        decision, principal = intent.decision, intent.principal
        request = ApprovalRow(
            id=approval_id,
            workspace_id=principal.workspace_id,
            attempt_id=attempt_id,
            action=intent.step.action,
            digest=intent.step.digest,
            requester_id=principal.id,
            requester_made_by=chain(principal.made_by),
            status="pending",
            approvers=decision.approvers,
            other_person=int(decision.other_person),
            policy_id=decision.policy_id,
            policy_version=decision.policy_version,
            reason=decision.reason,
            seen_version=intent.seen_version,
            created_at=at,
            expires_at=at + self._approval_ttl,
            decided_at=None,
        )
        draft = attempt_event(
            intent, "approvals:request:made", approval_id, decided=True, notice=_notice(request, intent)
        )
        columns = {"status": "pending_approval", "approval_id": approval_id}
        found = await self._wait(intent, attempt_id, at, columns, draft, request)
        if found is not None:
            return found
        return waiting_state(intent, attempt_id, "pending_approval", created_at=at, approval_id=approval_id)

    async def hold_back(self, intent: Intent) -> AttemptState | Remembered:
        """Make an attempt that is allowed and begins by itself after a while, unless it is recalled."""
        at, attempt_id = now(), new_id("att")
        until = at + self._hold_back * MICROSECONDS
        draft = attempt_event(intent, "gate:action:held", attempt_id, decided=True)
        found = await self._wait(intent, attempt_id, at, {"status": "ready", "not_before": until}, draft, None)
        if found is not None:
            return found
        return waiting_state(intent, attempt_id, "running", created_at=at, held_until=until)

    async def _wait(
        self,
        intent: Intent,
        attempt_id: str,
        at: int,
        columns: dict[str, Any],
        draft: EventDraft,
        request: ApprovalRow | None,
    ) -> Remembered | None:
        row = {**attempt_row(intent, attempt_id, at), "tries": 0, **columns}
        asked = Asked.of(intent).sealed_form()
        sealed = (
            self._attempts.seal_params(intent, attempt_id, at),
            self._attempts.seal_asked(intent, attempt_id, asked, at),
        )
        claim = self._attempts.claim(intent, attempt_id, at)
        check = self._checks.admission(intent, attempt_id, at)

        def unit(tx: Tx) -> Remembered | None:
            check.running(tx)
            if (found := claim.earlier(tx)) is not None:
                return found
            if request is not None:
                self._intake.look(tx, request, intent.principal.account)
            claim.take(tx)
            claim.attempts.insert(tx, **row)
            if request is not None:
                self._intake.take(tx, request)
            for envelope in sealed:
                Vault.put(tx, envelope)
            check.take(tx)
            tx.record(draft)
            return None

        return await self._database.writer.run(unit)

    async def recall(self, principal: Principal, attempt_id: str, request_id: str) -> None:
        """Cancel an attempt of the principal's workspace that is held back and has not begun.

        For whoever asked for it, keys of its line by rotation, and persons; 403 for anybody else, 404 for what is not
        there, 409 for an attempt that is not held back (any more): then it may have taken effect.
        """
        row = await AttemptRepository(principal.workspace_id).get(self._database.reader, attempt_id)
        if row is None:
            raise NotFound("There is no such attempt in this workspace.")
        whose = (principal.workspace_id, principal.id, row.principal_id)
        if principal.kind != "person" and not await are_one_line(self._database.reader, *whose):
            raise InsufficientScope(("a person",), frozenset({"actions:execute"}))
        draft = _ended_event(row, "gate:action:recalled", principal.id, request_id)

        def unit(tx: Tx) -> bool:
            found = lock_waiting(tx, principal.workspace_id, attempt_id)
            if found is None or found.status != "ready":
                return False
            _end(tx, found, "cancelled", RECALLED, draft)
            return True

        if not await self._database.writer.run(unit, outcome=True):
            raise Conflict("This attempt is not held back (any more), so it cannot be recalled.", attempt_id=attempt_id)

    @staticmethod
    def cancel_with_run(tx: Tx, workspace_id: str, attempt_id: str) -> bool:
        """Cancel an attempt that waits, and its request, as its run is cancelled; False when it does not wait."""
        row = lock_waiting(tx, workspace_id, attempt_id)
        if row is None or row.status not in ("pending_approval", "ready"):
            return False
        draft = _ended_event(row, "gate:action:cancelled", row.principal_id, row.request_id, error=RUN_CANCELLED)
        _end(tx, row, "cancelled", RUN_CANCELLED, draft)
        return True

    async def refuse(self, row: AttemptRow, status: str, error: tuple[str, str, int]) -> None:
        """End an attempt that was ready and may not begin any more; a budget or a place was never taken for it."""
        draft = _ended_event(row, "gate:action:cancelled", row.principal_id, row.request_id, error=error)
        await self._database.writer.run(lambda tx: _end(tx, row, status, error, draft), outcome=True)

    async def postpone(self, row: AttemptRow, not_before: int) -> None:
        """Have an attempt that is ready begin later."""
        repository = AttemptRepository(row.workspace_id)
        error = None if row.error_code is None else (row.error_code, row.error_detail or "", row.error_status or 500)
        await self._database.writer.run(
            lambda tx: repository.make_ready(
                tx, row.id, was="ready", fence=row.fence, not_before=not_before, error=error
            )
        )


def _end(tx: Tx, row: AttemptRow, status: str, error: tuple[str, str, int], draft: EventDraft) -> None:
    done = end_waiting(tx, row.workspace_id, row.id, status=status, approval_status="cancelled", error=error, at=now())
    if done is None:
        return
    tx.record(replace(draft, outcome=done.status))
    if done.request is not None:
        tx.record(cancelled_with_attempt(done.request, done.attempt))


def _notice(request: ApprovalRow, intent: Intent) -> dict[str, Any]:
    return {
        "approval_id": request.id,
        "attempt_id": request.attempt_id,
        "requested_by": request.requester_id,
        "approvers": request.approvers,
        "expires_at": iso(request.expires_at),
        "run_id": intent.ask.run_id,
        "step_id": intent.ask.step_id,
    }


def _ended_event(
    row: AttemptRow,
    tag: str,
    principal: str,
    request_id: str,
    *,
    error: tuple[str, str, int] | None = None,
) -> EventDraft:
    return event(
        tag,
        workspace_id=row.workspace_id,
        principal=principal,
        request_id=request_id,
        target=row.id,
        action=row.action,
        digest=row.digest,
        details=None if error is None else {"code": error[0], "detail": error[1]},
    )
