"""What models have cost, in billionths of a US dollar: per principal and UTC day, and per chat session.

Writers take turns on the lock that guards the places of attempts (see :mod:`relay.store.budget_use`): a unit takes one
lock or none, so that no two of them can wait for each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import bindparam, insert, select, update

from relay.store.budget_use import take_turns
from relay.store.query import Query
from relay.store.tables.chat import model_spending
from relay.store.writer import Tx

_ROW: Final = (
    model_spending.c.workspace_id == bindparam("w"),
    model_spending.c.account == bindparam("who"),
    model_spending.c.scope == bindparam("what"),
)
_SPENT: Final = Query(select(model_spending.c.spent).where(*_ROW))
_ADD: Final = Query(
    update(model_spending)
    .where(*_ROW)
    .values(spent=model_spending.c.spent + bindparam("more"), expires_at=bindparam("until"))
)
_CORRECT: Final = Query(update(model_spending).where(*_ROW).values(spent=model_spending.c.spent + bindparam("more")))
_NEW: Final = Query(insert(model_spending))


@dataclass(frozen=True, slots=True)
class Pot:
    """What is spent from: ``scope`` is a UTC day or a session, ``limit`` what it may cost in all.

    ``account`` is whose it is; a session is its own.
    """

    account: str
    scope: str
    limit: int
    expires_at: int


class Spending:
    """What models have cost one workspace."""

    def __init__(self, workspace_id: str) -> None:
        self._workspace = workspace_id

    def short(self, tx: Tx, pots: Sequence[Pot], amount: int) -> Pot | None:
        """Return the first pot that has less than ``amount`` left, None where all have; nobody else spends meanwhile.

        To be called before the first write of a unit: until the commit no other process books.
        """
        take_turns(tx)
        return next((pot for pot in pots if self._spent(tx, pot) + amount > pot.limit), None)

    def book(self, tx: Tx, pots: Sequence[Pot], amount: int) -> None:
        """Spend ``amount`` of each pot; after :meth:`short`, in the same unit."""
        for pot in pots:
            place = {"w": self._workspace, "who": pot.account, "what": pot.scope}
            if tx.run(_ADD, **place, more=amount, until=pot.expires_at) == 0:
                tx.run(
                    _NEW,
                    workspace_id=self._workspace,
                    account=pot.account,
                    scope=pot.scope,
                    spent=amount,
                    expires_at=pot.expires_at,
                )

    def correct(self, tx: Tx, pots: Sequence[Pot], change: int) -> None:
        """Add ``change`` to what was booked; negative gives back. A pot that has had its time is left out."""
        take_turns(tx)
        for pot in pots:
            tx.run(_CORRECT, w=self._workspace, who=pot.account, what=pot.scope, more=change)

    def _spent(self, tx: Tx, pot: Pot) -> int:
        row = tx.one(_SPENT, w=self._workspace, who=pot.account, what=pot.scope)
        return 0 if row is None else int(row[0])
