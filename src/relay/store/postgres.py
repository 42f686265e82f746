"""The writer on PostgreSQL: a thread of its own runs each batch on one connection.

Several processes append to one chain. Each takes the head row's lock last, so that it is held for the shortest time;
a process that freezes while it holds the lock loses its connection (``idle_in_transaction_session_timeout``) and
finds out at its own COMMIT.
"""

import asyncio
import logging
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import psycopg
from psycopg.rows import tuple_row

from relay.store.link import STATEMENT_SECONDS, GivenUp, PatientConnection
from relay.store.query import Query
from relay.store.writer import BrokenBatch, Finish, StoreUnavailable, Tx, Writer, _Waiting
from relay.telemetry.metrics import Metrics

CONNECT_SECONDS: Final = 3
_RESOLVE_ATTEMPTS: Final = 3
_ROWS_AT_ONCE: Final = 500  # a statement has at most 65,535 parameters
_INSERT: Final = re.compile(r"(?P<into>INSERT INTO .* VALUES )(?P<values>\(.*\))")
_PARAMETER: Final = re.compile(r"%\((\w+)\)s")
_SESSION: Final = (
    "SET synchronous_commit = on",
    "SET idle_in_transaction_session_timeout = '2s'",
    "SET lock_timeout = '4s'",
    f"SET statement_timeout = '{STATEMENT_SECONDS}s'",
)

log = logging.getLogger("relay.store")


class _HungUp(Exception):
    """The server ended the connection, and with it a transaction of which nothing was committed."""


class PostgresTx(Tx):
    """A transaction on the writer's connection; used in the writer's thread only."""

    def __init__(self, cursor: psycopg.Cursor[tuple[Any, ...]]) -> None:
        super().__init__()
        self._cursor = cursor

    def run(self, query: Query, **params: Any) -> int:
        self.writes += 1
        compiled = query.postgres
        return self._cursor.execute(compiled.text, compiled.bound(params), prepare=True).rowcount

    def many(self, query: Query, rows: Sequence[dict[str, Any]]) -> None:
        # Not psycopg's executemany, which is a pipeline: a process that froze in the middle of it would keep the head's
        # lock for ever, since the server calls nobody idle before the pipeline's end.
        self.writes += 1
        compiled = query.postgres
        insert = _INSERT.fullmatch(compiled.text)
        if insert is None:
            for row in rows:
                self._cursor.execute(compiled.text, compiled.bound(row), prepare=True)
            return
        names, values = _PARAMETER.findall(insert["values"]), _PARAMETER.sub("%s", insert["values"])
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = [compiled.bound(row) for row in rows[start : start + _ROWS_AT_ONCE]]
            self._cursor.execute(
                insert["into"] + ", ".join([values] * len(some)), [row[name] for row in some for name in names]
            )

    def one(self, query: Query, **params: Any) -> tuple[Any, ...] | None:
        compiled = query.postgres
        return self._cursor.execute(compiled.text, compiled.bound(params), prepare=True).fetchone()

    def all(self, query: Query, **params: Any) -> list[tuple[Any, ...]]:
        compiled = query.postgres
        return self._cursor.execute(compiled.text, compiled.bound(params), prepare=True).fetchall()


