"""Decisions as rows, each with an envelope of what it was made upon; both go at the same time."""

from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import and_, insert, select, tuple_

from relay.store.query import Query
from relay.store.reader import Reader
from relay.store.tables import envelopes
from relay.store.tables.policy import decisions
from relay.store.writer import Tx

PURPOSE: Final = "decision"
DecisionKind = Literal["preview", "execute"]

_INSERT: Final = Query(insert(decisions))


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """A decision that was made; times in microseconds, ``other_person`` 0 or 1, ``attempt_id`` empty for none."""

    id: str
    occurred_at: int
    principal_id: str
    action: str
    kind: DecisionKind
    attempt_id: str
    effect: str
    approvers: int
    other_person: int
    policy_id: str
    policy_version: int
    expires_at: int


_FIELDS: Final = tuple(DecisionRow.__dataclass_fields__)
_COLUMNS: Final = tuple(decisions.c[name] for name in _FIELDS)


class DecisionRepository:
    """The decisions of one workspace."""

    def __init__(self, workspace_id: str) -> None:
        self._workspace = workspace_id

    def add(self, tx: Tx, row: DecisionRow) -> None:
        """Insert a decision; its envelope belongs into the same unit."""
        tx.run(_INSERT, workspace_id=self._workspace, **{name: getattr(row, name) for name in _FIELDS})

    async def page(
        self, reader: Reader, *, since: int, until: int, after: DecisionRow | None, limit: int
    ) -> list[tuple[DecisionRow, bytes | None]]:
        """Return decisions with their sealed inputs, newest first, from the one that follows ``after``.

        ``since`` is inclusive, ``until`` exclusive. None stands for inputs that have been purged.
        """
        sealed = and_(
            envelopes.c.purpose == PURPOSE,
            envelopes.c.record_id == decisions.c.id,
            envelopes.c.workspace_id == decisions.c.workspace_id,
        )
        statement = (
            select(*_COLUMNS, envelopes.c.body)
            .join_from(decisions, envelopes, sealed, isouter=True)
            .where(
                decisions.c.workspace_id == self._workspace,
                decisions.c.occurred_at >= since,
                decisions.c.occurred_at < until,
            )
            .order_by(decisions.c.occurred_at.desc(), decisions.c.id.desc())
            .limit(limit)
        )
        if after is not None:
            place = tuple_(decisions.c.occurred_at, decisions.c.id)
            statement = statement.where(place < tuple_(after.occurred_at, after.id))
        rows = await reader.all(statement)
        return [(DecisionRow(*row[:-1]), bytes(row[-1]) if row[-1] is not None else None) for row in rows]
