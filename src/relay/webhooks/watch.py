"""What nobody asks for and somebody should know: keys that end soon, revoked keys in use, a log that does not hold.

Each is an audit event of its workspace, once, and so reaches the endpoints that ask for it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from relay.audit.record import event
from relay.audit.verify import Finding
from relay.audit.violations import violation
from relay.core.clock import DAY, HOUR, MICROSECONDS, iso, now
from relay.core.event import EventDraft
from relay.store.api_keys import ApiKeyRecord, keys_that_end
from relay.store.database import Database
from relay.store.endpoints import EndpointsOfAllWorkspaces
from relay.store.notices import first_time
from relay.store.writer import StoreUnavailable, Tx
from relay.telemetry.surviving import surviving
from relay.webhooks.types import expand

WARN_DAYS: Final = (3, 14)
"""How many days before its end a key is warned of, the last warning first."""
LOOK_SECONDS: Final = HOUR / MICROSECONDS
_ON_ITS_WAY: Final = 100
_FOR_EVER: Final = 3650 * DAY

log = logging.getLogger("relay.webhooks")


class Watch:
    """Records each notice once, whatever the number of processes that see its cause."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._looking: asyncio.Task[None] | None = None
        self._told: set[str] = set()
        self._writing: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Look for keys that end soon, now and once an hour."""
        self._looking = asyncio.create_task(self._look_for_ever(), name="webhooks-watch")

    async def stop(self) -> None:
        """Stop looking, and write what was reported."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await asyncio.gather(*self._writing, return_exceptions=True)

    async def look(self, at: int) -> int:
        """Record a warning for each key that ends soon and has had none; return how many were recorded.

        A key is warned of 14 and 3 days before its end, where it was made to live longer than that. One that has a
        successor is not: it is meant to end.
        """
        total = 0
        for key in await keys_that_end(self._database.reader, at, at + max(WARN_DAYS) * DAY):
            left = key.expires_at - at
            days = next(days for days in WARN_DAYS if left <= days * DAY)
            if key.expires_at - key.created_at > days * DAY:
                total += await self._database.writer.run(partial(_warn, key, days, left))
        return total

    def revoked_key_used(self, key: ApiKeyRecord) -> None:
        """Have it recorded that somebody used a revoked key: once a day for each key. Never waits or raises."""
        day = now() // DAY

        def unit(tx: Tx, subject: str) -> None:
            draft = violation("revoked_key_used", workspace_id=key.workspace_id, target=key.id)
            _once(tx, subject, (day + 2) * DAY, draft)

        self._report(f"revoked:{key.id}:{day}", unit)

    def log_broken(self, finding: Finding) -> None:
        """Have it recorded that the audit log does not hold: for the installation itself, and in each workspace that
        asks to be told. Never waits.
        """

        def unit(tx: Tx, subject: str) -> None:
            workspaces = {
                workspace
                for _, workspace, wanted in EndpointsOfAllWorkspaces.routes(tx)
                if "security.violation" in expand(wanted)
            }
            for workspace in ("", *sorted(workspaces)):
                draft = violation("audit_log_broken", workspace_id=workspace, target=f"seq {finding.seq}")
                _once(tx, subject, now() + _FOR_EVER, draft)

        self._report(f"log:{finding.seq}:{finding.reason}", unit)

    def _report(self, subject: str, unit: Callable[[Tx, str], object]) -> None:
        if subject in self._told or len(self._writing) >= _ON_ITS_WAY:
            return
        if len(self._told) >= 10 * _ON_ITS_WAY:
            self._told.clear()  # the table remembers
        self._told.add(subject)
        task = asyncio.create_task(self._record(subject, unit), name="webhooks-notice")
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    async def _record(self, subject: str, unit: Callable[[Tx, str], object]) -> None:
        try:
            await self._database.writer.run(lambda tx: unit(tx, subject))
        except StoreUnavailable:
            self._told.discard(subject)
            log.warning("a notice could not be recorded: %s", subject.partition(":")[0])

    async def _look_for_ever(self) -> None:
        while True:
            # An hour later is early enough where the database is away.
            with surviving(log, "looking for keys that end"), contextlib.suppress(StoreUnavailable):
                await self.look(now())
            await asyncio.sleep(LOOK_SECONDS)


def _warn(key: ApiKeyRecord, days: int, left: int, tx: Tx) -> bool:
    notice = {"expires_at": iso(key.expires_at), "days_left": left // DAY}
    until = key.expires_at + DAY
    subject = f"expiring:{key.id}:{days}"
    draft = event("identity:key:expiring", workspace_id=key.workspace_id, target=key.id, notice=notice)
    return _once(tx, subject, until, draft)


def _once(tx: Tx, subject: str, expires_at: int, draft: EventDraft) -> bool:
    if not first_time(tx, draft.workspace_id, subject, expires_at):
        return False
    tx.record(draft)
    return True
