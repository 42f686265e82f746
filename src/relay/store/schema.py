"""The schema's version: looking at it, and bringing it up to date with Alembic, procrastinate's tables included."""

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Any, Final, LiteralString

from relay.store.target import Target
from relay.store.writer import StoreUnavailable

HEAD: Final = "0012"
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_INSTALLED: Final = "SELECT 1 FROM installation"
_VERSION: Final = "SELECT version_num FROM alembic_version"


def current_revision(target: Target) -> str | None:
    """Return the database's revision, or None when it has no schema yet."""
    if target.kind == "sqlite":
        assert target.path is not None
        if not target.path.exists():
            return None
        with contextlib.closing(sqlite3.connect(target.path)) as connection:
            try:
                row = connection.execute(_VERSION).fetchone()
            except sqlite3.OperationalError:
                return None
            except sqlite3.DatabaseError as error:
                raise _damaged(target, error) from None
            return str(row[0]) if row else None
    found = _ask_postgres(target, "SELECT to_regclass('alembic_version')")
    if found is None or found[0] is None:
        return None
    row = _ask_postgres(target, _VERSION)
    return str(row[0]) if row else None


def has_data(target: Target) -> bool:
    """Say whether an installation lives in this database, so that its keys must be the old ones."""
    if current_revision(target) is None:
        return False
    if target.kind == "sqlite":
        assert target.path is not None
        with contextlib.closing(sqlite3.connect(target.path)) as connection:
            try:
                return connection.execute(_INSTALLED).fetchone() is not None
            except sqlite3.DatabaseError as error:
                raise _damaged(target, error) from None
    return _ask_postgres(target, _INSTALLED) is not None


def _damaged(target: Target, error: sqlite3.DatabaseError) -> StoreUnavailable:
    return StoreUnavailable(
        f"{target.place} cannot be read ({error}); restore a backup,"
        " and remove the files beside it that end in -wal and -shm"
    )


def _ask_postgres(target: Target, question: LiteralString) -> tuple[Any, ...] | None:
    import psycopg  # not at the top: a process on SQLite never needs it

    try:
        with psycopg.connect(target.conninfo, connect_timeout=5) as session:
            return session.execute(question).fetchone()
    except psycopg.OperationalError:
        raise StoreUnavailable(f"{target.place} gives no connection") from None


def upgrade(target: Target) -> bool:
    """Bring the schema to :data:`HEAD`, on PostgreSQL the queue's tables as well; return whether anything was done.

    Safe to run from several processes at once: PostgreSQL serialises them by an advisory lock, SQLite by its write
    lock. A new SQLite file is made readable by its owner alone.
    """
    upgraded = _upgrade_own(target)
    if target.kind == "sqlite":
        return upgraded
    from relay.store.queue_schema import upgrade_queue  # not at the top: a process on SQLite never needs it

    return upgrade_queue(target) or upgraded


def _upgrade_own(target: Target) -> bool:
    found = current_revision(target)
    if found == HEAD:
        return False
    if found is not None and found > HEAD:
        raise StoreUnavailable(
            f"its schema is {found}, from a newer Relay; this one knows {HEAD}: run the newer one, or restore a backup"
        )
    if target.path is not None:
        target.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(target.path, os.O_CREAT | os.O_RDWR, 0o600))
    # Alembic takes a fifth of a second to import and is needed only when there is something to do.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["target"] = target
    command.upgrade(config, "head")
    return True
