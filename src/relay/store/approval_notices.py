"""Mails about approvals that are still to be sent: claimed under a lease, tried again, deleted when they are done."""

from dataclasses import dataclass

from sqlalchemy import bindparam, delete, insert, select, update

from relay.store.query import Query
from relay.store.reader import Reader
from relay.store.tables.approvals import approval_notices
from relay.store.writer import Tx


@dataclass(frozen=True, slots=True)
class NoticeRow:
    """A mail to be sent. It is due at ``due_at`` (microseconds), which moves on with every claim and every failure."""

    approval_id: str
    workspace_id: str
    created_at: int
    due_at: int
    tries: int


_COLUMNS = [approval_notices.c[name] for name in NoticeRow.__dataclass_fields__]
_THIS = (approval_notices.c.approval_id == bindparam("approval"), approval_notices.c.due_at == bindparam("was_due"))
_INSERT = Query(insert(approval_notices))
_MOVE = Query(update(approval_notices).where(*_THIS).values(due_at=bindparam("next_due"), tries=bindparam("number")))
_DELETE = Query(delete(approval_notices).where(*_THIS))


def add_notice(tx: Tx, row: NoticeRow) -> None:
    """Add a mail, in the transaction that makes the request."""
    tx.run(
        _INSERT,
        approval_id=row.approval_id,
        workspace_id=row.workspace_id,
        created_at=row.created_at,
        due_at=row.due_at,
        tries=row.tries,
    )


def move_notice(tx: Tx, row: NoticeRow, *, due_at: int, tries: int) -> bool:
    """Make a mail due at another time if it is still due when ``row`` says; return whether it was."""
    return tx.run(_MOVE, approval=row.approval_id, was_due=row.due_at, next_due=due_at, number=tries) == 1


def drop_notice(tx: Tx, row: NoticeRow) -> bool:
    """Forget a mail that has been sent or given up; return whether it was still this process's."""
    return tx.run(_DELETE, approval=row.approval_id, was_due=row.due_at) == 1


async def due_notices(reader: Reader, at: int, limit: int) -> list[NoticeRow]:
    """Return mails of every workspace that are due, the longest due first."""
    rows = await reader.all(
        select(*_COLUMNS).where(approval_notices.c.due_at <= at).order_by(approval_notices.c.due_at).limit(limit)
    )
    return [NoticeRow(*row) for row in rows]
