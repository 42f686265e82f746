"""How much a principal has done: its attempts, counted over windows of time that their ids are ranges of."""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Integer, ScalarSelect, Select, func, literal_column, select, union_all

from relay.core.clock import DAY, HOUR
from relay.core.ids import first_id
from relay.store.reader import Reader
from relay.store.tables import api_keys, attempts

MOST_COUNTED: Final = 10_000
"""Where every count ends, so that none costs more than reading so many rows."""

# What never changes stands in the statement's text, where PostgreSQL's plan for any values can reckon with it.
_COUNTED: Final[list[ColumnElement[str]]] = [
    literal_column(f"'{status}'")
    for status in ("pending_approval", "ready", "running", "succeeded", "failed", "unknown")
]
_LIMIT: Final = literal_column(str(MOST_COUNTED), Integer)


@dataclass(frozen=True, slots=True)
class Counts:
    """What a principal has attempted; 10,000 stands for that many or more.

    ``actions_today`` is of the UTC day, ``same_action_today`` of one action in it, ``actions_last_hour`` of the sixty
    minutes before. Counted is what has begun, whatever became of it, or still waits; not what ended before it began.
    """

    actions_today: int = 0
    actions_last_hour: int = 0
    same_action_today: int = 0


class AttemptCounts:
    """Counts attempts, anew each time: what another process has just written is in it."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def counted(
        self, workspace_id: str, principal_id: str, action: str, *, at: int, asked_at: int | None = None
    ) -> Counts:
        """Return what a principal of a workspace has attempted at ``at``, in microseconds, its child tokens included.

        With ``asked_at`` it is what it had attempted before that moment, in whose day and hour it is counted then:
        neither a step that was asked for at that moment nor what came after it is in it.
        :class:`~relay.store.writer.StoreUnavailable` when nothing can be counted.
        """
        row = await self._reader.one(counting(workspace_id, principal_id, action, at=at, asked_at=asked_at))
        return Counts() if row is None else Counts(*row)


def counting(
    workspace_id: str, principal_id: str, action: str, *, at: int, asked_at: int | None
) -> Select[tuple[int, ...]]:
    """Return the statement whose one row is the fields of :class:`Counts`."""
    moment = at if asked_at is None else asked_at
    counted = [attempts.c.workspace_id == workspace_id, attempts.c.status.in_(_COUNTED)]
    if asked_at is not None:
        counted.append(attempts.c.id < first_id("att", asked_at))
    today = attempts.c.id >= first_id("att", moment - moment % DAY)
    last_hour = attempts.c.id >= first_id("att", max(0, moment - HOUR))
    return select(
        _count(principal_id, *counted, today),
        _count(principal_id, *counted, last_hour),
        _count(principal_id, *counted, today, attempts.c.action == action),
    )


def _count(principal_id: str, *conditions: ColumnElement[bool]) -> ScalarSelect[Any]:
    one: ColumnElement[int] = literal_column("1", Integer)
    own = select(one).select_from(attempts).where(attempts.c.principal_id == principal_id, *conditions)
    of_children = (
        select(one)
        .select_from(api_keys.join(attempts, attempts.c.principal_id == api_keys.c.id))
        .where(api_keys.c.parent_id == principal_id, *conditions)
    )
    some = union_all(own, of_children).limit(_LIMIT).subquery()
    return select(func.count()).select_from(some).scalar_subquery()
