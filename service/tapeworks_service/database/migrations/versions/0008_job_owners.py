"""Who submitted a job"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. Of jobs that are there already it is not known."""
    op.add_column("jobs", sa.Column("owner", sa.String(length=200)))
    op.create_index("ix_jobs_owner", "jobs", ["project_id", "owner", "queue_seq"])


def downgrade() -> None:
    """Undo."""
    op.drop_index("ix_jobs_owner", "jobs")
    op.drop_column("jobs", "owner")
