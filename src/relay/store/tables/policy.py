"""The tables of policy: versions of each workspace's policies, and what decisions were made upon."""

from sqlalchemy import Column, Index, PrimaryKeyConstraint, Table, Text

from relay.store.tables.columns import metadata, text, time, whole

policy_versions = Table(
    "policy_versions",
    metadata,
    text("workspace_id"),
    whole("version"),
    text("text"),
    text("digest"),
    text("comment"),
    text("author"),
    time("created_at"),
    PrimaryKeyConstraint("workspace_id", "version"),
    sqlite_with_rowid=False,
)

# Which version holds (0 is the built-in default), and the highest number that was ever given.
policy_heads = Table(
    "policy_heads",
    metadata,
    Column("workspace_id", Text, primary_key=True),
    whole("active"),
    whole("latest"),
    text("changed_by"),
    time("changed_at"),
    sqlite_with_rowid=False,
)

# A decision's inputs are an envelope with the purpose ``decision`` and the same end.
decisions = Table(
    "decisions",
    metadata,
    text("workspace_id"),
    time("occurred_at"),
    text("id"),
    text("principal_id"),
    text("action"),
    text("kind"),
    text("attempt_id"),
    text("effect"),
    whole("approvers"),
    whole("other_person"),
    text("policy_id"),
    whole("policy_version"),
    time("expires_at"),
    PrimaryKeyConstraint("workspace_id", "occurred_at", "id"),
    Index("decisions_expiry", "expires_at"),
    sqlite_with_rowid=False,
)

policy_replays = Table(
    "policy_replays",
    metadata,
    text("workspace_id"),
    text("digest"),
    text("principal_id"),
    time("finished_at"),
    whole("days"),
    whole("replayed"),
    whole("flips"),
    time("expires_at"),
    PrimaryKeyConstraint("workspace_id", "digest"),
    Index("policy_replays_expiry", "expires_at"),
    sqlite_with_rowid=False,
)
