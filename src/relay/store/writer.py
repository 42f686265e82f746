"""The one writer of a process: units of work that wait share one durable commit.

A unit is a function of a transaction. It runs zero or more times and its result is delivered once it is durable.
A unit that refuses must do so before its first write; then the batch goes on without it. Anything else that goes
wrong rolls the batch back, and its units run again, each in a transaction of its own.
"""

import asyncio
import contextlib
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from relay.core.event import EventDraft
from relay.store.query import Query
from relay.telemetry.metrics import Metrics

T = TypeVar("T")
Unit = Callable[["Tx"], T]
Finish = Callable[["Tx", Sequence[EventDraft]], None]

MAX_WAITING: Final = 4096
RESERVED_FOR_OUTCOMES: Final = 1024
MAX_BATCH: Final = 256
ATTEMPTS_ALONE: Final = 3
IDLE_POLL_SECONDS: Final = 0.25

log = logging.getLogger("relay.store")


class StoreUnavailable(Exception):
    """The database cannot take this now; nothing of the unit has been written, as far as can be known."""


class Tx(ABC):
    """A transaction as a unit sees it. ``record`` adds an audit event that commits with the unit or not at all.

    What is put into ``after_commit`` is called in the event loop once the transaction is durable, and never if it is
    not; it must not raise, and does no more than wake somebody.
    """

    def __init__(self) -> None:
        self.drafts: list[EventDraft] = []
        self.after_commit: list[Callable[[], None]] = []
        self.writes = 0

    def record(self, draft: EventDraft) -> None:
        """Append an audit event; it counts as a write."""
        self.writes += 1
        self.drafts.append(draft)

    @abstractmethod
    def run(self, query: Query, **params: Any) -> int:
        """Execute a change and return how many rows it touched."""

    @abstractmethod
    def many(self, query: Query, rows: Sequence[dict[str, Any]]) -> None:
        """Execute one change for each row."""

    @abstractmethod
    def one(self, query: Query, **params: Any) -> tuple[Any, ...] | None:
        """Return the first row, or None."""

    @abstractmethod
    def all(self, query: Query, **params: Any) -> list[tuple[Any, ...]]:
        """Return every row."""


@dataclass(slots=True)
class _Waiting:
    unit: Unit[Any]
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None
    events: tuple[str, ...] = field(default=())


class BrokenBatch(Exception):
    """A unit failed after it had written: the transaction is rolled back and each unit runs alone."""


