"""Erasing the details of one event: the row stays, its chain holds, and the erasing is an event itself."""

from typing import Final

from sqlalchemy import bindparam, select

from relay.audit.details import PURPOSE
from relay.audit.record import event
from relay.store.database import Database
from relay.store.envelopes import EnvelopeRepository
from relay.store.query import Query
from relay.store.tables import audit_events
from relay.store.writer import Tx

_WORKSPACE_OF: Final = Query(select(audit_events.c.workspace_id).where(audit_events.c.id == bindparam("e")))


class NothingToErase(LookupError):
    """There is no such event, or it has no details, or they were erased before."""


async def erase_details(database: Database, event_id: str, *, principal: str, request_id: str) -> None:
    """Delete the details of any event, for ever; :class:`NothingToErase` otherwise. For the command line alone.

    Copies in backups and, until they are overwritten, in free pages of the database's files are out of its reach.
    """

    def unit(tx: Tx) -> None:
        found = tx.one(_WORKSPACE_OF, e=event_id)
        if found is None:
            raise NothingToErase(f"there is no event {event_id}")
        workspace = str(found[0])
        repository = EnvelopeRepository(workspace)
        if not repository.exists(tx, purpose=PURPOSE, record_id=event_id):
            raise NothingToErase(f"event {event_id} has no details")
        repository.drop(tx, purpose=PURPOSE, record_id=event_id)
        tx.record(
            event(
                "audit:details:erased",
                workspace_id=workspace,
                principal=principal,
                request_id=request_id,
                target=event_id,
            )
        )

    await database.writer.run(unit)
