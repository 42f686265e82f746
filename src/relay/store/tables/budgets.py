"""The tables of budgets and of the kill switch."""

from sqlalchemy import Column, Index, PrimaryKeyConstraint, Table, Text, UniqueConstraint

from relay.store.tables.columns import metadata, text, time, whole

budgets = Table(
    "budgets",
    metadata,
    Column("id", Text, primary_key=True),
    text("workspace_id"),
    text("scope"),
    text("subject"),
    text("connector"),
    text("action"),
    text("measure"),
    text("field"),
    whole("most"),
    text("created_by"),
    time("created_at"),
    UniqueConstraint(
        "workspace_id", "scope", "subject", "connector", "action", "measure", "field", name="budgets_one_of_a_kind"
    ),
    sqlite_with_rowid=False,
)

# ``day`` is the UTC day's number since the epoch. What is used in a day, and which members (hosts, recipients) count.
budget_days = Table(
    "budget_days",
    metadata,
    text("budget_id"),
    whole("day"),
    text("workspace_id"),
    whole("used"),
    time("nearly_used_at", null=True),
    time("exhausted_at", null=True),
    time("expires_at"),
    PrimaryKeyConstraint("budget_id", "day"),
    Index("budget_days_expiry", "expires_at"),
    sqlite_with_rowid=False,
)

budget_members = Table(
    "budget_members",
    metadata,
    text("budget_id"),
    whole("day"),
    text("member"),
    text("workspace_id"),
    whole("holders"),
    time("expires_at"),
    PrimaryKeyConstraint("budget_id", "day", "member"),
    Index("budget_members_expiry", "expires_at"),
    sqlite_with_rowid=False,
)

# What an attempt has taken, so that it can be given back. ``member`` is empty where an amount was taken.
budget_holds = Table(
    "budget_holds",
    metadata,
    text("attempt_id"),
    text("budget_id"),
    whole("day"),
    text("member"),
    text("workspace_id"),
    whole("amount"),
    time("expires_at"),
    PrimaryKeyConstraint("attempt_id", "budget_id", "day", "member"),
    Index("budget_holds_expiry", "expires_at"),
    sqlite_with_rowid=False,
)

# Who has been written to, ever: an HMAC of the address, and the attempt that wrote. An attempt that fails is taken out.
recipients = Table(
    "recipients",
    metadata,
    text("workspace_id"),
    text("recipient"),
    text("attempt_id"),
    PrimaryKeyConstraint("workspace_id", "recipient", "attempt_id"),
    Index("recipients_attempt", "attempt_id"),
    sqlite_with_rowid=False,
)

# What is stopped. ``workspace_id`` is empty, like ``subject``, where that is everything. ``authority`` says who alone
# may lift it: operator or workspace.
kill_switch = Table(
    "kill_switch",
    metadata,
    text("workspace_id"),
    text("kind"),
    text("subject"),
    text("authority"),
    text("reason"),
    text("switched_by"),
    time("since"),
    PrimaryKeyConstraint("workspace_id", "kind", "subject", "authority"),
    sqlite_with_rowid=False,
)