class Writer(ABC):
    """Queue, batch and deliver. Subclasses know one database."""

    def __init__(self, finish: Finish, metrics: Metrics | None = None) -> None:
        metrics = metrics or Metrics.off()
        self._seconds = metrics.histogram("relay_audit_commit_seconds")
        self._sizes = metrics.histogram("relay_audit_batch_size")
        self._errors = metrics.counter("relay_audit_write_errors_total")
        self.before: Callable[[Tx], None] | None = None
        """Called at the beginning of each transaction; StoreUnavailable keeps all of it from being written."""
        self._finish = finish
        self._queue: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._after_commit: list[Callable[[], None]] = []

    async def start(self) -> None:
        """Connect and begin to take units."""
        await self.connect()
        self._task = asyncio.create_task(self._drain(), name="store-writer")

    async def stop(self) -> None:
        """Write everything that was accepted, then disconnect."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            await self._task
        await self.disconnect()

    async def run(self, unit: Unit[T], *, outcome: bool = False) -> T:
        """Run ``unit`` and return its result once it is durable.

        ``outcome`` units may use the room that is kept for them, so that a crowd of new requests cannot keep
        the end of a running attempt from being written, and they are written even if the caller is cancelled.
        :class:`StoreUnavailable` when the queue is full, the writer has stopped or the database refuses.
        """
        room = MAX_WAITING + (RESERVED_FOR_OUTCOMES if outcome else 0)
        if self._closing or self._task is None or len(self._queue) >= room:
            self._errors.add()
            raise StoreUnavailable("the writer takes no more work now")
        waiting = _Waiting(unit, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._wake.set()
        result: T = await (asyncio.shield(waiting.future) if outcome else waiting.future)
        return result

    async def _drain(self) -> None:
        while True:
            if not self._queue:
                if self._closing:
                    return
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(IDLE_POLL_SECONDS):
                        await self._wake.wait()
                if not self._queue:
                    await self.idle()
                    continue
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), MAX_BATCH))]
            batch = [waiting for waiting in batch if not waiting.future.done()]
            if batch:
                await self._deliver(batch)

    async def _deliver(self, batch: list[_Waiting]) -> None:
        try:
            await self._write(batch)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # whatever it is, no caller may be left waiting
            log.exception("the writer failed")
            self._errors.add()
            for waiting in batch:
                waiting.error = waiting.error or error
        for waiting in batch:
            if waiting.future.done():
                continue
            if waiting.error is not None:
                waiting.future.set_exception(waiting.error)
            else:
                waiting.future.set_result(waiting.result)

    async def _write(self, batch: list[_Waiting]) -> None:
        try:
            await self._commit(batch)
            return
        except StoreUnavailable as error:
            self._errors.add()
            self._fail(batch, error)
            return
        except BrokenBatch:
            pass
        for waiting in batch:
            await self._write_alone(waiting)

    async def _write_alone(self, waiting: _Waiting) -> None:
        """Run one unit by itself; a race lost against another process is run again and then sees the winner."""
        for attempt in range(ATTEMPTS_ALONE):
            waiting.error = None
            try:
                await self._commit([waiting])
                return
            except StoreUnavailable as error:
                self._errors.add()
                waiting.error = error
                return
            except BrokenBatch as error:
                waiting.error = error.__cause__ or error
                if not self.lost_race(waiting.error) or attempt == ATTEMPTS_ALONE - 1:
                    self._errors.add()
                    return

    async def _commit(self, batch: list[_Waiting]) -> None:
        began = time.perf_counter()
        await self.transact(batch)
        self._seconds.observe(time.perf_counter() - began)
        self._sizes.observe(len(batch))
        for call in self._after_commit:
            call()

    @staticmethod
    def _fail(batch: list[_Waiting], error: BaseException) -> None:
        for waiting in batch:
            waiting.error = error

    def run_units(self, tx: Tx, batch: list[_Waiting]) -> None:
        """Run every unit on ``tx`` and append their audit events; for subclasses, inside a transaction."""
        if self.before is not None:
            self.before(tx)
        for waiting in batch:
            waiting.error = waiting.result = None
            before_writes, before_drafts = tx.writes, len(tx.drafts)
            try:
                waiting.result = waiting.unit(tx)
            except Exception as error:  # a unit may refuse with any exception; it reaches its own caller
                if tx.writes != before_writes or self.spoils_transaction(error):
                    raise BrokenBatch from error
                waiting.error = error
            waiting.events = tuple(draft.id for draft in tx.drafts[before_drafts:])
        if tx.drafts:
            self._finish(tx, tx.drafts)
        self._after_commit = tx.after_commit

    @abstractmethod
    async def connect(self) -> None: ...

    @abstractmethod
    async def disconnect(self) -> None: ...

    @abstractmethod
    async def idle(self) -> None:
        """Called a few times a second while nothing waits."""

    @abstractmethod
    async def transact(self, batch: list[_Waiting]) -> None:
        """Run the batch in one durable transaction, or raise StoreUnavailable or BrokenBatch."""

    @abstractmethod
    def spoils_transaction(self, error: Exception) -> bool:
        """Say whether the transaction is of no more use after this error."""

    @abstractmethod
    def lost_race(self, error: BaseException) -> bool:
        """Say whether another process got there first, so that the unit should look again."""
