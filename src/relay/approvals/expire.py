"""Requests that nobody decided in time end as ``expired``, and so do their attempts."""

import asyncio
import logging
from functools import partial
from typing import Final

from relay.approvals.persons import agreed
from relay.audit.approvals import request_event
from relay.core.clock import now
from relay.store.approvals import ApprovalRepository, ApprovalRow, lapsed_approvals
from relay.store.attempts import AttemptRow
from relay.store.database import Database
from relay.store.waiting import end_waiting, lock_waiting
from relay.store.writer import StoreUnavailable, Tx

SWEEP_SECONDS: Final = 2.0
EXPIRED: Final = ("approval_expired", "Nobody approved this in time.", 403)
_AT_ONCE: Final = 200

log = logging.getLogger("relay.approvals")


def expire(tx: Tx, request: ApprovalRow, attempt: AttemptRow, at: int) -> None:
    """End a pending request whose time is over, and its attempt, in the transaction of whoever found it."""
    persons = len(agreed(ApprovalRepository(request.workspace_id).decisions(tx, request.id)))
    ended = end_waiting(
        tx,
        request.workspace_id,
        request.attempt_id,
        status="expired",
        approval_status="expired",
        error=EXPIRED,
        at=at,
    )
    if ended is not None:
        tx.record(
            request_event(
                "expired",
                request,
                attempt=attempt,
                status="expired",
                principal="",
                request_id=attempt.request_id,
                persons=persons,
            )
        )


class Expiry:
    """Sweeps requests of every workspace. It costs what has lapsed, however many wait."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to sweep."""
        self._task = asyncio.create_task(self._forever(), name="approvals-expiry")

    async def stop(self) -> None:
        """Stop sweeping."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def once(self, at: int) -> int:
        """End what has lapsed at a time, a few hundred requests at most; return how many there were."""
        lapsed = await lapsed_approvals(self._database.reader, at, _AT_ONCE)
        await asyncio.gather(
            *(self._database.writer.run(partial(_expire_if_pending, found, at), outcome=True) for found in lapsed)
        )
        return len(lapsed)

    async def _forever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                while await self.once(now()) == _AT_ONCE:
                    pass
            except StoreUnavailable as error:
                log.warning("the expiry of approvals waits for the database: %s", error)
            except Exception as error:  # a defect in one look must not end all looking
                log.error("the expiry of approvals failed", exc_info=error)


def _expire_if_pending(found: ApprovalRow, at: int, tx: Tx) -> None:
    attempt = lock_waiting(tx, found.workspace_id, found.attempt_id)
    request = ApprovalRepository(found.workspace_id).lock(tx, found.id)
    if attempt is None or request is None:
        return
    if request.status == "pending" and request.expires_at <= at:
        expire(tx, request, attempt, at)
