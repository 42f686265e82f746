"""Approvals, and attempts that wait."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempts", sa.Column("not_before", sa.BigInteger(), nullable=True))
    op.add_column("attempts", sa.Column("tries", sa.BigInteger(), nullable=False, server_default="0"))
    _partial("attempts_ready", "attempts", ["not_before"], "status = 'ready'")
    _partial("attempts_waiting", "attempts", ["workspace_id", "id"], "status IN ('pending_approval', 'ready')")
    op.create_index("attempts_principal", "attempts", ["workspace_id", "principal_id", "id"])
    op.create_table(
        "approvals",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("attempt_id", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("requester_id", sa.Text(), nullable=False),
        sa.Column("requester_made_by", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("approvers", sa.BigInteger(), nullable=False),
        sa.Column("other_person", sa.BigInteger(), nullable=False),
        sa.Column("policy_id", sa.Text(), nullable=False),
        sa.Column("policy_version", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("seen_version", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("decided_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("attempt_id", name="approvals_attempt"),
        sqlite_with_rowid=False,
    )
    op.create_index("approvals_workspace", "approvals", ["workspace_id", "id"])
    _partial("approvals_pending", "approvals", ["workspace_id", "id"], "status = 'pending'")
    _partial("approvals_requester", "approvals", ["workspace_id", "requester_id"], "status = 'pending'")
    _partial("approvals_expiry", "approvals", ["expires_at"], "status = 'pending'")
    op.create_table(
        "approval_decisions",
        sa.Column("approval_id", sa.Text(), nullable=False),
        sa.Column("approver_id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("approver_made_by", sa.Text(), nullable=False),
        sa.Column("decision", sa.Text(), nullable=False),
        sa.Column("factor", sa.Text(), nullable=False),
        sa.Column("decided_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("approval_id", "approver_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "approval_notices",
        sa.Column("approval_id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("tries", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("approval_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("approval_notices_due", "approval_notices", ["due_at"])


def _partial(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def downgrade() -> None:
    raise NotImplementedError("restore a backup instead")
