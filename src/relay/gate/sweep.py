"""Attempts whose lease ran out: whoever worked on them is gone or frozen, so nobody knows; they become ``unknown``."""

import asyncio
import logging
from functools import partial
from typing import Final

from relay.audit.record import event
from relay.core.clock import now
from relay.store.attempts import AttemptRepository, AttemptRow, lapsed_attempts
from relay.store.database import Database
from relay.store.writer import StoreUnavailable, Tx

SWEEP_SECONDS: Final = 5.0
_AT_ONCE: Final = 200
_FAR_FUTURE: Final = 2**62

log = logging.getLogger("relay.gate")


class Sweep:
    """Moves lapsed attempts by compare-and-set and raises their fence, so that a late owner finds out."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._task: asyncio.Task[None] | None = None

    async def start(self, *, sole_process: bool) -> None:
        """Begin to sweep. A sole process starts with every running attempt: its owner can only be a dead one."""
        while await self.once(_FAR_FUTURE if sole_process else now()):
            pass
        self._task = asyncio.create_task(self._forever(), name="attempt-sweep")

    async def stop(self) -> None:
        """Stop sweeping."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def once(self, before: int) -> int:
        """Sweep what lapsed before a time; return how many attempts were moved."""
        moved = 0
        for row in await lapsed_attempts(self._database.reader, before, _AT_ONCE):
            moved += await self._database.writer.run(partial(_declare_unknown, row), outcome=True)
        return moved

    async def _forever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                await self.once(now())
            except StoreUnavailable as error:
                log.warning("the sweep waits for the database: %s", error)
            except Exception as error:  # a defect in one look must not end all looking
                log.error("the sweep of attempts failed", exc_info=error)


def _declare_unknown(row: AttemptRow, tx: Tx) -> bool:
    moved = AttemptRepository(row.workspace_id).finish(
        tx,
        row.id,
        fence=row.fence,
        status="unknown",
        at=now(),
        duration_ms=None,
        error=("lease_expired", "Relay stopped, or lost its database, while the action ran.", 504),
        take_over=True,
    )
    if moved:
        tx.record(
            event(
                "gate:attempt:swept",
                workspace_id=row.workspace_id,
                principal=row.principal_id,
                request_id=row.request_id,
                target=row.id,
                action=row.action,
                digest=row.digest,
                outcome="unknown",
            )
        )
    return moved
