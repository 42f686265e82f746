"""The log's rows in order, in pages, up to an end that was looked at once."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, select

from relay.audit.chain import COLUMNS, ChainBroken
from relay.store.reader import Reader
from relay.store.tables import audit_events, audit_head

PAGE_ROWS: Final = 200

Row = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The log's end at one moment: what the head row says, and what rows there are."""

    size: int
    head: str
    first: int | None
    last: int | None

    def check(self) -> None:
        """Refuse rows outside of what the head row covers, and a head row without its rows."""
        if self.first is not None and self.first < 1:
            raise ChainBroken(self.first, "stands before the first event")
        if self.last is not None and self.last > self.size:
            raise ChainBroken(self.size + 1, "lies beyond the head of the log")
        if (self.last or 0) < self.size:
            raise ChainBroken((self.last or 0) + 1, "is missing, with everything after it")


async def snapshot(reader: Reader) -> Snapshot:
    """Return the log's end in one consistent statement; :class:`ChainBroken` when the head row is gone."""
    first, last = (select(extreme(audit_events.c.seq)).scalar_subquery() for extreme in (func.min, func.max))
    row = await reader.one(select(audit_head.c.size, audit_head.c.hash, first, last).where(audit_head.c.one == 1))
    if row is None:
        raise ChainBroken(0, "the head of the log is missing")
    # SQLite stores any type in any column.
    if type(row[0]) is not int or type(row[1]) is not str or not {type(row[2]), type(row[3])} <= {int, type(None)}:
        raise ChainBroken(0, "the head of the log, or a sequence number, is no longer what it can be")
    return Snapshot(*row)


async def rows_between(reader: Reader, after: int, upto: int) -> AsyncIterator[Sequence[Row]]:
    """Yield pages of the rows with ``after`` < seq <= ``upto``, in order."""
    columns, seq = [audit_events.c[name] for name in COLUMNS], audit_events.c.seq
    while after < upto:
        page = await reader.all(select(*columns).where(seq > after, seq <= upto).order_by(seq).limit(PAGE_ROWS))
        if not page:
            return
        yield page
        after = page[-1][0]
