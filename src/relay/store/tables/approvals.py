"""The tables of approvals: requests, who decided what, and the mails about them that are still to be sent."""

from sqlalchemy import Column, Index, PrimaryKeyConstraint, Table, Text, UniqueConstraint

from relay.store.tables.columns import metadata, text, time, whole

approvals = Table(
    "approvals",
    metadata,
    Column("id", Text, primary_key=True),
    text("workspace_id"),
    text("attempt_id"),
    text("action"),
    text("digest"),
    text("requester_id"),
    text("requester_made_by"),
    text("status"),
    whole("approvers"),
    whole("other_person"),
    text("policy_id"),
    whole("policy_version"),
    text("reason"),
    text("seen_version", null=True),
    time("created_at"),
    time("expires_at"),
    time("decided_at", null=True),
    UniqueConstraint("attempt_id", name="approvals_attempt"),
    Index("approvals_workspace", "workspace_id", "id"),
    sqlite_with_rowid=False,
)

# What waits, and only that: the lists and the sweep cost the same however many have been decided.
Index(
    "approvals_pending",
    approvals.c.workspace_id,
    approvals.c.id,
    sqlite_where=approvals.c.status == "pending",
    postgresql_where=approvals.c.status == "pending",
)
Index(
    "approvals_requester",
    approvals.c.workspace_id,
    approvals.c.requester_id,
    sqlite_where=approvals.c.status == "pending",
    postgresql_where=approvals.c.status == "pending",
)
Index(
    "approvals_expiry",
    approvals.c.expires_at,
    sqlite_where=approvals.c.status == "pending",
    postgresql_where=approvals.c.status == "pending",
)

# What has ended, and only that: lists of it cost the same however many wait.
Index(
    "approvals_ended",
    approvals.c.workspace_id,
    approvals.c.status,
    approvals.c.id,
    sqlite_where=approvals.c.status != "pending",
    postgresql_where=approvals.c.status != "pending",
)

approval_decisions = Table(
    "approval_decisions",
    metadata,
    text("approval_id"),
    text("approver_id"),
    text("workspace_id"),
    text("approver_made_by"),
    text("decision"),
    text("factor"),
    time("decided_at"),
    PrimaryKeyConstraint("approval_id", "approver_id"),
    sqlite_with_rowid=False,
)

# A row for each mail that is still to be sent: it goes when the mail has gone, or is given up.
approval_notices = Table(
    "approval_notices",
    metadata,
    Column("approval_id", Text, primary_key=True),
    text("workspace_id"),
    time("created_at"),
    time("due_at"),
    whole("tries"),
    Index("approval_notices_due", "due_at"),
    sqlite_with_rowid=False,
)
