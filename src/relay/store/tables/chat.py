"""The tables of chat sessions and of what models cost."""

from sqlalchemy import BigInteger, Column, Index, PrimaryKeyConstraint, Table, Text

from relay.store.tables.columns import metadata, text, time, whole

chat_sessions = Table(
    "chat_sessions",
    metadata,
    # SHA-256 of the id that the caller holds: whoever reads the database cannot enter a session with what is in it.
    Column("id", Text, primary_key=True),
    text("workspace_id"),
    text("owner_id"),
    text("credential_id"),
    time("created_at"),
    time("last_used_at"),
    time("expires_at"),
    whole("last_seq"),
    whole("turns"),
    whole("size"),
    whole("untrusted"),
    Index("chat_sessions_owner", "workspace_id", "owner_id", "created_at"),
    Index("chat_sessions_expiry", "expires_at"),
    sqlite_with_rowid=False,
)

chat_turns = Table(
    "chat_turns",
    metadata,
    Column("id", Text, primary_key=True),
    text("session_id"),
    text("workspace_id"),
    text("kind"),
    text("status"),
    text("request_id"),
    text("holder", null=True),
    time("lease_until", null=True),
    whole("fence"),
    time("created_at"),
    time("finished_at", null=True),
    time("cancel_requested_at", null=True),
    text("error_code", null=True),
    text("error_detail", null=True),
    time("expires_at"),
    Index("chat_turns_session", "session_id", "created_at"),
    Index("chat_turns_status", "status", "lease_until"),
    Index("chat_turns_expiry", "expires_at"),
    sqlite_with_rowid=False,
)

chat_entries = Table(
    "chat_entries",
    metadata,
    text("session_id"),
    Column("seq", BigInteger, nullable=False),
    text("workspace_id"),
    text("turn_id"),
    text("kind"),
    time("at"),
    time("expires_at"),
    PrimaryKeyConstraint("session_id", "seq"),
    Index("chat_entries_expiry", "expires_at"),
    sqlite_with_rowid=False,
)

chat_calls = Table(
    "chat_calls",
    metadata,
    Column("id", Text, primary_key=True),
    text("session_id"),
    text("workspace_id"),
    text("turn_id"),
    whole("seq"),
    text("action"),
    text("status"),
    text("attempt_id", null=True),
    text("approval_id", null=True),
    time("created_at"),
    time("expires_at"),
    Index("chat_calls_session", "session_id", "seq"),
    Index("chat_calls_attempt", "attempt_id"),
    Index("chat_calls_status", "status", "created_at"),
    Index("chat_calls_expiry", "expires_at"),
    sqlite_with_rowid=False,
)

model_spending = Table(
    "model_spending",
    metadata,
    text("workspace_id"),
    text("account"),
    # Whose budget: a UTC day (2026-01-31), or a chat session.
    text("scope"),
    whole("spent"),
    time("expires_at"),
    PrimaryKeyConstraint("workspace_id", "account", "scope"),
    Index("model_spending_expiry", "expires_at"),
    sqlite_with_rowid=False,
)
