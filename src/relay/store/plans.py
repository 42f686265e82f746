"""Plans: bound to one workspace and principal, executed once, expiring."""

from dataclasses import dataclass

from sqlalchemy import bindparam, insert, select, update

from relay.store.query import Query
from relay.store.reader import Reader
from relay.store.tables import plans
from relay.store.writer import Tx


@dataclass(frozen=True, slots=True)
class PlanRow:
    """A plan without its steps, which lie in the envelope of the same id; times in microseconds."""

    id: str
    workspace_id: str
    principal_id: str
    planner: str
    digest: str
    created_at: int
    expires_at: int
    used_at: int | None = None


_COLUMNS = [plans.c[name] for name in PlanRow.__dataclass_fields__]
_INSERT = Query(insert(plans))
_LOCK = Query(
    select(*_COLUMNS)
    .where(
        plans.c.id == bindparam("plan"),
        plans.c.workspace_id == bindparam("w"),
        plans.c.principal_id == bindparam("p"),
    )
    .with_for_update()
)
_USE = Query(
    update(plans)
    .where(
        plans.c.id == bindparam("plan"),
        plans.c.workspace_id == bindparam("w"),
        plans.c.principal_id == bindparam("p"),
        plans.c.used_at.is_(None),
    )
    .values(used_at=bindparam("at"))
)


class PlanRepository:
    """The plans of one principal in one workspace."""

    def __init__(self, workspace_id: str, principal_id: str) -> None:
        self._workspace = workspace_id
        self._principal = principal_id

    def insert(self, tx: Tx, row: PlanRow) -> None:
        """Insert a fresh plan, under this repository's workspace and principal."""
        values = {name: getattr(row, name) for name in PlanRow.__dataclass_fields__}
        tx.run(_INSERT, **{**values, "workspace_id": self._workspace, "principal_id": self._principal})

    def lock(self, tx: Tx, plan_id: str) -> PlanRow | None:
        """Return a plan of this principal, unchanged by others until the transaction ends, or None."""
        row = tx.one(_LOCK, plan=plan_id, w=self._workspace, p=self._principal)
        return PlanRow(*row) if row else None

    def use(self, tx: Tx, plan_id: str, at: int) -> bool:
        """Use the plan up; return whether it was unused."""
        return tx.run(_USE, plan=plan_id, w=self._workspace, p=self._principal, at=at) == 1

    async def find(self, reader: Reader, plan_id: str) -> PlanRow | None:
        """Return a plan of this principal, or None."""
        row = await reader.one(
            select(*_COLUMNS).where(
                plans.c.id == plan_id,
                plans.c.workspace_id == self._workspace,
                plans.c.principal_id == self._principal,
            )
        )
        return PlanRow(*row) if row else None
