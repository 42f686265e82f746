"""Idempotency keys: one per workspace and principal, bound to what was asked and to what it led to."""

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
    """The idempotency keys of one principal in one workspace. Keys are stored as hashes."""

    def __init__(self, workspace_id: str, principal_id: str) -> None:
        self._workspace = workspace_id
        self._principal = principal_id

    def find(self, tx: Tx, key_hash: str, at: int) -> Remembered | None:
        """Return what the key stands for at that time, or None."""
        row = tx.one(_FIND, w=self._workspace, p=self._principal, k=key_hash, at=at)
        return Remembered(*row) if row else None

    async def look_up(self, reader: Reader, key_hash: str, at: int) -> Remembered | None:
        """Return what the key stands for at that time, or None, outside a transaction."""
        row = await reader.one(
            select(idempotency.c.fingerprint, idempotency.c.subject_id).where(
                idempotency.c.workspace_id == self._workspace,
                idempotency.c.principal_id == self._principal,
                idempotency.c.key_hash == key_hash,
                idempotency.c.expires_at > at,
            )
        )
        return Remembered(*row) if row else None

    def remember(self, tx: Tx, *, key_hash: str, fingerprint: str, subject_id: str, at: int, expires_at: int) -> None:
        """Bind the key. A live binding makes the database refuse; the unit then runs again and finds it."""
        tx.run(_DROP_EXPIRED, w=self._workspace, p=self._principal, k=key_hash, at=at)
        tx.run(
            _INSERT,
            workspace_id=self._workspace,
            principal_id=self._principal,
            key_hash=key_hash,
            fingerprint=fingerprint,
            subject_id=subject_id,
            expires_at=expires_at,
        )
