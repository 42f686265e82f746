"""Peppers as rows: sealed, few, the newest first."""

from typing import Final

from sqlalchemy import bindparam, insert, select

from relay.store.query import Query
from relay.store.reader import Reader
from relay.store.tables import generations, peppers
from relay.store.writer import Tx

_LIVE: Final = (
    select(peppers.c.id, peppers.c.envelope).where(peppers.c.retired_at.is_(None)).order_by(peppers.c.id.desc())
)
_ANY: Final = Query(select(peppers.c.id))
_LOCK: Final = Query(select(generations.c.value).where(generations.c.name == "keys").with_for_update())
_ADD: Final = Query(
    insert(peppers).values(id=bindparam("id"), envelope=bindparam("envelope"), created_at=bindparam("now"))
)


async def live_peppers(reader: Reader, limit: int) -> list[tuple[str, bytes]]:
    """Return (id, envelope) of up to ``limit`` peppers that are not retired, the newest first."""
    return [(row.id, bytes(row.envelope)) for row in await reader.all(_LIVE.limit(limit))]


def add_first_pepper(tx: Tx, pepper_id: str, envelope: bytes, now: int) -> bool:
    """Insert a pepper unless there ever was one; return whether it was inserted. Of several processes one wins."""
    tx.one(_LOCK)  # on PostgreSQL two starting processes would each see an empty table
    if tx.one(_ANY) is not None:
        return False
    tx.run(_ADD, id=pepper_id, envelope=envelope, now=now)
    return True
