"""Decisions: each is one transaction that compares, writes the decision and moves attempt, request and run together."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal

from relay.approvals.expire import expire
from relay.approvals.outlook import Agreement, Foresight, Outlook
from relay.approvals.persons import agreed, agreement, is_one_person, lineage, lineage_of, require_may_decide
from relay.audit.approvals import request_event
from relay.catalog import Catalog
from relay.core.clock import MICROSECONDS, now
from relay.core.principal import Principal
from relay.core.problem import AlreadyDecided, Denied, DigestMismatch, NotApprover, NotFound
from relay.crypto.digest import equal
from relay.store.api_keys import are_one_line, line_of
from relay.store.approvals import ApprovalRepository, ApprovalRow, DecisionRow, chain
from relay.store.attempts import AttemptRepository, AttemptRow
from relay.store.database import Database
from relay.store.vault import Sealed, Vault
from relay.store.waiting import end_waiting, lock_waiting, release
from relay.store.writer import Tx

COMMENT: Final = "approval-comment"
WITHDRAWN: Final = ("withdrawn", "The request for approval was withdrawn.", 403)

Wake = Callable[[str, str | None], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody decides about a request. ``digest`` is that of the step they have looked at."""

    decision: Literal["approve", "deny"]
    digest: str
    comment: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Decided:
    """How a request stands after a decision: its status, and how many persons agree of how many that have to."""

    approval_id: str
    attempt_id: str
    status: str
    persons: int
    approvers: int


@dataclass(frozen=True, slots=True)
class _Standing:
    """Attempt and request as the transaction sees them, locked, with what has been decided."""

    attempt: AttemptRow
    request: ApprovalRow
    decisions: list[DecisionRow]


