"""Where everything stored secret lives: one row per envelope, so that rotation, purge and erasure have one place."""

from sqlalchemy import bindparam, delete, select

from relay.store.query import Query
from relay.store.reader import Reader
from relay.store.tables import envelopes
from relay.store.writer import Tx

_DELETE = Query(
    delete(envelopes).where(
        envelopes.c.purpose == bindparam("p"),
        envelopes.c.record_id == bindparam("r"),
        envelopes.c.workspace_id == bindparam("w"),
    )
)
_EXISTS = Query(
    select(envelopes.c.record_id).where(
        envelopes.c.purpose == bindparam("p"),
        envelopes.c.record_id == bindparam("r"),
        envelopes.c.workspace_id == bindparam("w"),
    )
)


class EnvelopeRepository:
    """The envelopes of one workspace (the empty name is the installation's own)."""

    def __init__(self, workspace_id: str) -> None:
        self._workspace = workspace_id

    def drop(self, tx: Tx, *, purpose: str, record_id: str) -> bool:
        """Delete an envelope; return whether there was one."""
        return tx.run(_DELETE, p=purpose, r=record_id, w=self._workspace) > 0

    def exists(self, tx: Tx, *, purpose: str, record_id: str) -> bool:
        """Say whether the envelope is there."""
        return tx.one(_EXISTS, p=purpose, r=record_id, w=self._workspace) is not None

    async def get(self, reader: Reader, *, purpose: str, record_id: str) -> bytes | None:
        """Return a sealed body, or None when it is not there or was purged."""
        row = await reader.one(
            select(envelopes.c.body).where(
                envelopes.c.purpose == purpose,
                envelopes.c.record_id == record_id,
                envelopes.c.workspace_id == self._workspace,
            )
        )
        return bytes(row[0]) if row else None
