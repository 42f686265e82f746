"""Failures before anybody is known: counted, never written one by one, so that strangers cannot fill the disk."""

import asyncio
import contextlib
import functools
import ipaddress
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import bindparam, delete, insert, select, update

from relay.core.clock import DAY, MINUTE, now
from relay.store.query import Query
from relay.store.reader import Reader
from relay.store.tables import anonymous_failures
from relay.store.writer import StoreUnavailable, Tx, Writer
from relay.telemetry.surviving import surviving

KEYS_PER_MINUTE: Final = 500
FLUSH_SECONDS: Final = 5.0
ROWS_PER_UNIT: Final = 100
KEPT: Final = 30 * DAY
MAX_ROWS: Final = 50_000
OTHER: Final = "(other)"
UNKNOWN: Final = "(unknown)"
IPV4_PREFIX: Final = 24
IPV6_PREFIX: Final = 48

_table = anonymous_failures.c
_KEY = (
    _table.minute == bindparam("m"),
    _table.reason == bindparam("r"),
    _table.route == bindparam("t"),
    _table.block == bindparam("b"),
)
_ADD: Final = Query(update(anonymous_failures).where(*_KEY).values(count=_table.count + bindparam("n")))
_INSERT: Final = Query(insert(anonymous_failures))
_PRUNE_OLD: Final = Query(delete(anonymous_failures).where(_table.minute < bindparam("before")))
_PRUNE_MANY: Final = Query(
    delete(anonymous_failures).where(
        _table.minute
        <= select(_table.minute).order_by(_table.minute.desc()).limit(1).offset(MAX_ROWS).scalar_subquery()
    )
)

Key = tuple[int, str, str, str]

log = logging.getLogger("relay.audit")


@functools.lru_cache(maxsize=4096)
def address_block(client: str) -> str:
    """Return the network that an address is counted under: /24 for IPv4 (mapped ones too), /48 for IPv6."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return UNKNOWN
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            # A zone names an interface of this machine, not a network.
            return str(ipaddress.ip_network((int(address), IPV6_PREFIX), strict=False))
        address = address.ipv4_mapped
    return str(ipaddress.ip_network((address, IPV4_PREFIX), strict=False))


class AnonymousFailures:
    """Counts per reason, route template, address block and minute, written a few times a minute.

    A minute has at most 500 distinct keys in one process; what comes beyond goes into one bucket ``(other)``. Rows
    older than 30 days go, and the oldest beyond 50,000. Counts of the last seconds are lost when the process is killed,
    and a write whose commit was cut off may be counted twice: they are a measure, not evidence.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._counts: dict[Key, int] = {}
        self._minute = 0
        self._seen: set[Key] = set()
        self._pruned_at = 0
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def count(self, *, reason: str, route: str, client: str) -> None:
        """Count one failure. ``reason`` is a slug, ``route`` a template, never a path that the caller chose."""
        minute = now() // MINUTE * MINUTE
        if minute != self._minute:
            self._minute, self._seen = minute, set()
        key = (minute, reason, route, address_block(client))
        if key not in self._seen:
            if len(self._seen) < KEYS_PER_MINUTE:
                self._seen.add(key)
            else:
                key = (minute, OTHER, OTHER, OTHER)
        self._counts[key] = self._counts.get(key, 0) + 1

    async def start(self) -> None:
        """Begin to write the counts every few seconds."""
        self._task = asyncio.create_task(self._each_while(), name="anonymous-failures")

    async def stop(self) -> None:
        """Write what is left; to be called while the database is still open."""
        self._stopping.set()
        if self._task is not None:
            await self._task
            self._task = None
        await self.flush()

    async def flush(self) -> None:
        """Write the counts; while the database is away they are kept, no more than the minutes' bounds allow."""
        counts, self._counts = self._counts, {}
        rows = list(counts.items())
        for begin in range(0, len(rows), ROWS_PER_UNIT):
            try:
                await self._writer.run(functools.partial(_add, rows[begin : begin + ROWS_PER_UNIT]))
            except StoreUnavailable:
                self._keep(rows[begin:])
                log.warning("anonymous failures could not be written now")
                return
        if rows and now() - self._pruned_at >= MINUTE:
            self._pruned_at = now()
            with contextlib.suppress(StoreUnavailable):  # the next minute does it
                await self._writer.run(_prune)

    def _keep(self, rows: Sequence[tuple[Key, int]]) -> None:
        """Take back what was not written. While the database stays away, earlier minutes melt into one bucket each."""
        for key, number in rows:
            if key[0] != self._minute:
                key = (key[0], OTHER, OTHER, OTHER)
            self._counts[key] = self._counts.get(key, 0) + number
        while len(self._counts) > 4 * KEYS_PER_MINUTE:
            self._counts.pop(next(iter(self._counts)))

    async def _each_while(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._stopping.wait()
            with surviving(log, "counting failures"):
                await self.flush()


@dataclass(frozen=True, slots=True)
class FailureCount:
    """How often one thing went wrong within one minute, from one block of addresses."""

    minute: int
    reason: str
    route: str
    block: str
    count: int


async def failure_counts(reader: Reader, limit: int) -> list[FailureCount]:
    """Return the newest counts of the whole installation. For the command line alone."""
    rows = await reader.all(
        select(_table.minute, _table.reason, _table.route, _table.block, _table.count)
        .order_by(_table.minute.desc(), _table.count.desc(), _table.reason, _table.route, _table.block)
        .limit(limit)
    )
    return [FailureCount(*row) for row in rows]


def _add(rows: Sequence[tuple[Key, int]], tx: Tx) -> None:
    for (minute, reason, route, block), number in rows:
        if not tx.run(_ADD, m=minute, r=reason, t=route, b=block, n=number):
            tx.run(_INSERT, minute=minute, reason=reason, route=route, block=block, count=number)


def _prune(tx: Tx) -> None:
    tx.run(_PRUNE_OLD, before=now() - KEPT)
    tx.run(_PRUNE_MANY)