class Decisions:
    """Decides about requests; every method is scoped to the principal's workspace.

    ``retention`` is how long comments are kept (microseconds); ``hold_back`` for how many seconds an irreversible
    action waits after it was approved. ``wake`` has an attempt that is ready begin, and its run
    go on.
    """

    def __init__(
        self,
        database: Database,
        vault: Vault,
        catalog: Catalog,
        foresight: Foresight,
        wake: Wake,
        *,
        retention: int,
        hold_back: int,
        clock: Callable[[], int] = now,
    ) -> None:
        self._database = database
        self._vault = vault
        self._catalog = catalog
        self._foresight = foresight
        self._wake = wake
        self._retention = retention
        self._hold_back = hold_back
        self._clock = clock

    async def decide(self, principal: Principal, approval_id: str, wish: Wish) -> Decided:
        """Approve or deny. After the last approval that it takes the attempt begins by itself.

        404 for a request of another workspace; 403 for whoever must not decide, and for an approval that policy or the
        kill switch would not let lead to anything now; 409 for another digest than the step's, a request that has
        ended, a person who has agreed already, and an attempt that can never begin any more, which this ends.
        """
        request, attempt = await self._found(principal, approval_id)
        line = await line_of(self._database.reader, principal.workspace_id, request.requester_id)
        require_may_decide(principal, request, line)
        if not equal(wish.digest.encode(errors="replace"), request.digest.encode()):
            raise DigestMismatch("This is not the digest of the step that waits; look at the request again.")
        _require_pending(request.status)
        if wish.decision == "deny":
            denied = await self._settle(principal, request, wish, None)
            await self._wake(denied.attempt_id, attempt.run_id)
            return denied
        ended = await self._ended_approvers(request)
        outlook = await self._outlook(principal, request, attempt, ended)
        if outlook.refusal is not None:
            return await self._refused(request, outlook, principal, wish)
        done = await self._settle(principal, request, wish, outlook, ended)
        if done.status != "pending":
            await self._wake(done.attempt_id, attempt.run_id)
        return done

    async def withdraw(self, principal: Principal, approval_id: str, request_id: str) -> Decided:
        """End a request that is pending, and its attempt, without anybody's decision.

        For the requester, keys of its line by rotation, and a person with ``workspace:admin``; 403 for anybody else,
        404, 409 as above.
        """
        request, _ = await self._found(principal, approval_id)
        administers = principal.kind == "person" and "workspace:admin" in principal.scopes
        whose = (principal.workspace_id, principal.id, request.requester_id)
        if not administers and not await are_one_line(self._database.reader, *whose):
            raise NotApprover("A request is withdrawn by whoever made it, or by a person with workspace:admin.")

        done = await self._database.writer.run(
            lambda tx: self.withdraw_in(tx, principal, request, request_id), outcome=True
        )
        return _not_expired(done)

    def withdraw_in(self, tx: Tx, principal: Principal, request: ApprovalRow, request_id: str) -> Decided:
        """Withdraw a request, in one transaction. A request whose time is over ends as expired instead."""
        found, at = self._locked(tx, request), self._clock()
        _require_pending(found.request.status)
        if found.request.expires_at <= at:
            return _expired(tx, found, at)
        _end(tx, found, "cancelled", "withdrawn", WITHDRAWN, at)
        persons = len(agreed(found.decisions))
        tx.record(
            request_event(
                "withdrawn",
                found.request,
                attempt=found.attempt,
                status="withdrawn",
                principal=principal.id,
                request_id=request_id,
                persons=persons,
            )
        )
        return _decided(found, "withdrawn", persons)

    async def _found(self, principal: Principal, approval_id: str) -> tuple[ApprovalRow, AttemptRow]:
        reader, workspace = self._database.reader, principal.workspace_id
        request = await ApprovalRepository(workspace).get(reader, approval_id)
        attempt = None if request is None else await AttemptRepository(workspace).get(reader, request.attempt_id)
        if request is None or attempt is None:
            raise NotFound("There is no such request in this workspace.")
        return request, attempt

    async def _ended_approvers(self, request: ApprovalRow) -> frozenset[str]:
        """Return who has agreed with a key that has ended since; that does not count any more."""
        decisions = await ApprovalRepository(request.workspace_id).decided(self._database.reader, request.id)
        who = [decision.approver_id for decision in agreed(decisions)]
        return frozenset([found for found in who if not await self._foresight.is_alive(found)])

    async def _outlook(
        self, principal: Principal, request: ApprovalRow, attempt: AttemptRow, ended: frozenset[str]
    ) -> Outlook:
        """Ask what this approval would lead to, together with those that there are."""
        repository = ApprovalRepository(principal.workspace_id)
        earlier = agreed(await repository.decided(self._database.reader, request.id), ended)
        who = [*map(lineage_of, earlier), lineage(principal.id, principal.made_by)]
        return await self._foresight.outlook(attempt, agreement(who, request))

    async def _refused(self, request: ApprovalRow, outlook: Outlook, principal: Principal, wish: Wish) -> Decided:
        """Answer for an approval that would lead to nothing; what can never begin any more is ended."""
        assert outlook.refusal is not None
        code, detail, _ = outlook.refusal
        if not outlook.ends:
            raise Denied(detail, code=code, approval_id=request.id, attempt_id=request.attempt_id)

        def unit(tx: Tx) -> None:
            found, at = self._locked(tx, request), self._clock()
            _require_pending(found.request.status)
            _end(tx, found, "denied", "cancelled", outlook.refusal, at)
            tx.record(
                request_event(
                    "cancelled",
                    found.request,
                    attempt=found.attempt,
                    status="cancelled",
                    principal=principal.id,
                    request_id=wish.request_id,
                    persons=len(agreed(found.decisions)),
                )
            )

        await self._database.writer.run(unit, outcome=True)
        raise AlreadyDecided(detail, approval_status="cancelled", code=code)

    async def _settle(
        self,
        principal: Principal,
        request: ApprovalRow,
        wish: Wish,
        outlook: Outlook | None,
        ended: frozenset[str] = frozenset(),
    ) -> Decided:
        sealed = self._sealed(principal, request, wish)

        done = await self._database.writer.run(
            lambda tx: self.settle_in(tx, principal, request, wish, outlook, ended, sealed), outcome=True
        )
        return _not_expired(done)

    def settle_in(
        self,
        tx: Tx,
        principal: Principal,
        request: ApprovalRow,
        wish: Wish,
        outlook: Outlook | None,
        ended: frozenset[str],
        sealed: Sealed | None,
    ) -> Decided:
        """Decide about a request, in one transaction; without an ``outlook`` that is a denial.

        What ``ended`` keys have agreed to does not count. A request whose time is over ends as expired instead.
        """
        found, at = self._locked(tx, request), self._clock()
        _require_pending(found.request.status)
        if found.attempt.status != "pending_approval":
            raise AlreadyDecided("The attempt does not wait for approval (any more).", approval_status="cancelled")
        if found.request.expires_at <= at:
            return _expired(tx, found, at)
        if outlook is None:
            return self._deny(tx, found, principal, wish, sealed, at)
        return self._approve(tx, found, principal, wish, sealed, (outlook, ended), at)

    def _locked(self, tx: Tx, request: ApprovalRow) -> _Standing:
        attempt = lock_waiting(tx, request.workspace_id, request.attempt_id)
        requests = ApprovalRepository(request.workspace_id)
        locked = requests.lock(tx, request.id)
        if attempt is None or locked is None:
            raise NotFound("There is no such request in this workspace.")
        return _Standing(attempt, locked, requests.decisions(tx, request.id))

    def _deny(
        self, tx: Tx, found: _Standing, principal: Principal, wish: Wish, sealed: Sealed | None, at: int
    ) -> Decided:
        _write(tx, found, principal, wish, sealed, at)
        error = ("approval_denied", f"{principal.id} denied this.", 403)
        _end(tx, found, "denied", "denied", error, at)
        persons = sum(decision.approver_id != principal.id for decision in agreed(found.decisions))
        _record(tx, found, "denied", "denied", principal, wish, persons)
        return _decided(found, "denied", persons)

    def _approve(
        self,
        tx: Tx,
        found: _Standing,
        principal: Principal,
        wish: Wish,
        sealed: Sealed | None,
        looked: tuple[Outlook, frozenset[str]],
        at: int,
    ) -> Decided:
        outlook, ended = looked
        mine = lineage(principal.id, principal.made_by)
        who = [lineage_of(decision) for decision in agreed(found.decisions, ended)]
        if any(is_one_person(mine, theirs) for theirs in who):
            raise AlreadyDecided(
                "The same person has agreed already; another one has to.", approval_status=found.request.status
            )
        together = agreement([*who, mine], found.request)
        wanted = _wanted(found.request, outlook)
        _write(tx, found, principal, wish, sealed, at)
        requests = ApprovalRepository(found.request.workspace_id)
        if (wanted.persons, wanted.other_person) != (found.request.approvers, bool(found.request.other_person)):
            requests.demand(tx, found.request.id, approvers=wanted.persons, other_person=wanted.other_person)
        if together.persons < wanted.persons or (wanted.other_person and not together.other_person):
            _record(tx, found, "agreed", "pending", principal, wish, together.persons)
            return _decided(found, "pending", together.persons, wanted.persons)
        release(tx, found.request, not_before=self._not_before(found.request.action, at), at=at)
        _record(tx, found, "approved", "approved", principal, wish, together.persons)
        return _decided(found, "approved", together.persons, wanted.persons)

    def _not_before(self, action: str, at: int) -> int:
        spec = self._catalog.get(action)
        held = self._hold_back if spec is not None and spec.irreversible else 0
        return at + held * MICROSECONDS

    def _sealed(self, principal: Principal, request: ApprovalRow, wish: Wish) -> Sealed | None:
        if not wish.comment:
            return None
        return self._vault.seal(
            wish.comment.encode(),
            workspace=request.workspace_id,
            purpose=COMMENT,
            record_id=comment_of(request.id, principal.id, wish.decision),
            expires_at=self._clock() + self._retention,
        )


