"""Deleting what has had its time: envelopes, previews, plans, idempotency keys, child tokens, received webhooks.

Rows that others point at stay.
"""

import asyncio
import logging
from typing import Any, Final

from sqlalchemy import Table, bindparam, delete, select, tuple_

from relay.core.clock import DAY, now
from relay.store.chat_removal import remove_expired_sessions
from relay.store.query import Query
from relay.store.tables import api_keys, envelopes, idempotency, plans, previews
from relay.store.tables.budgets import budget_days, budget_holds, budget_members
from relay.store.tables.chat import chat_calls, chat_entries, chat_turns, model_spending
from relay.store.tables.policy import decisions, policy_replays
from relay.store.tables.unusual import unusual_sightings
from relay.store.tables.webhooks_in import webhook_events, webhook_receipts, webhook_receiver_secrets
from relay.store.tables.webhooks_out import webhook_attempts, webhook_deliveries, webhook_messages, webhook_notices
from relay.store.writer import StoreUnavailable, Tx, Writer
from relay.telemetry.surviving import surviving

PURGE_SECONDS: Final = 60.0
CHILD_GRACE: Final = 7 * DAY
_AT_ONCE: Final = 500
_SESSIONS_AT_ONCE: Final = 20

log = logging.getLogger("relay.store")


def _purge(table: Table) -> Query:
    keys = list(table.primary_key.columns)
    expired = select(*keys).where(table.c.expires_at < bindparam("at")).limit(_AT_ONCE)
    matched: Any = tuple_(*keys).in_(expired) if len(keys) > 1 else keys[0].in_(expired)
    return Query(delete(table).where(matched))


_PURGE_CHILDREN: Final = Query(
    delete(api_keys).where(
        api_keys.c.id.in_(
            select(api_keys.c.id)
            .where(api_keys.c.parent_id.is_not(None), api_keys.c.expires_at < bindparam("at"))
            .limit(_AT_ONCE)
        )
    )
)

# A used or expired preview or plan stays for a day, so that whoever comes late learns that it is gone, not unknown.
_PURGES: Final = (
    (_purge(envelopes), 0),
    (_purge(idempotency), 0),
    (_purge(previews), DAY),
    (_purge(plans), DAY),
    (_purge(budget_days), 0),
    (_purge(budget_members), 0),
    (_purge(budget_holds), 0),
    (_purge(model_spending), 0),
    (_purge(decisions), 0),
    (_purge(policy_replays), 0),
    (_purge(webhook_attempts), 0),
    (_purge(webhook_deliveries), 0),
    (_purge(webhook_messages), 0),
    (_purge(webhook_notices), 0),
    (_purge(webhook_events), 0),
    (_purge(webhook_receipts), 0),
    (_purge(webhook_receiver_secrets), 0),
    # As long as what a child token has done counts as its parent's, its row says whose it is.
    (_PURGE_CHILDREN, CHILD_GRACE),
    (_purge(unusual_sightings), 0),
    (_purge(chat_entries), 0),
    (_purge(chat_calls), 0),
    (_purge(chat_turns), 0),
)


class Purge:
    """Deletes expired rows of every workspace, a few hundred at a time, so that nobody waits behind it."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to purge once a minute."""
        self._task = asyncio.create_task(self._forever(), name="purge")

    async def stop(self) -> None:
        """Stop purging."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def once(self, at: int) -> int:
        """Delete everything that had expired at that time; return how many rows went."""
        total = 0
        for query, grace in _PURGES:
            while True:

                def unit(tx: Tx, query: Query = query, before: int = at - grace) -> int:
                    return tx.run(query, at=before)

                gone = await self._writer.run(unit)
                total += gone
                if gone < _AT_ONCE:
                    break
        return total + await self._expired_sessions(at)

    async def _expired_sessions(self, at: int) -> int:
        total = 0
        while True:
            gone = await self._writer.run(lambda tx: remove_expired_sessions(tx, at, _SESSIONS_AT_ONCE))
            total += gone
            if gone < _SESSIONS_AT_ONCE:
                return total

    async def _forever(self) -> None:
        while True:
            await asyncio.sleep(PURGE_SECONDS)
            with surviving(log, "a purge"):
                try:
                    await self.once(now())
                except StoreUnavailable as error:
                    log.warning("the purge waits for the database: %s", error)
