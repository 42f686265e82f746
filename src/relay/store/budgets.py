"""Budgets as they are set: a repository bound to one workspace."""

from dataclasses import dataclass, fields
from typing import Final, Literal

from sqlalchemy import bindparam, delete, func, insert, select, update

from relay.store.query import Query
from relay.store.reader import Reader
from relay.store.tables import generations
from relay.store.tables.budgets import budgets
from relay.store.writer import Tx

BudgetScope = Literal["workspace", "key"]
Measure = Literal["actions", "new_recipients", "hosts", "sum"]


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be used in a UTC day: at most ``most`` of ``measure``, by a workspace or by a key and all it made.

    ``connector`` and ``action`` narrow it to what they name; empty is any. ``field`` is what a sum adds up, empty for
    every other measure.
    """

    id: str
    workspace_id: str
    scope: BudgetScope
    subject: str
    connector: str
    action: str
    measure: Measure
    field: str
    most: int
    created_by: str
    created_at: int


_COLUMNS: Final = [budgets.c[field.name] for field in fields(Budget)]
_ONE_OF_A_KIND: Final = ("scope", "subject", "connector", "action", "measure", "field")
_MINE: Final = (budgets.c.workspace_id == bindparam("w"), budgets.c.id == bindparam("which"))

_FIND: Final = Query(select(*_COLUMNS).where(*_MINE).with_for_update())
_TWIN: Final = Query(
    select(budgets.c.id).where(
        budgets.c.workspace_id == bindparam("w"),
        *(budgets.c[name] == bindparam(f"its_{name}") for name in _ONE_OF_A_KIND),
    )
)
_COUNT: Final = Query(select(func.count()).where(budgets.c.workspace_id == bindparam("w")))
_ADD: Final = Query(insert(budgets))
_SET: Final = Query(update(budgets).where(*_MINE).values(most=bindparam("new_most")))
_REMOVE: Final = Query(delete(budgets).where(*_MINE))
_BUMP: Final = Query(update(generations).where(generations.c.name == "budgets").values(value=generations.c.value + 1))


class BudgetRepository:
    """The budgets of one workspace. Every change voids the caches of every process once it has been committed."""

    def __init__(self, workspace_id: str) -> None:
        self._workspace = workspace_id

    def find(self, tx: Tx, budget_id: str) -> Budget | None:
        """Return a budget, locked until the transaction ends, or None."""
        row = tx.one(_FIND, w=self._workspace, which=budget_id)
        return Budget(*row) if row else None

    def twin_of(self, tx: Tx, budget: Budget) -> str | None:
        """Return the id of the budget that bounds the very same thing, or None."""
        row = tx.one(_TWIN, w=self._workspace, **{f"its_{name}": getattr(budget, name) for name in _ONE_OF_A_KIND})
        return row[0] if row else None

    def count(self, tx: Tx) -> int:
        """Return how many budgets the workspace has."""
        row = tx.one(_COUNT, w=self._workspace)
        return int(row[0]) if row else 0

    def add(self, tx: Tx, budget: Budget) -> None:
        """Insert a budget; ValueError for one of another workspace."""
        if budget.workspace_id != self._workspace:
            raise ValueError("the budget belongs to another workspace")
        tx.run(_ADD, **{field.name: getattr(budget, field.name) for field in fields(budget)})
        tx.run(_BUMP)

    def set_most(self, tx: Tx, budget_id: str, most: int) -> None:
        """Change how much may be used."""
        tx.run(_SET, w=self._workspace, which=budget_id, new_most=most)
        tx.run(_BUMP)

    def remove(self, tx: Tx, budget_id: str) -> None:
        """Delete a budget."""
        tx.run(_REMOVE, w=self._workspace, which=budget_id)
        tx.run(_BUMP)

    async def all(self, reader: Reader) -> list[Budget]:
        """Return the workspace's budgets, oldest first."""
        rows = await reader.all(
            select(*_COLUMNS).where(budgets.c.workspace_id == self._workspace).order_by(budgets.c.id)
        )
        return [Budget(*row) for row in rows]
