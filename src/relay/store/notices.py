"""Notices that are given once: a row remembers each until it would not be given again anyway."""

from typing import Final

from sqlalchemy import bindparam, insert, select

from relay.store.query import Query
from relay.store.tables.webhooks_out import webhook_notices
from relay.store.writer import Tx

_FIND: Final = Query(
    select(webhook_notices.c.subject).where(
        webhook_notices.c.workspace_id == bindparam("ws"), webhook_notices.c.subject == bindparam("about")
    )
)
_INSERT: Final = Query(insert(webhook_notices))


def first_time(tx: Tx, workspace_id: str, subject: str, expires_at: int) -> bool:
    """Say whether nobody has given this notice yet, and remember that it is given now."""
    if tx.one(_FIND, ws=workspace_id, about=subject) is not None:
        return False
    tx.run(_INSERT, workspace_id=workspace_id, subject=subject, expires_at=expires_at)
    return True
