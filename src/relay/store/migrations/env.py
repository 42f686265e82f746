"""Alembic's entry: one connection, one transaction, one process at a time."""

from alembic import context
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from relay.store.tables import metadata
from relay.store.target import Target

ADVISORY_LOCK = 7235106


def run() -> None:
    target: Target = context.config.attributes["target"]
    engine = create_engine(target.url, poolclass=NullPool)
    with engine.connect() as connection:
        if target.kind == "sqlite":
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            connection.exec_driver_sql("PRAGMA busy_timeout = 10000")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
        context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
        context.run_migrations()
        connection.commit()
    engine.dispose()


run()
