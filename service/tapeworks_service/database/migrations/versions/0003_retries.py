"""Retries: jobs that go on from another job's checkpoint as from their own"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. What is there is named by a spec."""
    op.add_column("job_inputs", sa.Column("resume", sa.Boolean(), server_default=sa.false(), nullable=False))


def downgrade() -> None:
    """Undo."""
    op.drop_column("job_inputs", "resume")
