"""Verifying the log where it is kept: every row, every signed head, and on request every detail, in bounded memory.

What the chain alone cannot show is a log that was rewritten from some row to its end, or cut off: whoever owns the
database can compute fitting hashes. The signed heads show that, as long as one of them is out of that person's reach.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from sqlalchemy import func, select

from relay.audit.chain import ChainBroken, Walk
from relay.audit.details import DetailsUnreadable, open_details, sealed_details
from relay.audit.notes import check_note
from relay.audit.rows import PAGE_ROWS, Row, Snapshot, rows_between, snapshot
from relay.audit.trust import HeadKeys, Trust
from relay.core.clock import DAY, HOUR, MICROSECONDS, now
from relay.core.problem import Unavailable
from relay.crypto.envelope import Envelopes
from relay.crypto.signing import Checkpoint, SignatureError
from relay.store.database import Database
from relay.store.reader import Reader
from relay.store.tables import audit_events, signed_heads
from relay.store.writer import StoreUnavailable
from relay.telemetry.metrics import Metrics

CACHE: Final = 3 * MICROSECONDS
WHOLE_EVERY: Final = HOUR
WAIT_SECONDS: Final = 20.0
FIRST_SECONDS: Final = 10.0
EVERY_SECONDS: Final = 3600.0
WHOLE_BY_ITSELF: Final = DAY
"""A server verifies soon after its start and each hour what was added since, once a day from the beginning."""

_YIELD_ROWS: Final = 50

log = logging.getLogger("relay.audit")


@dataclass(frozen=True, slots=True)
class Finding:
    """Where the log does not hold, and why. ``reason`` names no content of any row."""

    seq: int
    reason: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What a verification found.

    ``size`` events hold, the last of which has the hash ``head``; ``ok`` says that these are all there are and that
    nothing contradicts them. ``heads`` counts the signed heads that were compared; ``details`` and ``details_erased``
    count the details that were opened and those that are gone.
    """

    ok: bool
    size: int
    head: str
    checked_at: int
    finding: Finding | None = None
    heads: int = 0
    details: int = 0
    details_erased: int = 0


async def verify_log(
    reader: Reader, trust: Trust, *, envelopes: Envelopes | None = None, start: Walk | None = None
) -> Verification:
    """Verify the log from ``start`` (its beginning, unless a prefix was verified before) to its present end.

    Details are opened and compared with their commitments when ``envelopes`` is given; erased ones are counted.
    :class:`~relay.store.writer.StoreUnavailable` when the database cannot be read; every other fault is a finding.
    ValueError for a given head together with a ``start`` that may lie behind it.
    """
    if start is not None and trust.head is not None:
        raise ValueError("a given head is compared in a whole verification only")
    check = _Check(reader, trust, envelopes, start or Walk())
    finding = None
    try:
        await check.run()
    except ChainBroken as broken:
        finding = Finding(broken.seq, broken.reason)
    return Verification(
        ok=finding is None,
        size=check.walk.size,
        head=check.walk.head,
        checked_at=now(),
        finding=finding,
        heads=check.heads,
        details=check.details,
        details_erased=check.erased,
    )


@dataclass(slots=True)
class _Check:
    """One verification under way. ``walk`` holds what has been verified so far."""

    reader: Reader
    trust: Trust
    envelopes: Envelopes | None
    walk: Walk
    heads: int = 0
    details: int = 0
    erased: int = 0
    _pending: list[tuple[int, str]] = field(default_factory=list)
    _fetched: int = -1
    _newest: int = -1

    async def run(self) -> None:
        given = _given(self.trust)
        # Heads first, end second: a head that was signed before the look at the end cannot lie beyond it.
        self._newest = await _newest_head(self.reader)
        end = await snapshot(self.reader)
        end.check()
        for size in (self._newest, given.size if given else -1):
            if size > end.size:
                raise ChainBroken(end.size + 1, f"is missing: a head was signed over {size} events")
        self._fetched = self.walk.size - 1
        await self._compare(given)
        await self._resume(end)
        async for page in rows_between(self.reader, self.walk.size, end.size):
            for row in page:
                self.walk.follow(row)
                await self._compare(given)
            await self._open(page)
        if self.walk.size != end.size:
            raise ChainBroken(self.walk.size + 1, "is missing")
        if self.walk.head != end.head:
            raise ChainBroken(end.size, "is not the event that the head of the log names")

    async def _resume(self, end: Snapshot) -> None:
        """Make sure that the row up to which the log was verified before still is what it was."""
        if not self.walk.size:
            return
        if self.walk.size > end.size:
            raise ChainBroken(end.size + 1, "is missing: it was there at an earlier verification")
        found = await self.reader.one(select(audit_events.c.hash).where(audit_events.c.seq == self.walk.size))
        if found is None or found[0] != self.walk.head:
            raise ChainBroken(self.walk.size, "is not what it was at an earlier verification")

    async def _compare(self, given: Checkpoint | None) -> None:
        """Compare the rows walked so far with the heads that were signed over exactly so many."""
        if given is not None and given.size == self.walk.size:
            self._agree(given)
        while self._fetched < self.walk.size <= self._newest and not self._pending:
            await self._fetch()
        while self._pending and self._pending[0][0] <= self.walk.size:
            size, note = self._pending.pop(0)
            try:
                signed = check_note(note, self.trust.keys_for(size))
            except SignatureError as error:
                raise ChainBroken(size, f"the head stored for it does not verify: {error}") from None
            if signed.size != size:
                raise ChainBroken(size, "the head stored for it was signed over another size")
            self._agree(signed)

    def _agree(self, signed: Checkpoint) -> None:
        if signed.size != self.walk.size or signed.root.hex() != self.walk.head:
            raise ChainBroken(signed.size, "was rewritten, or one before it: a signed head says otherwise")
        self.heads += 1

    async def _fetch(self) -> None:
        column = signed_heads.c
        rows = await self.reader.all(
            select(column.size, column.note)
            .where(column.size > self._fetched, column.size <= self._newest)
            .order_by(column.size)
            .limit(PAGE_ROWS)
        )
        self._pending = [(row[0], str(row[1])) for row in rows]
        self._fetched = self._pending[-1][0] if self._pending else self._newest

    async def _open(self, page: Sequence[Row]) -> None:
        if self.envelopes is None:
            return
        committed = [row for row in page if row[12]]
        sealed = await sealed_details(self.reader, [row[1] for row in committed])
        for number, row in enumerate(committed):
            if number % _YIELD_ROWS == _YIELD_ROWS - 1:
                await asyncio.sleep(0)  # a server verifies between requests, not instead of them
            body = sealed.get(row[1])
            if body is None:
                self.erased += 1
                continue
            try:
                open_details(self.envelopes, body, workspace=row[3], event_id=row[1], committed=row[12])
            except DetailsUnreadable as error:
                raise ChainBroken(row[0], f"its details are not what was recorded: {error}") from None
            self.details += 1


