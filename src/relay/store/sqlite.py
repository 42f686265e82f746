"""The writer on SQLite: statements run in the event loop, only the fsync of COMMIT leaves it.

A statement takes microseconds in the loop and several times that through a thread, because the two would pass the
interpreter lock to and fro; COMMIT waits for the disk and must not hold the loop up.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from relay.store.query import Query
from relay.store.writer import BrokenBatch, Finish, StoreUnavailable, Tx, Writer, _Waiting
from relay.telemetry.metrics import Metrics

BUSY_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = 0.01
_AWAY: Final = (sqlite3.OperationalError, sqlite3.InterfaceError, sqlite3.NotSupportedError)
_DAMAGED: Final = frozenset({"SQLITE_CORRUPT", "SQLITE_NOTADB"})


def _damaged(error: BaseException | None) -> bool:
    return isinstance(error, sqlite3.DatabaseError) and getattr(error, "sqlite_errorname", "") in _DAMAGED


def connect(path: Path) -> sqlite3.Connection:
    """Open the database for writing: WAL, every commit durable (synchronous FULL), foreign locks not waited for."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256, timeout=0)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA trusted_schema = OFF")
    # What was erased is overwritten, not only unlinked.
    connection.execute("PRAGMA secure_delete = ON")
    return connection


class SqliteTx(Tx):
    """A transaction on the writer's connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__()
        self._connection = connection

    def run(self, query: Query, **params: Any) -> int:
        self.writes += 1
        compiled = query.sqlite
        return self._connection.execute(compiled.text, compiled.bound(params)).rowcount

    def many(self, query: Query, rows: Sequence[dict[str, Any]]) -> None:
        self.writes += 1
        compiled = query.sqlite
        self._connection.executemany(compiled.text, [compiled.bound(row) for row in rows])

    def one(self, query: Query, **params: Any) -> tuple[Any, ...] | None:
        compiled = query.sqlite
        row: tuple[Any, ...] | None = self._connection.execute(compiled.text, compiled.bound(params)).fetchone()
        return row

    def all(self, query: Query, **params: Any) -> list[tuple[Any, ...]]:
        compiled = query.sqlite
        return self._connection.execute(compiled.text, compiled.bound(params)).fetchall()


class SqliteWriter(Writer):
    """One connection, ``BEGIN IMMEDIATE``, commits in one thread of its own."""

    def __init__(
        self,
        path: Path,
        finish: Finish,
        on_foreign_change: Callable[[], None],
        metrics: Metrics | None = None,
    ) -> None:
        super().__init__(finish, metrics)
        self._path = path
        self._on_foreign_change = on_foreign_change
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="relay-commit")
        self._connection: sqlite3.Connection | None = None
        self._data_version = 0

    async def connect(self) -> None:
        self._connection = connect(self._path)
        self._data_version = self._read_data_version(self._connection)

    async def disconnect(self) -> None:
        self._thread.shutdown(wait=True)
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def idle(self) -> None:
        self._notice_foreign_change()

    def spoils_transaction(self, error: Exception) -> bool:
        return isinstance(error, sqlite3.Error)

    def lost_race(self, error: BaseException) -> bool:
        return isinstance(error, sqlite3.IntegrityError)

    async def transact(self, batch: list[_Waiting]) -> None:
        connection = self._open()
        self._notice_foreign_change()
        await self._begin(connection)
        tx = SqliteTx(connection)
        try:
            self.run_units(tx, batch)
            await asyncio.get_running_loop().run_in_executor(self._thread, connection.execute, "COMMIT")
        except BrokenBatch as broken:
            self._rollback(connection)
            if isinstance(broken.__cause__, _AWAY) or _damaged(broken.__cause__):
                raise StoreUnavailable(str(broken.__cause__)) from None
            raise
        except sqlite3.Error as error:
            self._rollback(connection)
            if not self._committed_after_all(connection, batch):
                raise StoreUnavailable(str(error)) from None
        except BaseException:
            self._rollback(connection)
            raise

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreUnavailable("the database is not open")
        return self._connection

    async def _begin(self, connection: sqlite3.Connection) -> None:
        """Take the write lock; another process (the command line) holds it for moments only."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
                if not busy or time.monotonic() >= deadline:
                    raise StoreUnavailable(str(error)) from None
                await asyncio.sleep(_RETRY_SECONDS)
                # Whoever held the lock may have revoked a key; waiting must not hide that.
                self._notice_foreign_change()

    @staticmethod
    def _rollback(connection: sqlite3.Connection) -> None:
        if connection.in_transaction:
            try:
                connection.execute("ROLLBACK")
            except sqlite3.Error:  # nothing to undo any more; the next BEGIN says what is wrong
                return

    def _committed_after_all(self, connection: sqlite3.Connection, batch: list[_Waiting]) -> bool:
        """A COMMIT that failed may have reached the log all the same: look for one of its events."""
        event = next((id for waiting in batch for id in waiting.events), None)
        if event is None:
            return False
        try:
            found = connection.execute("SELECT 1 FROM audit_events WHERE id = ?", (event,)).fetchone()
        except sqlite3.Error:
            return False
        return found is not None

    def _notice_foreign_change(self) -> None:
        """``data_version`` moves when another connection commits, never for this one's own commits."""
        if self._connection is None:
            return
        try:
            version = self._read_data_version(self._connection)
        except sqlite3.Error:
            version = -1
        if version != self._data_version:
            self._data_version = version
            self._on_foreign_change()

    @staticmethod
    def _read_data_version(connection: sqlite3.Connection) -> int:
        row = connection.execute("PRAGMA data_version").fetchone()
        return int(row[0])
