"""What budgets have counted: per UTC day what is used, which members count, and what each attempt took.

Writers take turns on one lock (:func:`take_turns`), the same that guards the places of attempts: an intent takes one
lock or none, so that no two of them can wait for each other.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, bindparam, delete, insert, literal_column, or_, select, update

from relay.core.clock import DAY
from relay.store.query import Query
from relay.store.reader import Reader
from relay.store.tables import attempts, generations
from relay.store.tables.budgets import budget_days, budget_holds, budget_members, recipients
from relay.store.writer import StoreUnavailable, Tx

KEPT_DAYS: Final = 3
_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class DayUse:
    """What a budget has used in a day, and which crossings have been reported."""

    used: int = 0
    nearly_used: bool = False
    exhausted: bool = False


@dataclass(frozen=True, slots=True)
class Hold:
    """What one attempt takes of one budget: an amount, or, with ``member``, a member that counts once a day."""

    budget_id: str
    member: str
    amount: int


_LOCK: Final = Query(select(generations.c.value).where(generations.c.name == "attempts").with_for_update())

_DAY: Final = (budget_days.c.budget_id == bindparam("budget"), budget_days.c.day == bindparam("on_day"))
_MEMBER: Final = (
    budget_members.c.budget_id == bindparam("budget"),
    budget_members.c.day == bindparam("on_day"),
    budget_members.c.member == bindparam("which"),
)
_HELD: Final = (budget_holds.c.attempt_id == bindparam("attempt"), budget_holds.c.workspace_id == bindparam("w"))

_USE: Final = Query(select(budget_days.c.used, budget_days.c.nearly_used_at, budget_days.c.exhausted_at).where(*_DAY))
_ADD_USE: Final = Query(update(budget_days).where(*_DAY).values(used=budget_days.c.used + bindparam("more")))
_NEW_DAY: Final = Query(insert(budget_days))
_REPORT_NEARLY: Final = Query(
    update(budget_days).where(*_DAY, budget_days.c.nearly_used_at.is_(None)).values(nearly_used_at=bindparam("moment"))
)
_REPORT_EXHAUSTED: Final = Query(
    update(budget_days).where(*_DAY, budget_days.c.exhausted_at.is_(None)).values(exhausted_at=bindparam("moment"))
)
_COUNTS: Final = Query(select(budget_members.c.holders).where(*_MEMBER))
_HOLD_MEMBER: Final = Query(
    update(budget_members).where(*_MEMBER).values(holders=budget_members.c.holders + bindparam("more"))
)
_NEW_MEMBER: Final = Query(insert(budget_members))
_DROP_MEMBER: Final = Query(delete(budget_members).where(*_MEMBER, budget_members.c.holders <= 0))
_NEW_HOLD: Final = Query(insert(budget_holds))
_HOLDS: Final = Query(
    select(budget_holds.c.budget_id, budget_holds.c.day, budget_holds.c.member, budget_holds.c.amount)
    .where(*_HELD)
    .order_by(budget_holds.c.budget_id, budget_holds.c.day, budget_holds.c.member)
)
_DROP_HOLDS: Final = Query(delete(budget_holds).where(*_HELD))

# A write that is under way may yet fail, and then nobody has been written to. An attempt whose row is gone had ended.
_DONE: Final[tuple[ColumnElement[str], ...]] = (literal_column("'succeeded'"), literal_column("'unknown'"))
_WRITTEN_TO: Final = (
    select(recipients.c.recipient)
    .select_from(recipients.outerjoin(attempts, attempts.c.id == recipients.c.attempt_id))
    .where(or_(attempts.c.id.is_(None), attempts.c.status.in_(_DONE)))
)
_KNOWN: Final = Query(
    _WRITTEN_TO.where(recipients.c.workspace_id == bindparam("w"), recipients.c.recipient == bindparam("which"))
)
_REMEMBER: Final = Query(insert(recipients))
_FORGET: Final = Query(
    delete(recipients).where(
        recipients.c.attempt_id == bindparam("attempt"), recipients.c.workspace_id == bindparam("w")
    )
)
_REMEMBERED: Final = Query(
    select(recipients.c.recipient).where(
        recipients.c.attempt_id == bindparam("attempt"), recipients.c.workspace_id == bindparam("w")
    )
)


def take_turns(tx: Tx) -> None:
    """Wait until no other process counts; from here to the commit none does."""
    if tx.one(_LOCK) is None:
        raise StoreUnavailable("the row that guards the places of attempts is gone")


class BudgetUse:
    """What the budgets of one workspace have counted. Callers of what changes it hold :func:`take_turns`."""

    def __init__(self, workspace_id: str) -> None:
        self._workspace = workspace_id

    def of_day(self, tx: Tx, budget_id: str, day: int) -> DayUse:
        """Return what a budget has used in a day."""
        return _use(tx.one(_USE, budget=budget_id, on_day=day))

    def counts(self, tx: Tx, budget_id: str, day: int, member: str) -> bool:
        """Say whether a member has been counted in that day."""
        return tx.one(_COUNTS, budget=budget_id, on_day=day, which=member) is not None

    def is_known(self, tx: Tx, recipient: str) -> bool:
        """Say whether a write to this recipient has succeeded, or may have."""
        return tx.one(_KNOWN, w=self._workspace, which=recipient) is not None

    def held(self, tx: Tx, attempt_id: str, day: int) -> set[tuple[str, str]]:
        """Return what an attempt has taken before, of that day, as budgets and members."""
        rows = tx.all(_HOLDS, attempt=attempt_id, w=self._workspace)
        return {(budget_id, member) for budget_id, on_day, member, _ in rows if on_day == day}

    def remembered(self, tx: Tx, attempt_id: str) -> set[str]:
        """Return to whom an attempt has been noted to write."""
        return {row[0] for row in tx.all(_REMEMBERED, attempt=attempt_id, w=self._workspace)}

    def take(self, tx: Tx, attempt_id: str, day: int, holds: Sequence[Hold]) -> None:
        """Count what an attempt takes. A member that counts already is held by one more attempt and counts no more."""
        until = (day + KEPT_DAYS) * DAY
        for hold in holds:
            more = hold.amount
            if hold.member:
                more = 1 if self._hold_member(tx, hold, day, until) else 0
            self._add(tx, hold.budget_id, day, more, until)
            tx.run(
                _NEW_HOLD,
                attempt_id=attempt_id,
                budget_id=hold.budget_id,
                day=day,
                member=hold.member,
                workspace_id=self._workspace,
                amount=hold.amount,
                expires_at=until,
            )

    def report(self, tx: Tx, budget_id: str, day: int, moment: int, *, exhausted: bool) -> bool:
        """Note that a crossing is being reported; False when it has been before, that day."""
        query = _REPORT_EXHAUSTED if exhausted else _REPORT_NEARLY
        return tx.run(query, budget=budget_id, on_day=day, moment=moment) == 1

    def remember(self, tx: Tx, attempt_id: str, recipients: Iterable[str]) -> None:
        """Note to whom an attempt writes."""
        rows = [
            {"workspace_id": self._workspace, "recipient": recipient, "attempt_id": attempt_id}
            for recipient in recipients
        ]
        tx.many(_REMEMBER, rows)

    def release(self, tx: Tx, attempt_id: str) -> None:
        """Give back whatever an attempt took, and forget to whom it wrote; harmless when there is nothing."""
        if self.remembered(tx, attempt_id):
            tx.run(_FORGET, attempt=attempt_id, w=self._workspace)
        if not tx.all(_HOLDS, attempt=attempt_id, w=self._workspace):
            return
        take_turns(tx)
        for budget_id, day, member, amount in tx.all(_HOLDS, attempt=attempt_id, w=self._workspace):
            less = amount
            if member:
                place = {"budget": budget_id, "on_day": day, "which": member}
                tx.run(_HOLD_MEMBER, **place, more=-1)
                less = tx.run(_DROP_MEMBER, **place)
            tx.run(_ADD_USE, budget=budget_id, on_day=day, more=-less)
        tx.run(_DROP_HOLDS, attempt=attempt_id, w=self._workspace)

    def _hold_member(self, tx: Tx, hold: Hold, day: int, until: int) -> bool:
        """Return whether the member is new that day."""
        place = {"budget": hold.budget_id, "on_day": day, "which": hold.member}
        if tx.run(_HOLD_MEMBER, **place, more=1) == 1:
            return False
        tx.run(
            _NEW_MEMBER,
            budget_id=hold.budget_id,
            day=day,
            member=hold.member,
            workspace_id=self._workspace,
            holders=1,
            expires_at=until,
        )
        return True

    def _add(self, tx: Tx, budget_id: str, day: int, more: int, until: int) -> None:
        if tx.run(_ADD_USE, budget=budget_id, on_day=day, more=more) == 0:
            tx.run(
                _NEW_DAY,
                budget_id=budget_id,
                day=day,
                workspace_id=self._workspace,
                used=more,
                nearly_used_at=None,
                exhausted_at=None,
                expires_at=until,
            )

    async def read_day(self, reader: Reader, day: int) -> dict[str, int]:
        """Return what each budget of the workspace has used in a day; those that used nothing are left out."""
        rows = await reader.all(
            select(budget_days.c.budget_id, budget_days.c.used).where(
                budget_days.c.workspace_id == self._workspace, budget_days.c.day == day
            )
        )
        return {row.budget_id: row.used for row in rows}

    async def read_members(self, reader: Reader, budget_id: str, day: int, members: Sequence[str]) -> set[str]:
        """Return those of ``members`` that have been counted in that day."""
        found: set[str] = set()
        for start in range(0, len(members), _AT_ONCE):
            rows = await reader.all(
                select(budget_members.c.member).where(
                    budget_members.c.budget_id == budget_id,
                    budget_members.c.day == day,
                    budget_members.c.member.in_(members[start : start + _AT_ONCE]),
                )
            )
            found.update(row.member for row in rows)
        return found

    async def read_known(self, reader: Reader, members: Sequence[str]) -> set[str]:
        """Return those recipients that :meth:`is_known` knows."""
        found: set[str] = set()
        for start in range(0, len(members), _AT_ONCE):
            some = members[start : start + _AT_ONCE]
            rows = await reader.all(
                _WRITTEN_TO.where(recipients.c.workspace_id == self._workspace, recipients.c.recipient.in_(some))
            )
            found.update(row.recipient for row in rows)
        return found


def _use(row: tuple[Any, ...] | None) -> DayUse:
    return DayUse() if row is None else DayUse(row[0], row[1] is not None, row[2] is not None)
