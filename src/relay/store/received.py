"""Webhooks that were received: one row for each verified event, and receipts by which a second copy is found."""

from dataclasses import astuple, dataclass, fields
from typing import Final

from sqlalchemy import and_, bindparam, insert, select, update

from relay.store.query import Query
from relay.store.reader import Reader
from relay.store.tables.webhooks_in import webhook_events, webhook_receipts
from relay.store.writer import Tx

BODY_PURPOSE: Final = "webhook_event"


@dataclass(frozen=True, slots=True)
class ReceivedRow:
    """A verified event without its body, which is the envelope of the same id; times in microseconds.

    ``type`` is what the sender says that it is. ``signed_id`` and ``signed_at`` are None where the scheme signs none.
    """

    id: str
    workspace_id: str
    receiver_id: str
    receiver_name: str
    scheme: str
    type: str
    content_type: str
    size: int
    signed_id: str | None
    signed_at: int | None
    unsigned: int
    request_id: str
    received_at: int
    expires_at: int


_COLUMNS: Final = [webhook_events.c[field.name] for field in fields(ReceivedRow)]
_INSERT: Final = Query(insert(webhook_events))
_THIS_RECEIPT: Final = and_(
    webhook_receipts.c.receiver_id == bindparam("rcv"), webhook_receipts.c.mark == bindparam("seen")
)
_RECEIPT: Final = Query(
    select(webhook_receipts.c.event_id, webhook_receipts.c.expires_at).where(_THIS_RECEIPT).with_for_update()
)
_INSERT_RECEIPT: Final = Query(insert(webhook_receipts))
_RENEW_RECEIPT: Final = Query(
    update(webhook_receipts).where(_THIS_RECEIPT).values(event_id=bindparam("event"), expires_at=bindparam("until"))
)


class ReceivedRepository:
    """What one workspace has received."""

    def __init__(self, workspace_id: str) -> None:
        self._workspace = workspace_id

    def insert(self, tx: Tx, row: ReceivedRow) -> None:
        """Insert a verified event under this repository's workspace."""
        values = {field.name: value for field, value in zip(fields(row), astuple(row), strict=True)}
        tx.run(_INSERT, **{**values, "workspace_id": self._workspace})

    async def find(self, reader: Reader, event_id: str) -> ReceivedRow | None:
        """Return an event, or None."""
        row = await reader.one(
            select(*_COLUMNS).where(webhook_events.c.id == event_id, webhook_events.c.workspace_id == self._workspace)
        )
        return ReceivedRow(*row) if row else None

    async def page(
        self, reader: Reader, *, before: str | None, limit: int, receiver_id: str | None, kind: str | None
    ) -> list[ReceivedRow]:
        """Return events, newest first, those older than the event ``before`` if one is given."""
        query = select(*_COLUMNS).where(webhook_events.c.workspace_id == self._workspace)
        for column, wanted in ((webhook_events.c.receiver_id, receiver_id), (webhook_events.c.type, kind)):
            if wanted is not None:
                query = query.where(column == wanted)
        if before is not None:
            query = query.where(webhook_events.c.id < before)
        rows = await reader.all(query.order_by(webhook_events.c.id.desc()).limit(limit))
        return [ReceivedRow(*row) for row in rows]


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where a receiver has put what bears this mark. After ``expires_at`` the mark is taken as new."""

    receiver_id: str
    mark: str
    event_id: str
    expires_at: int

    def take(self, tx: Tx, at: int) -> str | None:
        """Return the id of the event that came first under this mark, or take the mark and return None.

        Of two processes that take one mark at once, the slower one's insert fails, its unit runs again and finds it.
        """
        row = tx.one(_RECEIPT, rcv=self.receiver_id, seen=self.mark)
        if row is None:
            tx.run(
                _INSERT_RECEIPT,
                receiver_id=self.receiver_id,
                mark=self.mark,
                event_id=self.event_id,
                expires_at=self.expires_at,
            )
            return None
        if row[1] > at:
            return str(row[0])
        tx.run(_RENEW_RECEIPT, rcv=self.receiver_id, seen=self.mark, event=self.event_id, until=self.expires_at)
        return None
