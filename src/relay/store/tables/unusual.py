"""The tables of unusual use: how far the log has been read, and from where keys were used since."""

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, PrimaryKeyConstraint, Table

from relay.store.tables.columns import metadata, text, time, whole

unusual_cursor = Table(
    "unusual_cursor",
    metadata,
    Column("one", BigInteger, primary_key=True, autoincrement=False),
    whole("seq"),
    time("began_at"),
    text("holder"),
    time("lease_until"),
    whole("fence"),
    CheckConstraint("one = 1", name="unusual_cursor_is_one_row"),
)

unusual_sightings = Table(
    "unusual_sightings",
    metadata,
    text("key_id"),
    text("block"),
    text("workspace_id"),
    time("seen_at"),
    time("expires_at"),
    PrimaryKeyConstraint("key_id", "block"),
    Index("unusual_sightings_seen", "seen_at"),
    Index("unusual_sightings_expiry", "expires_at"),
    sqlite_with_rowid=False,
)
