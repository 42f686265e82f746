"""Requests for approval that have ended are found by their status, however many wait."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_ENDED = sa.text("status != 'pending'")


def upgrade() -> None:
    op.create_index(
        "approvals_ended",
        "approvals",
        ["workspace_id", "status", "id"],
        sqlite_where=_ENDED,
        postgresql_where=_ENDED,
    )


def downgrade() -> None:
    raise NotImplementedError("restore a backup instead")
