"""The tables of the guarded path: keys, previews, attempts, plans, runs, envelopes and the audit log."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)

from relay.store.tables.columns import NUMBER, metadata, text, time

installation = Table(
    "installation",
    metadata,
    Column("one", BigInteger, primary_key=True, autoincrement=False),
    text("id"),
    time("created_at"),
    text("secret_key_check"),
    text("kek_check"),
    time("first_key_made_at", null=True),
    CheckConstraint("one = 1", name="installation_is_one_row"),
)

generations = Table(
    "generations",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

workspaces = Table(
    "workspaces",
    metadata,
    Column("id", Text, primary_key=True),
    time("created_at"),
    text("allowed_networks"),
    sqlite_with_rowid=False,
)

peppers = Table(
    "peppers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("envelope", LargeBinary, nullable=False),
    time("created_at"),
    time("retired_at", null=True),
    time("current_at", null=True),
    sqlite_with_rowid=False,
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    text("workspace_id"),
    text("kind"),
    text("name"),
    text("prefix"),
    text("last4"),
    text("hash"),
    text("pepper_id"),
    text("scopes"),
    text("made_by"),
    time("created_at"),
    time("expires_at"),
    time("revoked_at", null=True),
    time("last_used_at", null=True),
    text("successor_id", null=True),
    text("allowed_networks"),
    text("parent_id", null=True),
    Column("allowed_actions", Text, nullable=False, server_default="[]"),
    Column("honey", BigInteger, nullable=False, server_default="0"),
    time("quarantined_at", null=True),
    text("quarantine_reason", null=True),
    UniqueConstraint("hash", name="api_keys_hash"),
    Index("api_keys_workspace", "workspace_id", "id"),
    sqlite_with_rowid=False,
)

Index(
    "api_keys_children",
    api_keys.c.parent_id,
    api_keys.c.expires_at,
    sqlite_where=api_keys.c.parent_id.is_not(None),
    postgresql_where=api_keys.c.parent_id.is_not(None),
)

previews = Table(
    "previews",
    metadata,
    Column("id", Text, primary_key=True),
    text("workspace_id"),
    text("principal_id"),
    text("action"),
    Column("version", BigInteger, nullable=False),
    text("nonce"),
    text("digest"),
    time("created_at"),
    time("expires_at"),
    time("used_at", null=True),
    Index("previews_expiry", "expires_at"),
    sqlite_with_rowid=False,
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", Text, primary_key=True),
    text("workspace_id"),
    text("principal_id"),
    text("action"),
    Column("version", BigInteger, nullable=False),
    text("effect"),
    text("nonce"),
    text("digest"),
    text("status"),
    text("policy_id"),
    Column("policy_version", BigInteger, nullable=False),
    text("approval_id", null=True),
    text("preview_id", null=True),
    text("run_id", null=True),
    text("step_id", null=True),
    text("request_id"),
    Column("fence", BigInteger, nullable=False),
    time("lease_until", null=True),
    time("not_before", null=True),
    Column("tries", BigInteger, nullable=False, server_default="0"),
    time("created_at"),
    time("finished_at", null=True),
    Column("duration_ms", BigInteger, nullable=True),
    text("error_code", null=True),
    text("error_detail", null=True),
    Column("error_status", BigInteger, nullable=True),
    sqlite_with_rowid=False,
)

Index(
    "attempts_run_step",
    attempts.c.run_id,
    attempts.c.step_id,
    unique=True,
    sqlite_where=attempts.c.run_id.is_not(None),
    postgresql_where=attempts.c.run_id.is_not(None),
)
Index(
    "attempts_running",
    attempts.c.workspace_id,
    attempts.c.action,
    attempts.c.lease_until,
    sqlite_where=attempts.c.status == "running",
    postgresql_where=attempts.c.status == "running",
)
Index(
    "attempts_ready",
    attempts.c.not_before,
    sqlite_where=attempts.c.status == "ready",
    postgresql_where=attempts.c.status == "ready",
)
# What waits for a person or for its time: a kill switch looks through it, however long the table has grown.
Index(
    "attempts_waiting",
    attempts.c.workspace_id,
    attempts.c.id,
    sqlite_where=attempts.c.status.in_(("pending_approval", "ready")),
    postgresql_where=attempts.c.status.in_(("pending_approval", "ready")),
)

# Ids begin with their time: what a principal has done since some moment is a range of it.
Index("attempts_principal", attempts.c.workspace_id, attempts.c.principal_id, attempts.c.id)

idempotency = Table(
    "idempotency",
    metadata,
    text("workspace_id"),
    text("principal_id"),
    text("key_hash"),
    text("fingerprint"),
    text("subject_id"),
    time("expires_at"),
    PrimaryKeyConstraint("workspace_id", "principal_id", "key_hash"),
    Index("idempotency_expiry", "expires_at"),
    sqlite_with_rowid=False,
)

plans = Table(
    "plans",
    metadata,
    Column("id", Text, primary_key=True),
    text("workspace_id"),
    text("principal_id"),
    text("planner"),
    text("digest"),
    time("created_at"),
    time("expires_at"),
    time("used_at", null=True),
    Index("plans_expiry", "expires_at"),
    sqlite_with_rowid=False,
)

runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    text("workspace_id"),
    text("principal_id"),
    text("plan_id", null=True),
    text("request_id"),
    text("status"),
    time("created_at"),
    time("finished_at", null=True),
    time("cancel_requested_at", null=True),
    Column("fence", BigInteger, nullable=False, server_default="0"),
    text("lease_owner", null=True),
    time("lease_until", null=True),
    Index("runs_workspace", "workspace_id", "id"),
    Index("runs_open", "status", "lease_until"),
    sqlite_with_rowid=False,
)

run_steps = Table(
    "run_steps",
    metadata,
    text("run_id"),
    text("workspace_id"),
    Column("position", BigInteger, nullable=False),
    text("step_id"),
    text("action"),
    text("summary"),
    text("depends_on"),
    text("status"),
    text("attempt_id", null=True),
    text("error_code", null=True),
    text("error_detail", null=True),
    PrimaryKeyConstraint("run_id", "position"),
    sqlite_with_rowid=False,
)

run_events = Table(
    "run_events",
    metadata,
    text("run_id"),
    Column("seq", BigInteger, nullable=False),
    text("workspace_id"),
    time("occurred_at"),
    text("kind"),
    text("step_id"),
    text("status"),
    PrimaryKeyConstraint("run_id", "seq"),
    sqlite_with_rowid=False,
)

envelopes = Table(
    "envelopes",
    metadata,
    text("purpose"),
    text("record_id"),
    text("workspace_id"),
    text("kek_id"),
    Column("body", LargeBinary, nullable=False),
    time("expires_at", null=True),
    PrimaryKeyConstraint("purpose", "record_id"),
    Index("envelopes_expiry", "expires_at"),
    sqlite_with_rowid=False,
)

audit_events = Table(
    "audit_events",
    metadata,
    Column("seq", NUMBER, primary_key=True, autoincrement=False),
    text("id"),
    time("occurred_at"),
    text("workspace_id"),
    text("principal"),
    text("request_id"),
    text("tag"),
    text("target"),
    text("action"),
    text("decision"),
    text("digest"),
    text("outcome"),
    text("commitment"),
    text("prev_hash"),
    text("hash"),
    UniqueConstraint("id", name="audit_events_id"),
    Index("audit_events_workspace", "workspace_id", "seq"),
)

# Two processes that append at once must not both follow the same row. On SQLite the write lock forbids it, and an index
# of random values would cost every commit a page per event.
Index("audit_events_prev_hash", audit_events.c.prev_hash, unique=True).ddl_if(dialect="postgresql")

audit_head = Table(
    "audit_head",
    metadata,
    Column("one", BigInteger, primary_key=True, autoincrement=False),
    Column("size", BigInteger, nullable=False),
    text("hash"),
    CheckConstraint("one = 1", name="audit_head_is_one_row"),
)

signed_heads = Table(
    "signed_heads",
    metadata,
    Column("size", NUMBER, primary_key=True, autoincrement=False),
    text("note"),
    time("signed_at"),
)

anonymous_failures = Table(
    "anonymous_failures",
    metadata,
    time("minute"),
    text("reason"),
    text("route"),
    text("block"),
    Column("count", BigInteger, nullable=False),
    PrimaryKeyConstraint("minute", "reason", "route", "block"),
    sqlite_with_rowid=False,
)
