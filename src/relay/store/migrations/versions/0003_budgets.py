"""Budgets and the kill switch."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "budget_days",
        sa.Column("budget_id", sa.Text(), nullable=False),
        sa.Column("day", sa.BigInteger(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("used", sa.BigInteger(), nullable=False),
        sa.Column("nearly_used_at", sa.BigInteger(), nullable=True),
        sa.Column("exhausted_at", sa.BigInteger(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("budget_id", "day"),
        sqlite_with_rowid=False,
    )
    op.create_index("budget_days_expiry", "budget_days", ["expires_at"], unique=False)
    op.create_table(
        "budget_holds",
        sa.Column("attempt_id", sa.Text(), nullable=False),
        sa.Column("budget_id", sa.Text(), nullable=False),
        sa.Column("day", sa.BigInteger(), nullable=False),
        sa.Column("member", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("attempt_id", "budget_id", "day", "member"),
        sqlite_with_rowid=False,
    )
    op.create_index("budget_holds_expiry", "budget_holds", ["expires_at"], unique=False)
    op.create_table(
        "budget_members",
        sa.Column("budget_id", sa.Text(), nullable=False),
        sa.Column("day", sa.BigInteger(), nullable=False),
        sa.Column("member", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("holders", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("budget_id", "day", "member"),
        sqlite_with_rowid=False,
    )
    op.create_index("budget_members_expiry", "budget_members", ["expires_at"], unique=False)
    op.create_table(
        "budgets",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("connector", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("measure", sa.Text(), nullable=False),
        sa.Column("field", sa.Text(), nullable=False),
        sa.Column("most", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint(
            "workspace_id", "scope", "subject", "connector", "action", "measure", "field", name="budgets_one_of_a_kind"
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "kill_switch",
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("authority", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("switched_by", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "kind", "subject", "authority"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "recipients",
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("recipient", sa.Text(), nullable=False),
        sa.Column("attempt_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "recipient", "attempt_id"),
        sqlite_with_rowid=False,
    )
    op.create_index("recipients_attempt", "recipients", ["attempt_id"], unique=False)
    op.bulk_insert(
        sa.table("generations", sa.column("name"), sa.column("value")),
        [{"name": "budgets", "value": 0}, {"name": "kill_switch", "value": 0}],
    )


def downgrade() -> None:
    raise NotImplementedError("restore a backup instead")