class PostgresWriter(Writer):
    """One connection, re-made when it is lost; ambiguous commits are settled by looking."""

    def __init__(self, conninfo: str, finish: Finish, metrics: Metrics | None = None) -> None:
        super().__init__(finish, metrics)
        self._conninfo = conninfo
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="relay-writer")
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    async def connect(self) -> None:
        await self._in_thread(self._connect)

    async def disconnect(self) -> None:
        await self._in_thread(self._close)
        self._thread.shutdown(wait=True)

    async def idle(self) -> None:
        return

    async def transact(self, batch: list[_Waiting]) -> None:
        await self._in_thread(self._transact, batch)

    def spoils_transaction(self, error: Exception) -> bool:
        return isinstance(error, psycopg.Error)

    def lost_race(self, error: BaseException) -> bool:
        return isinstance(
            error,
            psycopg.errors.UniqueViolation | psycopg.errors.SerializationFailure | psycopg.errors.DeadlockDetected,
        )

    async def _in_thread(self, function: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._connection is not None and not self._connection.closed:
            return self._connection
        try:
            self._connection = PatientConnection.connect(
                self._conninfo, connect_timeout=CONNECT_SECONDS, row_factory=tuple_row, application_name="relay-writer"
            )
            with self._connection.transaction():
                for statement in _SESSION:
                    self._connection.execute(statement)
        except psycopg.Error:
            self._close()
            raise StoreUnavailable("the database does not answer") from None
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _transact(self, batch: list[_Waiting]) -> None:
        for last in (False, True):
            try:
                self._transact_once(batch)
                return
            except _HungUp:
                if last:
                    raise StoreUnavailable("the database does not answer") from None
                log.warning("the database hung up before anything was changed: once more over a new connection")

    def _transact_once(self, batch: list[_Waiting]) -> None:
        connection = self._connect()
        committing = False
        try:
            with connection.cursor() as cursor:
                self.run_units(PostgresTx(cursor), batch)
            committing = True
            connection.commit()
        except BrokenBatch as broken:
            self._rollback()
            self._refuse_if_away(broken.__cause__)
            raise
        except psycopg.Error as error:
            self._rollback()
            if committing and self._settle(batch):
                return
            self._refuse_if_away(error, committing=committing)
            raise BrokenBatch from error
        except BaseException:
            self._rollback()
            raise

    def _refuse_if_away(self, error: BaseException | None, *, committing: bool = False) -> None:
        """Raise for an error that tells of the server rather than of what it was asked."""
        if not committing and not self._is_away(error):
            return
        # Its class and code say what happened, and hold nothing of what was written.
        log.warning("the database broke a change off: %s %s", type(error).__name__, getattr(error, "sqlstate", None))
        if self._ended_unchanged(error, committing=committing):
            raise _HungUp
        raise StoreUnavailable(
            "the database did not take the change" if committing else "the database does not answer"
        ) from None

    def _is_away(self, error: BaseException | None) -> bool:
        # The server's word to a process that stood still is an internal error by its class.
        away = psycopg.OperationalError | psycopg.errors.IdleInTransactionSessionTimeout
        return isinstance(error, away) and not self.lost_race(error)

    def _ended_unchanged(self, error: BaseException | None, *, committing: bool) -> bool:
        """Say whether the connection is gone and nothing can have been committed, so that asking again is safe.

        A server that does not answer is not asked again: everybody waits behind this.
        """
        if isinstance(error, psycopg.errors.IdleInTransactionSessionTimeout):
            return True
        return not committing and self._connection is None and not isinstance(error, GivenUp)

    def _rollback(self) -> None:
        try:
            if self._connection is not None:
                self._connection.rollback()
        except psycopg.Error:
            self._close()

    def _settle(self, batch: list[_Waiting]) -> bool:
        """Say whether an interrupted COMMIT took hold.

        The head's lock is taken first: a server that is still finishing that COMMIT holds it, so the look comes
        after the answer is fixed.
        """
        event = next((id for waiting in batch for id in waiting.events), None)
        if event is None:
            return False
        for attempt in range(_RESOLVE_ATTEMPTS):
            try:
                connection = self._connect()
                connection.execute("SELECT 1 FROM audit_head FOR UPDATE")
                found = connection.execute("SELECT 1 FROM audit_events WHERE id = %s", (event,)).fetchone()
                connection.rollback()
                return found is not None
            except (psycopg.Error, StoreUnavailable):
                self._rollback()
                time.sleep(0.2 * (attempt + 1))
        log.error("a commit could not be settled: the database stays away")
        return False