def comment_of(approval_id: str, approver_id: str, decision: str) -> str:
    """Return the name under which a decision's comment is kept."""
    return f"{approval_id}/{approver_id}/{decision}"


def _require_pending(status: str) -> None:
    if status != "pending":
        raise AlreadyDecided(f"This request is {status}; it waits for nobody any more.", approval_status=status)


def _wanted(request: ApprovalRow, outlook: Outlook) -> Agreement:
    """Return who has to agree: what was asked for at first, or more where policy has become stricter meanwhile."""
    more = outlook.wanted or Agreement(1, False)
    return Agreement(max(request.approvers, more.persons), bool(request.other_person) or more.other_person)


def _write(tx: Tx, found: _Standing, principal: Principal, wish: Wish, sealed: Sealed | None, at: int) -> None:
    requests, request = ApprovalRepository(found.request.workspace_id), found.request
    if any(decision.approver_id == principal.id for decision in found.decisions):
        requests.change_decision(tx, request.id, principal.id, decision=wish.decision, at=at)
    else:
        requests.add_decision(
            tx,
            DecisionRow(
                approval_id=request.id,
                approver_id=principal.id,
                workspace_id=request.workspace_id,
                approver_made_by=chain(principal.made_by),
                decision=wish.decision,
                factor=principal.auth_method,
                decided_at=at,
            ),
        )
    if sealed is not None:
        Vault.put(tx, sealed)


def _end(
    tx: Tx, found: _Standing, status: str, approval_status: str, error: tuple[str, str, int] | None, at: int
) -> None:
    end_waiting(
        tx,
        found.request.workspace_id,
        found.request.attempt_id,
        status=status,
        approval_status=approval_status,
        error=error,
        at=at,
    )


def _record(tx: Tx, found: _Standing, what: str, status: str, principal: Principal, wish: Wish, persons: int) -> None:
    tx.record(
        request_event(
            what,
            found.request,
            attempt=found.attempt,
            status=status,
            principal=principal.id,
            request_id=wish.request_id,
            persons=persons,
            comment=wish.comment,
        )
    )


def _expired(tx: Tx, found: _Standing, at: int) -> Decided:
    expire(tx, found.request, found.attempt, at)
    return _decided(found, "expired", len(agreed(found.decisions)))


def _decided(found: _Standing, status: str, persons: int, approvers: int | None = None) -> Decided:
    return Decided(
        found.request.id, found.attempt.id, status, persons, found.request.approvers if approvers is None else approvers
    )


def _not_expired(done: Decided) -> Decided:
    _require_pending("expired" if done.status == "expired" else "pending")
    return done
