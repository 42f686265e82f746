"""Every table. Times are whole microseconds since the epoch (BIGINT), states are text, secrets are envelopes.

Only TEXT, BIGINT and binary columns are used, so that a row means the same on SQLite and PostgreSQL and statements
need no per-row conversion.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

# On SQLite INTEGER, unlike BIGINT, names the row itself; and a table of text keys (``sqlite_with_rowid=False``) is one
# tree instead of two.
_NUMBER = BigInteger().with_variant(Integer, "sqlite")


def _text(name: str, *, null: bool = False) -> Column[str]:
    return Column(name, Text, nullable=null)


def _time(name: str, *, null: bool = False) -> Column[int]:
    return Column(name, BigInteger, nullable=null)


installation = Table(
    "installation",
    metadata,
    Column("one", BigInteger, primary_key=True, autoincrement=False),
    _text("id"),
    _time("created_at"),
    _text("secret_key_check"),
    _text("kek_check"),
    _time("first_key_made_at", null=True),
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
    _time("created_at"),
    _text("allowed_networks"),
    sqlite_with_rowid=False,
)

peppers = Table(
    "peppers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("envelope", LargeBinary, nullable=False),
    _time("created_at"),
    _time("retired_at", null=True),
    sqlite_with_rowid=False,
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    _text("workspace_id"),
    _text("kind"),
    _text("name"),
    _text("prefix"),
    _text("last4"),
    _text("hash"),
    _text("pepper_id"),
    _text("scopes"),
    _text("made_by"),
    _time("created_at"),
    _time("expires_at"),
    _time("revoked_at", null=True),
    _time("last_used_at", null=True),
    _text("successor_id", null=True),
    _text("allowed_networks"),
    UniqueConstraint("hash", name="api_keys_hash"),
    Index("api_keys_workspace", "workspace_id", "id"),
    sqlite_with_rowid=False,
)

previews = Table(
    "previews",
    metadata,
    Column("id", Text, primary_key=True),
    _text("workspace_id"),
    _text("principal_id"),
    _text("action"),
    Column("version", BigInteger, nullable=False),
    _text("nonce"),
    _text("digest"),
    _time("created_at"),
    _time("expires_at"),
    _time("used_at", null=True),
    Index("previews_expiry", "expires_at"),
    sqlite_with_rowid=False,
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", Text, primary_key=True),
    _text("workspace_id"),
    _text("principal_id"),
    _text("action"),
    Column("version", BigInteger, nullable=False),
    _text("effect"),
    _text("nonce"),
    _text("digest"),
    _text("status"),
    _text("policy_id"),
    Column("policy_version", BigInteger, nullable=False),
    _text("approval_id", null=True),
    _text("preview_id", null=True),
    _text("run_id", null=True),
    _text("step_id", null=True),
    _text("request_id"),
    Column("fence", BigInteger, nullable=False),
    _time("lease_until", null=True),
    _time("created_at"),
    _time("finished_at", null=True),
    Column("duration_ms", BigInteger, nullable=True),
    _text("error_code", null=True),
    _text("error_detail", null=True),
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

idempotency = Table(
    "idempotency",
    metadata,
    _text("workspace_id"),
    _text("principal_id"),
    _text("key_hash"),
    _text("fingerprint"),
    _text("subject_id"),
    _time("expires_at"),
    PrimaryKeyConstraint("workspace_id", "principal_id", "key_hash"),
    Index("idempotency_expiry", "expires_at"),
    sqlite_with_rowid=False,
)

plans = Table(
    "plans",
    metadata,
    Column("id", Text, primary_key=True),
    _text("workspace_id"),
    _text("principal_id"),
    _text("planner"),
    _text("digest"),
    _time("created_at"),
    _time("expires_at"),
    _time("used_at", null=True),
    Index("plans_expiry", "expires_at"),
    sqlite_with_rowid=False,
)

runs = Table(
    "runs",
    metadata,
    Column("id", Text, primary_key=True),
    _text("workspace_id"),
    _text("principal_id"),
    _text("plan_id", null=True),
    _text("request_id"),
    _text("status"),
    _time("created_at"),
    _time("finished_at", null=True),
    _time("cancel_requested_at", null=True),
    _text("lease_owner", null=True),
    _time("lease_until", null=True),
    Index("runs_workspace", "workspace_id", "id"),
    Index("runs_open", "status", "lease_until"),
    sqlite_with_rowid=False,
)

run_steps = Table(
    "run_steps",
    metadata,
    _text("run_id"),
    _text("workspace_id"),
    Column("position", BigInteger, nullable=False),
    _text("step_id"),
    _text("action"),
    _text("summary"),
    _text("depends_on"),
    _text("status"),
    _text("attempt_id", null=True),
    _text("error_code", null=True),
    _text("error_detail", null=True),
    PrimaryKeyConstraint("run_id", "position"),
    sqlite_with_rowid=False,
)

run_events = Table(
    "run_events",
    metadata,
    _text("run_id"),
    Column("seq", BigInteger, nullable=False),
    _text("workspace_id"),
    _time("occurred_at"),
    _text("kind"),
    _text("step_id"),
    _text("status"),
    PrimaryKeyConstraint("run_id", "seq"),
    sqlite_with_rowid=False,
)

envelopes = Table(
    "envelopes",
    metadata,
    _text("purpose"),
    _text("record_id"),
    _text("workspace_id"),
    _text("kek_id"),
    Column("body", LargeBinary, nullable=False),
    _time("expires_at", null=True),
    PrimaryKeyConstraint("purpose", "record_id"),
    Index("envelopes_expiry", "expires_at"),
    sqlite_with_rowid=False,
)

audit_events = Table(
    "audit_events",
    metadata,
    Column("seq", _NUMBER, primary_key=True, autoincrement=False),
    _text("id"),
    _time("occurred_at"),
    _text("workspace_id"),
    _text("principal"),
    _text("request_id"),
    _text("tag"),
    _text("target"),
    _text("action"),
    _text("decision"),
    _text("digest"),
    _text("outcome"),
    _text("commitment"),
    _text("prev_hash"),
    _text("hash"),
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
    _text("hash"),
    CheckConstraint("one = 1", name="audit_head_is_one_row"),
)

signed_heads = Table(
    "signed_heads",
    metadata,
    Column("size", _NUMBER, primary_key=True, autoincrement=False),
    _text("note"),
    _time("signed_at"),
)

anonymous_failures = Table(
    "anonymous_failures",
    metadata,
    _time("minute"),
    _text("reason"),
    _text("route"),
    _text("block"),
    Column("count", BigInteger, nullable=False),
    PrimaryKeyConstraint("minute", "reason", "route", "block"),
    sqlite_with_rowid=False,
)
