"""Read sessions: SQLAlchemy's async engine, which can change nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Executable, Row, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from relay.store.writer import StoreUnavailable


def sqlite_engine(path: Path) -> AsyncEngine:
    """Return a read-only engine over the SQLite file."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}", pool_size=8, max_overflow=0, pool_timeout=5)

    @event.listens_for(engine.sync_engine, "connect")
    def _set_up(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout = 5000")
        cursor.execute("PRAGMA query_only = ON")
        cursor.close()

    return engine


def postgres_engine(url: str) -> AsyncEngine:
    """Return a read-only engine over PostgreSQL; ``url`` has the form that :func:`relay.store.database.parse` gives."""
    from relay.store.link import STATEMENT_SECONDS, PatientAsyncConnection  # not at the top: SQLite needs no psycopg

    return create_async_engine(
        url,
        pool_size=4,
        max_overflow=4,
        pool_timeout=5,
        pool_pre_ping=True,
        connect_args={
            "async_creator_fn": PatientAsyncConnection.connect,
            "connect_timeout": 3,
            "application_name": "relay-reader",
            "options": f"-c default_transaction_read_only=on -c statement_timeout={STATEMENT_SECONDS}s",
        },
    )


class Reader:
    """Runs selects. Every failure of the database is :class:`~relay.store.writer.StoreUnavailable`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def all(self, statement: Executable) -> Sequence[Row[*tuple[Any, ...]]]:
        """Return every row."""
        try:
            async with self._engine.connect() as connection:
                return (await connection.execute(statement)).all()
        except (DBAPIError, SQLAlchemyError, OSError) as error:
            raise StoreUnavailable(type(error).__name__) from None

    async def one(self, statement: Executable) -> Row[*tuple[Any, ...]] | None:
        """Return the first row, or None."""
        rows = await self.all(statement)
        return rows[0] if rows else None

    async def close(self) -> None:
        """Give the connections back."""
        await self._engine.dispose()
