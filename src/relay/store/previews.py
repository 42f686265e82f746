"""Previews: bound to one workspace and principal, used once, expiring."""

from dataclasses import dataclass

from sqlalchemy import bindparam, insert, select, update

from relay.store.query import Query
from relay.store.reader import Reader
from relay.store.tables import previews
from relay.store.writer import Tx

_INSERT = Query(insert(previews))
_CONSUME = Query(
    update(previews)
    .where(
        previews.c.id == bindparam("preview"),
        previews.c.workspace_id == bindparam("w"),
        previews.c.principal_id == bindparam("p"),
        previews.c.used_at.is_(None),
        previews.c.expires_at > bindparam("at"),
    )
    .values(used_at=bindparam("at"))
)
_USABLE = Query(
    select(previews.c.id).where(
        previews.c.id == bindparam("preview"),
        previews.c.workspace_id == bindparam("w"),
        previews.c.principal_id == bindparam("p"),
        previews.c.used_at.is_(None),
        previews.c.expires_at > bindparam("at"),
    )
)


@dataclass(frozen=True, slots=True)
class PreviewRow:
    """A preview as it is stored; times in microseconds."""

    id: str
    action: str
    version: int
    nonce: str
    digest: str
    expires_at: int
    used_at: int | None


_COLUMNS = [previews.c[name] for name in PreviewRow.__dataclass_fields__]


class PreviewRepository:
    """The previews of one principal in one workspace."""

    def __init__(self, workspace_id: str, principal_id: str) -> None:
        self._workspace = workspace_id
        self._principal = principal_id

    def insert(
        self, tx: Tx, *, id: str, action: str, version: int, nonce: str, digest: str, created_at: int, expires_at: int
    ) -> None:
        """Insert a fresh preview."""
        tx.run(
            _INSERT,
            id=id,
            workspace_id=self._workspace,
            principal_id=self._principal,
            action=action,
            version=version,
            nonce=nonce,
            digest=digest,
            created_at=created_at,
            expires_at=expires_at,
            used_at=None,
        )

    def usable(self, tx: Tx, preview_id: str, at: int) -> bool:
        """Say whether the preview is unused and not expired."""
        return tx.one(_USABLE, preview=preview_id, w=self._workspace, p=self._principal, at=at) is not None

    def consume(self, tx: Tx, preview_id: str, at: int) -> bool:
        """Use the preview up; return whether it could be."""
        return tx.run(_CONSUME, preview=preview_id, w=self._workspace, p=self._principal, at=at) == 1

    async def get(self, reader: Reader, preview_id: str) -> PreviewRow | None:
        """Return a preview of this principal, or None."""
        row = await reader.one(
            select(*_COLUMNS).where(
                previews.c.id == preview_id,
                previews.c.workspace_id == self._workspace,
                previews.c.principal_id == self._principal,
            )
        )
        return PreviewRow(*row) if row else None
