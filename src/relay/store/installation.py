"""The installation's one row: its id, and check values that prove that every process holds the same keys."""

from dataclasses import dataclass, replace

from sqlalchemy import insert, select

from relay.store.query import Query
from relay.store.tables import installation
from relay.store.writer import Tx

_INSERT = Query(insert(installation))
_FIND = Query(
    select(
        installation.c.id, installation.c.secret_key_check, installation.c.kek_check, installation.c.created_at
    ).where(installation.c.one == 1)
)


@dataclass(frozen=True, slots=True)
class Installation:
    """Who this database belongs to. The check values reveal nothing about the keys."""

    id: str
    secret_key_check: str
    kek_check: str
    created_at: int = 0


def find_installation(tx: Tx) -> Installation | None:
    """Return the stored row, or None when there is none yet."""
    row = tx.one(_FIND)
    return Installation(*row) if row is not None else None


def ensure_installation(tx: Tx, fresh: Installation, at: int) -> Installation:
    """Return the stored row, storing ``fresh`` when there is none yet."""
    if (stored := find_installation(tx)) is not None:
        return stored
    tx.run(
        _INSERT,
        one=1,
        id=fresh.id,
        created_at=at,
        secret_key_check=fresh.secret_key_check,
        kek_check=fresh.kek_check,
        first_key_made_at=None,
    )
    return replace(fresh, created_at=at)
