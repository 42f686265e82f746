"""Peppers as rows: sealed, few, the current one first."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from sqlalchemy import bindparam, func, insert, select, update

from relay.store.query import Query
from relay.store.reader import Reader
from relay.store.tables import api_keys, generations, peppers
from relay.store.writer import Tx

_LIVE: Final = (
    select(peppers.c.id, peppers.c.envelope, peppers.c.current_at)
    .where(peppers.c.retired_at.is_(None))
    # One that is not current yet is held by every process before the first key is hashed with it.
    .order_by(func.coalesce(peppers.c.current_at, 0).desc(), peppers.c.id.desc())
)
_ANY: Final = Query(select(peppers.c.id))
_LOCK: Final = Query(select(generations.c.value).where(generations.c.name == "keys").with_for_update())
_ADD: Final = Query(
    insert(peppers).values(
        id=bindparam("id"), envelope=bindparam("envelope"), created_at=bindparam("now"), current_at=bindparam("now")
    )
)
_REHASH: Final = Query(
    update(api_keys)
    .where(api_keys.c.id == bindparam("key"), api_keys.c.hash == bindparam("before"))
    .values(hash=bindparam("after"), pepper_id=bindparam("pepper"))
)


class Rehash(NamedTuple):
    """A key that was found by its hash under one pepper, and its hash under the current one."""

    key_id: str
    before: str
    after: str
    pepper_id: str


class StoredPepper(NamedTuple):
    """A pepper that is not retired; ``used`` says whether keys have ever been hashed with it."""

    id: str
    envelope: bytes
    used: bool


async def live_peppers(reader: Reader, limit: int) -> list[StoredPepper]:
    """Return up to ``limit`` peppers that are not retired, the current one first."""
    rows = await reader.all(_LIVE.limit(limit))
    return [StoredPepper(row.id, bytes(row.envelope), row.current_at is not None) for row in rows]


def add_first_pepper(tx: Tx, pepper_id: str, envelope: bytes, now: int) -> bool:
    """Insert a pepper unless there ever was one; return whether it was inserted. Of several processes one wins."""
    tx.one(_LOCK)  # on PostgreSQL two starting processes would each see an empty table
    if tx.one(_ANY) is not None:
        return False
    tx.run(_ADD, id=pepper_id, envelope=envelope, now=now)
    return True


def rehash(tx: Tx, changes: Sequence[Rehash]) -> None:
    """Put keys under the current pepper, those that still have the hash that they were found by."""
    tx.many(
        _REHASH,
        [{"key": one.key_id, "before": one.before, "after": one.after, "pepper": one.pepper_id} for one in changes],
    )
