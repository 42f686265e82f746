"""What keys usually do."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "unusual_cursor",
        sa.Column("one", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("began_at", sa.BigInteger(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=False),
        sa.Column("fence", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("one = 1", name="unusual_cursor_is_one_row"),
        sa.PrimaryKeyConstraint("one"),
    )
    op.create_table(
        "unusual_sightings",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("block", sa.Text(), nullable=False),
        sa.Column("workspace_id", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key_id", "block"),
        sqlite_with_rowid=False,
    )
    op.create_index("unusual_sightings_expiry", "unusual_sightings", ["expires_at"], unique=False)
    op.create_index("unusual_sightings_seen", "unusual_sightings", ["seen_at"], unique=False)


def downgrade() -> None:
    raise NotImplementedError("restore a backup instead")
