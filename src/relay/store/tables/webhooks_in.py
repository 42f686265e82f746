"""The tables of what is received: receivers, their secrets, verified events, and receipts that find duplicates."""

from sqlalchemy import Column, Index, PrimaryKeyConstraint, Table, Text

from relay.store.tables.columns import metadata, text, time, whole

webhook_receivers = Table(
    "webhook_receivers",
    metadata,
    Column("id", Text, primary_key=True),
    text("workspace_id"),
    text("name"),
    text("scheme"),
    time("legacy_until", null=True),
    whole("enabled"),
    text("created_by"),
    time("created_at"),
    Index("webhook_receivers_workspace", "workspace_id", "id"),
    sqlite_with_rowid=False,
)

# The secret itself is an envelope under the same id.
webhook_receiver_secrets = Table(
    "webhook_receiver_secrets",
    metadata,
    Column("id", Text, primary_key=True),
    text("receiver_id"),
    text("workspace_id"),
    time("created_at"),
    time("expires_at", null=True),
    Index("webhook_receiver_secrets_receiver", "receiver_id"),
    Index("webhook_receiver_secrets_expiry", "expires_at"),
    sqlite_with_rowid=False,
)

# The body is an envelope under the same id.
webhook_events = Table(
    "webhook_events_in",
    metadata,
    Column("id", Text, primary_key=True),
    text("workspace_id"),
    text("receiver_id"),
    text("receiver_name"),
    text("scheme"),
    text("type"),
    text("content_type"),
    whole("size"),
    text("signed_id", null=True),
    time("signed_at", null=True),
    whole("unsigned"),
    text("request_id"),
    time("received_at"),
    time("expires_at"),
    Index("webhook_events_in_workspace", "workspace_id", "id"),
    Index("webhook_events_in_expiry", "expires_at"),
    sqlite_with_rowid=False,
)

webhook_receipts = Table(
    "webhook_receipts",
    metadata,
    text("receiver_id"),
    text("mark"),
    text("event_id"),
    time("expires_at"),
    PrimaryKeyConstraint("receiver_id", "mark"),
    Index("webhook_receipts_expiry", "expires_at"),
    sqlite_with_rowid=False,
)
