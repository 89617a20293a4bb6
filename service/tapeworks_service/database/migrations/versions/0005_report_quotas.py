"""How many bytes of events and log lines a job has stored"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_COLUMNS = ("event_bytes", "log_bytes")


def upgrade() -> None:
    """Apply. What is there is not counted: its job's counters begin at 0."""
    for name in _COLUMNS:
        op.add_column("jobs", sa.Column(name, sa.BigInteger(), server_default="0", nullable=False))


def downgrade() -> None:
    """Undo."""
    for name in reversed(_COLUMNS):
        op.drop_column("jobs", name)
