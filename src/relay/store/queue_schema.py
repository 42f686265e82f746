"""The tables of procrastinate, which dispatches durable work on PostgreSQL: made and migrated like Relay's own."""

from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Final

import psycopg

from relay.store.target import Target
from relay.store.writer import StoreUnavailable

QUEUE_HEAD: Final = "03.04.00_50_post_add_retry_failed_job_procedure"
"""The newest of procrastinate's migrations, by the name of its file; a test compares it with the installed package."""
ADVISORY_LOCK: Final = 7235107
_CONNECT_SECONDS: Final = 5
# Which version there is stands in a comment on the table: procrastinate itself keeps no note of it.
_MARK: Final = "relay: procrastinate at "
_FOUND: Final = (
    "SELECT to_regclass('procrastinate_jobs') IS NOT NULL, obj_description(to_regclass('procrastinate_jobs'))"
)


def queue_revision(target: Target) -> str | None:
    """Return the version of procrastinate's tables, or None when there are none."""
    try:
        with psycopg.connect(target.conninfo, connect_timeout=_CONNECT_SECONDS) as session:
            return _revision(session)
    except psycopg.OperationalError:
        raise StoreUnavailable(f"{target.place} gives no connection") from None


def upgrade_queue(target: Target) -> bool:
    """Bring procrastinate's tables to :data:`QUEUE_HEAD`; return whether anything was done.

    Safe to run from several processes at once. Tables of a newer version are left alone, since a replica of a newer
    release made them; :class:`~relay.store.writer.StoreUnavailable` for tables that Relay did not make.
    """
    if (queue_revision(target) or "") >= QUEUE_HEAD:
        return False
    try:
        with psycopg.connect(target.conninfo, connect_timeout=_CONNECT_SECONDS) as session:
            session.execute("SELECT pg_advisory_xact_lock(%s)", (ADVISORY_LOCK,))
            found = _revision(session)
            if (found or "") >= QUEUE_HEAD:
                return False
            for statements in _missing(found):
                session.execute(statements.encode())
            session.execute(f"COMMENT ON TABLE procrastinate_jobs IS '{_MARK}{QUEUE_HEAD}'".encode())
    except psycopg.OperationalError:
        raise StoreUnavailable(f"{target.place} gives no connection") from None
    return True


def _revision(session: psycopg.Connection[Any]) -> str | None:
    row = session.execute(_FOUND).fetchone()
    assert row is not None
    exists, comment = row
    if not exists:
        return None
    if not str(comment or "").startswith(_MARK):
        raise StoreUnavailable("it holds another application's procrastinate tables; give Relay a database of its own")
    return str(comment).removeprefix(_MARK)


def _missing(found: str | None) -> list[str]:
    """Return what brings tables of a version up to date: the whole schema, or the migrations that came after it."""
    files = resources.files("procrastinate") / "sql"
    if found is None:
        return [(files / "schema.sql").read_text(encoding="utf-8")]
    return [file.read_text(encoding="utf-8") for file in migrations() if file.name.removesuffix(".sql") > found]


def migrations() -> list[Traversable]:
    """Return the migrations of the installed procrastinate, in their order."""
    folder = resources.files("procrastinate") / "sql" / "migrations"
    return sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
