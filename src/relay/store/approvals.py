"""Approvals: one row per step that a person must agree to, moved by compare-and-set, and who decided what."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from pydantic_core import from_json, to_json
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Select,
    Text,
    bindparam,
    func,
    insert,
    literal_column,
    select,
    union_all,
    update,
)

from relay.store.query import Query
from relay.store.reader import Reader
from relay.store.tables import api_keys
from relay.store.tables.approvals import approval_decisions, approvals
from relay.store.writer import Tx

ENDED: Final = ("approved", "denied", "expired", "withdrawn", "cancelled")
"""Where a request ends."""
_PENDING: ColumnElement[str] = literal_column("'pending'")


@dataclass(frozen=True, slots=True)
class ApprovalRow:
    """An approval as it is stored; times in microseconds.

    ``status`` is pending, approved, denied, expired, withdrawn or cancelled. ``requester_made_by`` is the JSON list of
    the credentials that made the requester's. ``approvers`` persons have to agree and, with ``other_person``, one of
    them at least who had no part in the requester's credential. ``reason`` is the policy's. ``seen_version`` is the
    version that was found of what the step changes, None where there is none.
    """

    id: str
    workspace_id: str
    attempt_id: str
    action: str
    digest: str
    requester_id: str
    requester_made_by: str
    status: str
    approvers: int
    other_person: int
    policy_id: str
    policy_version: int
    reason: str
    seen_version: str | None
    created_at: int
    expires_at: int
    decided_at: int | None

    def makers(self) -> frozenset[str]:
        """Return the credentials that made the requester's, directly or in a chain."""
        return frozenset(str(maker) for maker in from_json(self.requester_made_by))


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """One person's decision about an approval."""

    approval_id: str
    approver_id: str
    workspace_id: str
    approver_made_by: str
    decision: str
    factor: str
    decided_at: int

    def makers(self) -> frozenset[str]:
        """Return the credentials that made the approver's, directly or in a chain."""
        return frozenset(str(maker) for maker in from_json(self.approver_made_by))


def chain(made_by: Sequence[str]) -> str:
    """Return a chain of makers as it is stored."""
    return to_json(list(made_by)).decode()


_APPROVAL = [approvals.c[field.name] for field in fields(ApprovalRow)]
_DECISION = [approval_decisions.c[field.name] for field in fields(DecisionRow)]
_INSERT = Query(insert(approvals))
_LOCK = Query(
    select(*_APPROVAL)
    .where(approvals.c.id == bindparam("approval"), approvals.c.workspace_id == bindparam("w"))
    .with_for_update()
)
_CLOSE = Query(
    update(approvals)
    .where(
        approvals.c.id == bindparam("approval"),
        approvals.c.workspace_id == bindparam("w"),
        approvals.c.status == _PENDING,
    )
    .values(status=bindparam("to"), decided_at=bindparam("at"))
)
_DEMAND = Query(
    update(approvals)
    .where(
        approvals.c.id == bindparam("approval"),
        approvals.c.workspace_id == bindparam("w"),
        approvals.c.status == _PENDING,
    )
    .values(approvers=bindparam("persons"), other_person=bindparam("other"))
)
# Key by key, so that an index leads to what waits of each, however many requests of others do. The limits are inside:
# no more are looked at than the bound that is asked about.
_KEYS_OF = union_all(
    select(bindparam("account", type_=Text).label("id")),
    select(api_keys.c.id).where(api_keys.c.parent_id == bindparam("account")),
).subquery()
_WAITING_OF_KEY = (
    select(approvals.c.id)
    .where(
        approvals.c.workspace_id == bindparam("w"),
        approvals.c.requester_id == _KEYS_OF.c.id,
        approvals.c.status == _PENDING,
    )
    .limit(bindparam("most", type_=BigInteger))
    .correlate(_KEYS_OF)
)
_WAITING = (
    select(approvals.c.id)
    .where(approvals.c.workspace_id == bindparam("w"), approvals.c.status == _PENDING)
    .limit(bindparam("most"))
)
_NUMBER_OF_KEY = select(func.count()).select_from(_WAITING_OF_KEY.subquery()).correlate(_KEYS_OF).scalar_subquery()
WAITING_OF: Final = select(func.sum(_NUMBER_OF_KEY)).select_from(_KEYS_OF)
"""How many requests of an ``account`` and its child tokens are pending in a workspace ``w``, ``most`` of each key."""
_COUNT_OF = Query(WAITING_OF)
_COUNT = Query(select(func.count()).select_from(_WAITING.subquery()))
_CHANGE_DECISION = Query(
    update(approval_decisions)
    .where(
        approval_decisions.c.approval_id == bindparam("approval"),
        approval_decisions.c.approver_id == bindparam("approver"),
        approval_decisions.c.workspace_id == bindparam("w"),
    )
    .values(decision=bindparam("to"), decided_at=bindparam("at"))
)
_INSERT_DECISION = Query(insert(approval_decisions))
_DECISIONS = Query(
    select(*_DECISION)
    .where(
        approval_decisions.c.approval_id == bindparam("approval"), approval_decisions.c.workspace_id == bindparam("w")
    )
    .order_by(approval_decisions.c.decided_at)
)


