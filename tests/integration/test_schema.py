"""The schema: migrations make what the tables say, and a newer database is left alone."""

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text

from relay.store import schema
from relay.store.tables import metadata
from relay.store.target import Target
from relay.store.writer import StoreUnavailable

# Relay's own; the rest on PostgreSQL is the queue's.
_FOREIGN = "procrastinate"


def _own(kind: str, name: str | None) -> bool:
    return not (name or "").startswith((_FOREIGN, "alembic_version"))


def test_migrations_make_what_the_tables_say(target: Target) -> None:
    engine = create_engine(target.url)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_name": lambda name, kind, parents: kind != "table" or _own(kind, name),
                "include_object": lambda found, name, kind, reflected, other: (
                    # Made on PostgreSQL alone.
                    name != "audit_events_prev_hash" or target.kind == "postgres"
                ),
            },
        )
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_the_head_is_the_newest_migration() -> None:
    folder = Path(schema.__file__).parent / "migrations" / "versions"
    assert max(path.name[:4] for path in folder.glob("0*.py")) == schema.HEAD


def test_a_database_of_a_newer_release_is_left_alone(target: Target) -> None:
    engine = create_engine(target.url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(StoreUnavailable, match="newer"):
        schema.upgrade(target)
    assert schema.current_revision(target) == "9999"
