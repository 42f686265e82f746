"""The secrets of an installation by id, and the processes that hold them. No secret stands in these tables."""

from sqlalchemy import Column, PrimaryKeyConstraint, Table, Text

from relay.store.tables.columns import metadata, text, time

# ``state`` is known (held, not used yet), current, old (something may need it still) or retired. ``check_value`` tells
# a key from another without revealing it. ``endorsement`` is the signed note by which the next key of heads vouches
# for the one before.
secret_keys = Table(
    "secret_keys",
    metadata,
    text("kind"),
    text("id"),
    text("state"),
    text("check_value"),
    time("first_seen_at"),
    time("current_at", null=True),
    time("ends_at", null=True),
    time("retired_at", null=True),
    text("endorsement", null=True),
    PrimaryKeyConstraint("kind", "id"),
    sqlite_with_rowid=False,
)

# ``holds`` lists the secrets that the process has in memory, ``uses`` which of each kind it works with, both as JSON.
processes = Table(
    "processes",
    metadata,
    Column("id", Text, primary_key=True),
    text("kind"),
    text("holds"),
    text("uses"),
    time("started_at"),
    time("seen_at"),
    sqlite_with_rowid=False,
)