def _given(trust: Trust) -> Checkpoint | None:
    if trust.head is None:
        return None
    try:
        given = check_note(trust.head, (*trust.vkeys, *(key.vkey for key in trust.past)))
        return check_note(trust.head, trust.keys_for(given.size))
    except SignatureError as error:
        raise ChainBroken(0, f"the given head does not verify: {error}") from None


async def _newest_head(reader: Reader) -> int:
    row = await reader.one(select(func.coalesce(func.max(signed_heads.c.size), -1)))
    return int(row[0]) if row else -1


class Verifier:
    """Answers whether the log holds.

    A verification goes on from the last row that was found in order, so that it costs what was added since; from the
    beginning again once an hour, so that a change of older rows is found no later than that. What was changed further
    back in between is found by the command line, which always verifies everything. ``on_broken`` hears of each
    verification that found something.
    """

    def __init__(
        self,
        database: Database,
        envelopes: Envelopes,
        keys: HeadKeys,
        on_broken: Callable[[Finding], None] = lambda _: None,
        metrics: Metrics | None = None,
    ) -> None:
        metrics = metrics or Metrics.off()
        self._verified_at = metrics.gauge("relay_audit_last_verified_timestamp_seconds")
        self._failed = metrics.gauge("relay_audit_verification_failed")
        self._reader = database.reader
        self._envelopes = envelopes
        self._keys = keys
        self._on_broken = on_broken
        self._verified: tuple[int, str] | None = None
        self._whole_at = 0
        self._asked: tuple[int, Verification] | None = None
        self._task: asyncio.Task[Verification] | None = None
        self._looking: asyncio.Task[None] | None = None

    async def start(self, *, first: float = FIRST_SECONDS, every: float = EVERY_SECONDS) -> None:
        """Verify by itself from now on, so that somebody looks even where nobody asks; intervals in seconds."""
        self._looking = asyncio.create_task(self._look_for_ever(first, every), name="audit-watch")

    async def verify(self) -> Verification:
        """Return a verification that somebody asked for and that began at most three seconds ago, or after the call.

        It goes on from the last one, and begins at the first event where the last such is an hour old.
        :class:`~relay.core.problem.Unavailable` when a first one over a large log takes longer than twenty seconds;
        it goes on meanwhile. :class:`~relay.store.writer.StoreUnavailable` when the database cannot be read.
        """
        oldest = now() - CACHE
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while self._asked is None or not oldest <= self._asked[0] <= now():
                    await self._round(WHOLE_EVERY, asked=True)
                return self._asked[1]
        except TimeoutError:
            raise Unavailable("The log is still being verified; ask again later.", retry_after=20) from None

    async def look(self) -> Verification:
        """Return a verification that a server makes by itself: from the beginning once a day, shared, never an answer.

        Nobody who asks afterwards is answered with it, since it may have begun before what they ask about.
        """
        return await self._round(WHOLE_BY_ITSELF, asked=False)

    async def _round(self, whole_every: int, *, asked: bool) -> Verification:
        """Wait for the verification that is under way, whoever began it, or begin one; there is one at a time."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._verify(whole_every, asked=asked), name="audit-verify")
            self._task.add_done_callback(_retrieve)
        return await asyncio.shield(self._task)

    async def stop(self) -> None:
        """Verify no more by itself, and end a verification that is under way."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _verify(self, whole_every: int, *, asked: bool) -> Verification:
        started = now()
        whole = self._verified is None or started - self._whole_at >= whole_every
        start = None if whole or self._verified is None else Walk(*self._verified)
        found = await verify_log(self._reader, self._keys.trust(), envelopes=self._envelopes, start=start)
        if found.ok:
            self._verified = (found.size, found.head)
            self._whole_at = started if whole else self._whole_at
        if found.finding is not None:
            self._on_broken(found.finding)
        else:
            self._verified_at.set(found.checked_at / MICROSECONDS)
        self._failed.set(float(found.finding is not None))
        if asked:
            self._asked = (started, found)
        return found

    async def _look_for_ever(self, first: float, every: float) -> None:
        await asyncio.sleep(first)
        while True:
            try:
                await self.look()
            except StoreUnavailable as error:
                log.warning("the log could not be verified now: %s", error)
            except Exception as error:  # a defect in one look must not end all looking
                log.error("the verification of the log broke", exc_info=error)
            await asyncio.sleep(every)


def _retrieve(task: asyncio.Task[Verification]) -> None:
    # Every waiter may have given up; an error nobody fetched must not be reported as lost by the event loop.
    if not task.cancelled():
        task.exception()