class ApprovalRepository:
    """The approvals of one workspace."""

    def __init__(self, workspace_id: str) -> None:
        self._workspace = workspace_id

    def insert(self, tx: Tx, row: ApprovalRow) -> None:
        """Add a request; ValueError for one of another workspace."""
        if row.workspace_id != self._workspace:
            raise ValueError("the approval belongs to another workspace")
        tx.run(_INSERT, **_values(row))

    def lock(self, tx: Tx, approval_id: str) -> ApprovalRow | None:
        """Return a request, kept from others until the transaction ends."""
        row = tx.one(_LOCK, approval=approval_id, w=self._workspace)
        return ApprovalRow(*row) if row else None

    def close(self, tx: Tx, approval_id: str, *, status: str, at: int) -> bool:
        """Move a pending request to its end; return whether it was pending."""
        return tx.run(_CLOSE, approval=approval_id, w=self._workspace, to=status, at=at) == 1

    def waits_for(self, tx: Tx, account: str, most: int) -> int:
        """Return how many requests of a requester and its child tokens are pending, ``most`` where there are more."""
        row = tx.one(_COUNT_OF, w=self._workspace, account=account, most=most)
        return min(int(row[0]), most) if row else 0

    def waiting(self, tx: Tx, most: int) -> int:
        """Return how many requests of the workspace are pending, ``most`` where there are more."""
        row = tx.one(_COUNT, w=self._workspace, most=most)
        return int(row[0]) if row else 0

    def demand(self, tx: Tx, approval_id: str, *, approvers: int, other_person: bool) -> None:
        """Set who has to agree to a pending request."""
        tx.run(_DEMAND, approval=approval_id, w=self._workspace, persons=approvers, other=int(other_person))

    def change_decision(self, tx: Tx, approval_id: str, approver_id: str, *, decision: str, at: int) -> None:
        """Replace what a person had decided about a request."""
        tx.run(_CHANGE_DECISION, approval=approval_id, approver=approver_id, w=self._workspace, to=decision, at=at)

    def add_decision(self, tx: Tx, row: DecisionRow) -> None:
        """Note what a person decided; a person decides about a request once."""
        tx.run(_INSERT_DECISION, **_values(row))

    def decisions(self, tx: Tx, approval_id: str) -> list[DecisionRow]:
        """Return who decided what about a request, in order."""
        return [DecisionRow(*row) for row in tx.all(_DECISIONS, approval=approval_id, w=self._workspace)]

    async def get(self, reader: Reader, approval_id: str) -> ApprovalRow | None:
        """Return a request of this workspace, or None."""
        row = await reader.one(
            select(*_APPROVAL).where(approvals.c.id == approval_id, approvals.c.workspace_id == self._workspace)
        )
        return ApprovalRow(*row) if row else None

    async def decided(self, reader: Reader, approval_id: str) -> list[DecisionRow]:
        """Return who decided what about a request, in order."""
        return await self.decided_of(reader, [approval_id])

    async def decided_of(self, reader: Reader, approval_ids: Sequence[str]) -> list[DecisionRow]:
        """Return who decided what about several requests, in order."""
        rows = await reader.all(
            select(*_DECISION)
            .where(
                approval_decisions.c.approval_id.in_(approval_ids),
                approval_decisions.c.workspace_id == self._workspace,
            )
            .order_by(approval_decisions.c.decided_at)
        )
        return [DecisionRow(*row) for row in rows]

    async def pending(self, reader: Reader, after: str, limit: int) -> list[ApprovalRow]:
        """Return up to ``limit`` pending requests made after ``after``, the oldest first."""
        rows = await reader.all(
            select(*_APPROVAL)
            .where(approvals.c.workspace_id == self._workspace, approvals.c.status == _PENDING, approvals.c.id > after)
            .order_by(approvals.c.id)
            .limit(limit)
        )
        return [ApprovalRow(*row) for row in rows]

    async def ended(self, reader: Reader, before: str | None, limit: int, status: str | None) -> list[ApprovalRow]:
        """Return up to ``limit`` requests that wait no more, newest first: made before ``before``, of one status."""
        rows = await reader.all(ended_requests(self._workspace, before, limit, status))
        return [ApprovalRow(*row) for row in rows]


def ended_requests(workspace_id: str, before: str | None, limit: int, status: str | None) -> Select[Any]:
    """Return the statement of :meth:`ApprovalRepository.ended`: the newest of each status, and of those the newest.

    So an index leads to every row that is looked at, and none is passed over because it waits.
    """
    newest = [_ended(workspace_id, before, limit, one).subquery() for one in (ENDED if status is None else (status,))]
    found = union_all(*(select(part) for part in newest)).subquery()
    return select(found).order_by(found.c.id.desc()).limit(limit)


def _ended(workspace_id: str, before: str | None, limit: int, status: str) -> Select[Any]:
    query = select(*_APPROVAL).where(
        approvals.c.workspace_id == workspace_id, approvals.c.status != _PENDING, approvals.c.status == status
    )
    if before is not None:
        query = query.where(approvals.c.id < before)
    return query.order_by(approvals.c.id.desc()).limit(limit)


async def lapsed_approvals(reader: Reader, at: int, limit: int) -> list[ApprovalRow]:
    """Return pending requests of every workspace whose time is over, the longest first; for the sweep alone."""
    rows = await reader.all(
        select(*_APPROVAL)
        .where(approvals.c.status == _PENDING, approvals.c.expires_at <= at)
        .order_by(approvals.c.expires_at)
        .limit(limit)
    )
    return [ApprovalRow(*row) for row in rows]


def _values(row: ApprovalRow | DecisionRow) -> dict[str, Any]:
    return {field.name: getattr(row, field.name) for field in fields(row)}
