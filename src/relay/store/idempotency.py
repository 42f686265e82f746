"""Idempotency keys: one per workspace and caller, bound to what was asked and to what it led to.

An API key and the keys that take its place by rotation are one caller. So an entry of a successor is kept twice: under
its own id, and under that of the first key of its line, where whichever of them asks at the same time meets it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import bindparam, delete, insert, select

from relay.store.query import Query
from relay.store.reader import Reader
from relay.store.tables import idempotency
from relay.store.writer import Tx

_INSERT = Query(insert(idempotency))
_FIND = Query(
    select(idempotency.c.fingerprint, idempotency.c.subject_id).where(
        idempotency.c.workspace_id == bindparam("w"),
        idempotency.c.principal_id == bindparam("p"),
        idempotency.c.key_hash == bindparam("k"),
        idempotency.c.expires_at > bindparam("at"),
    )
)
_DROP_EXPIRED = Query(
    delete(idempotency).where(
        idempotency.c.workspace_id == bindparam("w"),
        idempotency.c.principal_id == bindparam("p"),
        idempotency.c.key_hash == bindparam("k"),
        idempotency.c.expires_at <= bindparam("at"),
    )
)


@dataclass(frozen=True, slots=True)
class Remembered:
    """What an idempotency key stands for: the request's fingerprint and the attempt or run that it made."""

    fingerprint: str
    subject_id: str


class IdempotencyRepository:
    """The idempotency keys of one caller in one workspace. Keys are stored as hashes.

    ``owners`` are the ids under which they are kept: the principal's, and that of the first key of its line.
    """

    def __init__(self, workspace_id: str, owners: Sequence[str]) -> None:
        self._workspace = workspace_id
        self._owners = tuple(owners)

    def find(self, tx: Tx, key_hash: str, at: int) -> Remembered | None:
        """Return what the key stands for at that time, or None."""
        for owner in self._owners:
            row = tx.one(_FIND, w=self._workspace, p=owner, k=key_hash, at=at)
            if row is not None:
                return Remembered(*row)
        return None

    async def look_up(self, reader: Reader, key_hash: str, at: int) -> Remembered | None:
        """Return what the key stands for at that time, or None, outside a transaction."""
        for owner in self._owners:
            row = await reader.one(
                select(idempotency.c.fingerprint, idempotency.c.subject_id).where(
                    idempotency.c.workspace_id == self._workspace,
                    idempotency.c.principal_id == owner,
                    idempotency.c.key_hash == key_hash,
                    idempotency.c.expires_at > at,
                )
            )
            if row is not None:
                return Remembered(*row)
        return None

    def remember(self, tx: Tx, *, key_hash: str, fingerprint: str, subject_id: str, at: int, expires_at: int) -> None:
        """Bind the key. A live binding makes the database refuse; the unit then runs again and finds it."""
        for owner in self._owners:
            tx.run(_DROP_EXPIRED, w=self._workspace, p=owner, k=key_hash, at=at)
            tx.run(
                _INSERT,
                workspace_id=self._workspace,
                principal_id=owner,
                key_hash=key_hash,
                fingerprint=fingerprint,
                subject_id=subject_id,
                expires_at=expires_at,
            )
