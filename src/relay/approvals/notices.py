"""Mails to those who approve: kept with the request, sent later and at least once, given up after a day."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from relay.approvals.letter import Letterhead, write_letter
from relay.approvals.requests import Requests
from relay.core.clock import DAY, MICROSECONDS, MINUTE, now
from relay.core.effect import EffectError
from relay.core.permit import boot_clock
from relay.egress.mail import NoticeTransport
from relay.store.approval_notices import NoticeRow, add_notice, drop_notice, due_notices, move_notice
from relay.store.approvals import ApprovalRepository, ApprovalRow
from relay.store.database import Database
from relay.store.writer import StoreUnavailable, Tx

SWEEP_SECONDS: Final = 2.0
LEASE_SECONDS: Final = 120
FIRST_PAUSE: Final = 30 * MICROSECONDS
LONGEST_PAUSE: Final = 60 * MINUTE
GIVE_UP_AFTER: Final = DAY
_AT_ONCE: Final = 20

log = logging.getLogger("relay.approvals")


class LeaseOver(Exception):
    """The lease ended before the message left: another process may be sending it by now."""


class _Lease:
    def __init__(self, seconds: float) -> None:
        self._until = boot_clock() + seconds

    def ensure_live(self) -> None:
        if boot_clock() >= self._until:
            raise LeaseOver


class Notices:
    """The mails of every workspace. Without recipients there are none, and none are kept.

    A request is never delayed or refused for its mail. One that has been decided meanwhile is not written about.
    """

    def __init__(
        self,
        database: Database,
        requests: Requests,
        transport: NoticeTransport,
        *,
        recipients: tuple[str, ...],
        public_url: str | None,
        clock: Callable[[], int] = now,
    ) -> None:
        self._database = database
        self._requests = requests
        self._transport = transport
        self._head = Letterhead(transport.sender, recipients, public_url)
        self._clock = clock
        self._fresh = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, tx: Tx, request: ApprovalRow) -> None:
        """Keep a mail about a new request, in the transaction that makes it."""
        if self._head.recipients:
            add_notice(tx, NoticeRow(request.id, request.workspace_id, request.created_at, request.created_at, 0))
            tx.after_commit.append(self._fresh.set)

    async def start(self) -> None:
        """Begin to send. What an earlier process left unsent is sent as well, also where nobody is written to now."""
        self._task = asyncio.create_task(self._forever(), name="approvals-notices")

    async def stop(self) -> None:
        """Send no more; what was on its way may be sent again by whoever starts next."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def once(self, at: int) -> int:
        """Send what is due at a time, a few mails at most; return how many were due."""
        due = await due_notices(self._database.reader, at, _AT_ONCE)
        await asyncio.gather(*(self._send(found, at) for found in due))
        return len(due)

    async def _forever(self) -> None:
        while True:
            self._fresh.clear()
            try:
                while await self.once(self._clock()) == _AT_ONCE:
                    pass
            except StoreUnavailable as error:
                log.warning("mails about approvals wait for the database: %s", error)
            try:
                async with asyncio.timeout(SWEEP_SECONDS):
                    await self._fresh.wait()
            except TimeoutError:
                continue

    async def _send(self, found: NoticeRow, at: int) -> None:
        claimed = NoticeRow(
            found.approval_id,
            found.workspace_id,
            found.created_at,
            at + LEASE_SECONDS * MICROSECONDS,
            found.tries + 1,
        )
        lease = _Lease(LEASE_SECONDS / 2)
        run = self._database.writer.run
        if not await run(lambda tx: move_notice(tx, found, due_at=claimed.due_at, tries=claimed.tries)):
            return
        request = await ApprovalRepository(found.workspace_id).get(self._database.reader, found.approval_id)
        if request is None or request.status != "pending" or not self._head.recipients:
            await run(lambda tx: drop_notice(tx, claimed))
            return
        try:
            await self._deliver(request, lease)
        except Exception as error:  # no defect of one mail may end the others; it is tried again like any failure
            await self._failed(claimed, error)
            return
        await run(lambda tx: drop_notice(tx, claimed))

    async def _deliver(self, request: ApprovalRow, lease: _Lease) -> None:
        summary = await self._requests.summary(request.workspace_id, request)
        message = write_letter(self._head, request, summary)
        await self._transport.deliver(lease, recipients=self._head.recipients, message=message)

    async def _failed(self, claimed: NoticeRow, error: Exception) -> None:
        # What the mail relay said stays out of the log: it may name recipients.
        code = error.code if isinstance(error, EffectError) else type(error).__name__
        at = self._clock()
        if at - claimed.created_at >= GIVE_UP_AFTER:
            log.error("the mail about %s was given up after %d tries: %s", claimed.approval_id, claimed.tries, code)
            await self._database.writer.run(lambda tx: drop_notice(tx, claimed))
            return
        log.warning("the mail about %s could not be sent and is tried again: %s", claimed.approval_id, code)
        due_at = at + pause_after(claimed.tries)
        await self._database.writer.run(lambda tx: move_notice(tx, claimed, due_at=due_at, tries=claimed.tries))


def pause_after(tries: int) -> int:
    """Return how long to wait after so many failures, in microseconds: doubling, up to an hour."""
    return int(min(FIRST_PAUSE * 2 ** min(tries - 1, 20), LONGEST_PAUSE))
