"""Reading a database without changing anything, not even beside it: for those who look and must leave no trace."""

from pathlib import Path

from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from relay.store.reader import Reader, postgres_engine
from relay.store.target import Target


def looking_reader(target: Target) -> Reader:
    """Return a reader that makes no file. :class:`~relay.store.writer.StoreUnavailable` is raised when it reads."""
    if target.path is None:
        return Reader(postgres_engine(target.url))
    return Reader(create_async_engine(_read_only(target.path), poolclass=NullPool))


def is_still(path: Path) -> bool:
    """Say whether nobody has the SQLite database open: an open one has its write-ahead log beside it."""
    return not path.with_name(path.name + "-wal").exists()


def _read_only(path: Path) -> URL:
    # A read-only connection would make the shared memory of a database that nobody has open, and leave it there under
    # this user's name: an operator who looks as root would keep the server's own user out. Taken as immutable, the
    # file needs none.
    how = {"immutable": "1"} if is_still(path) else {"mode": "ro"}
    return URL.create("sqlite+aiosqlite", database=path.absolute().as_uri(), query={**how, "uri": "true"})
