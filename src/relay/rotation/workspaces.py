"""The secrets of workspaces' receivers and endpoints: how old they are, and telling a workspace of its own.

Relay does not rotate them by itself: the other side has to learn the new one.
"""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Final

from relay.audit.record import event
from relay.core.clock import DAY, iso, now
from relay.crypto.envelope import EnvelopeError, Envelopes
from relay.rotation.ages import WARN_DAYS, Age
from relay.rotation.notices import DUE
from relay.store.database import Database
from relay.store.endpoints import PURPOSE, EndpointsOfAllWorkspaces
from relay.store.notices import first_time
from relay.store.reader import Reader
from relay.store.receivers import secrets_in_use
from relay.store.writer import Tx
from relay.webhooks.sealed import Sealed

RECEIVERS: Final = "webhook_receivers"
ENDPOINTS: Final = "webhook_endpoints"
_PAGE: Final = 100
_FOR_EVER: Final = 3650 * DAY

log = logging.getLogger("relay.rotation")


@dataclass(frozen=True, slots=True)
class Owned:
    """The age of the newest secret of a receiver or endpoint, whose id is the age's ``secret``.

    ``made_at`` is when that receiver's secret, or the endpoint, was made; nothing that follows is older than that.
    """

    workspace_id: str
    age: Age
    made_at: int


async def warn(database: Database, keys: Envelopes, *, period: int, at: int) -> None:
    """Record in its workspace, once before and once when it is due, that a secret in use should be rotated."""
    before = at - period + WARN_DAYS * DAY
    for found in (of_receivers(database.reader, before), of_endpoints(database.reader, keys, before)):
        async for owned in found:
            if (state := owned.age.state(at, period)) != "fresh":
                await database.writer.run(partial(_tell, owned, state, iso(owned.age.since + period), at + _FOR_EVER))


async def oldest(reader: Reader, keys: Envelopes) -> dict[str, Age]:
    """Return the oldest secret in use of all receivers and of all endpoints, by the name of its metric."""
    at = now()
    found = {
        RECEIVERS: await _oldest(of_receivers(reader, at)),
        ENDPOINTS: await _oldest(of_endpoints(reader, keys, at)),
    }
    return {name: age for name, age in found.items() if age is not None}


async def of_receivers(reader: Reader, before: int) -> AsyncGenerator[Owned, None]:
    """Yield the newest secret of each enabled receiver that was made up to ``before``, those made first first."""
    after = ""
    while rows := await secrets_in_use(reader, before=before, after=after, most=_PAGE):
        for row in rows:
            yield Owned(row.workspace_id, Age(row.receiver_id, row.id, row.created_at), row.created_at)
        after = rows[-1].id


async def of_endpoints(reader: Reader, keys: Envelopes, before: int) -> AsyncGenerator[Owned, None]:
    """Yield the newest secret of each enabled endpoint that was made up to ``before``, the first endpoint first."""
    after = ""
    while rows := await EndpointsOfAllWorkspaces.sealed_in_use(reader, before=before, after=after, most=_PAGE):
        for id, workspace, made_at, body in rows:
            try:
                plain = keys.open(body, workspace=workspace, purpose=PURPOSE, record=id)
            except EnvelopeError as error:
                log.error("the secrets of the endpoint %s do not open: %s", id, error)
                continue
            newest = Sealed.unpack(plain).secrets[0]
            # Where it was not noted when it was made, it is no older than its endpoint.
            since = made_at if newest.since is None else newest.since
            yield Owned(workspace, Age(id, f"{id}.{since}", since), made_at)
        after = rows[-1][0]


async def _oldest(found: AsyncGenerator[Owned, None]) -> Age | None:
    oldest: Age | None = None
    async with aclosing(found):
        async for owned in found:
            if oldest is None or owned.age.since < oldest.since:
                oldest = owned.age
            elif owned.made_at >= oldest.since:
                break  # nothing that follows was made earlier
    return oldest


def _tell(owned: Owned, state: str, due_at: str, until: int, tx: Tx) -> None:
    if first_time(tx, owned.workspace_id, f"secret:{owned.age.id}:{state}", until):
        told = {"name": owned.age.secret, "state": state, "due_at": due_at}
        tx.record(event(DUE, workspace_id=owned.workspace_id, target=owned.age.secret, outcome=state, notice=told))
