"""Receivers of webhooks and what they received."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "webhook_receivers",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("scheme", sa.Text(), nullable=False),
        sa.Column("legacy_until", sa.BigInteger(), nullable=True),
        sa.Column("enabled", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_with_rowid=False,
    )
    op.create_index("webhook_receivers_workspace", "webhook_receivers", ["workspace_id", "id"], unique=False)
    op.create_table(
        "webhook_receiver_secrets",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("receiver_id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sqlite_with_rowid=False,
    )
    op.create_index("webhook_receiver_secrets_receiver", "webhook_receiver_secrets", ["receiver_id"], unique=False)
    op.create_index("webhook_receiver_secrets_expiry", "webhook_receiver_secrets", ["expires_at"], unique=False)
    op.create_table(
        "webhook_events_in",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("receiver_id", sa.Text(), nullable=False),
        sa.Column("receiver_name", sa.Text(), nullable=False),
        sa.Column("scheme", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("content_type", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("signed_id", sa.Text(), nullable=True),
        sa.Column("signed_at", sa.BigInteger(), nullable=True),
        sa.Column("unsigned", sa.BigInteger(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_with_rowid=False,
    )
    op.create_index("webhook_events_in_workspace", "webhook_events_in", ["workspace_id", "id"], unique=False)
    op.create_index("webhook_events_in_expiry", "webhook_events_in", ["expires_at"], unique=False)
    op.create_table(
        "webhook_receipts",
        sa.Column("receiver_id", sa.Text(), nullable=False),
        sa.Column("mark", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("receiver_id", "mark"),
        sqlite_with_rowid=False,
    )
    op.create_index("webhook_receipts_expiry", "webhook_receipts", ["expires_at"], unique=False)


def downgrade() -> None:
    raise NotImplementedError("restore a backup instead")
