"""Child tokens, honey keys, and credentials in quarantine."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_IS_CHILD = "parent_id IS NOT NULL"


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("parent_id", sa.Text(), nullable=True))
    op.add_column("api_keys", sa.Column("allowed_actions", sa.Text(), nullable=False, server_default="[]"))
    op.add_column("api_keys", sa.Column("honey", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("api_keys", sa.Column("quarantined_at", sa.BigInteger(), nullable=True))
    op.add_column("api_keys", sa.Column("quarantine_reason", sa.Text(), nullable=True))
    op.create_index(
        "api_keys_children",
        "api_keys",
        ["parent_id", "expires_at"],
        unique=False,
        sqlite_where=sa.text(_IS_CHILD),
        postgresql_where=sa.text(_IS_CHILD),
    )


def downgrade() -> None:
    raise NotImplementedError("restore a backup instead")
