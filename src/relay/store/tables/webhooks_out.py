"""The tables of what is sent: endpoints, messages, their deliveries, and notices that are given once."""

from sqlalchemy import Column, Index, PrimaryKeyConstraint, Table, Text

from relay.store.tables.columns import metadata, text, time, whole

webhook_endpoints = Table(
    "webhook_endpoints",
    metadata,
    Column("id", Text, primary_key=True),
    text("workspace_id"),
    text("description"),
    text("events"),
    whole("legacy_signature"),
    text("status"),
    text("disabled_reason", null=True),
    time("disabled_at", null=True),
    text("created_by"),
    time("created_at"),
    time("changed_at"),
    whole("failures"),
    time("failing_since", null=True),
    time("paused_until", null=True),
    Index("webhook_endpoints_workspace", "workspace_id", "id"),
    sqlite_with_rowid=False,
)

webhook_messages = Table(
    "webhook_messages",
    metadata,
    Column("id", Text, primary_key=True),
    text("workspace_id"),
    text("type"),
    time("created_at"),
    time("expires_at"),
    Index("webhook_messages_expiry", "expires_at"),
    sqlite_with_rowid=False,
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", Text, primary_key=True),
    text("workspace_id"),
    text("endpoint_id"),
    text("message_id"),
    text("type"),
    text("status"),
    whole("attempts"),
    time("due_at"),
    time("lease_until", null=True),
    whole("fence"),
    time("created_at"),
    time("finished_at", null=True),
    text("replay_of", null=True),
    whole("status_code", null=True),
    text("error_code", null=True),
    time("expires_at"),
    Index("webhook_deliveries_workspace", "workspace_id", "id"),
    Index("webhook_deliveries_endpoint", "endpoint_id", "id"),
    Index("webhook_deliveries_message", "message_id", "endpoint_id", "id"),
    Index("webhook_deliveries_expiry", "expires_at"),
    sqlite_with_rowid=False,
)

Index(
    "webhook_deliveries_due",
    webhook_deliveries.c.endpoint_id,
    webhook_deliveries.c.due_at,
    webhook_deliveries.c.id,
    sqlite_where=webhook_deliveries.c.status == "pending",
    postgresql_where=webhook_deliveries.c.status == "pending",
)

Index(
    "webhook_deliveries_leased",
    webhook_deliveries.c.endpoint_id,
    webhook_deliveries.c.lease_until,
    sqlite_where=webhook_deliveries.c.lease_until.is_not(None),
    postgresql_where=webhook_deliveries.c.lease_until.is_not(None),
)

webhook_attempts = Table(
    "webhook_attempts",
    metadata,
    text("delivery_id"),
    whole("number"),
    text("workspace_id"),
    time("started_at"),
    whole("duration_ms"),
    whole("status_code", null=True),
    text("error_code", null=True),
    text("error_detail", null=True),
    time("expires_at"),
    PrimaryKeyConstraint("delivery_id", "number"),
    Index("webhook_attempts_expiry", "expires_at"),
    sqlite_with_rowid=False,
)

webhook_notices = Table(
    "webhook_notices",
    metadata,
    text("workspace_id"),
    text("subject"),
    time("expires_at"),
    PrimaryKeyConstraint("workspace_id", "subject"),
    Index("webhook_notices_expiry", "expires_at"),
    sqlite_with_rowid=False,
)
