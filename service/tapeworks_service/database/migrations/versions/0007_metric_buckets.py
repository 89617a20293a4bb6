"""Buckets of metric points at several widths"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. Buckets of the points that are there are made when somebody asks for them."""
    op.add_column("jobs", sa.Column("metric_built", sa.BigInteger(), server_default="0", nullable=False))
    _create(
        "metric_series",
        [
            sa.Column("width", sa.BigInteger(), nullable=False),
            sa.Column("low_step", sa.BigInteger(), nullable=False),
            sa.Column("high_step", sa.BigInteger(), nullable=False),
        ],
    )
    _create(
        "metric_buckets",
        [
            sa.Column("level", sa.Integer(), nullable=False),
            sa.Column("number", sa.BigInteger(), nullable=False),
            sa.Column("first_step", sa.BigInteger(), nullable=False),
            sa.Column("last_step", sa.BigInteger(), nullable=False),
            sa.Column("count", sa.BigInteger(), nullable=False),
            sa.Column("nans", sa.BigInteger(), nullable=False),
            sa.Column("infinities", sa.BigInteger(), nullable=False),
            sa.Column("low", sa.Double()),
            sa.Column("high", sa.Double()),
            sa.Column("last", sa.Double()),
            sa.Column("at", sa.Double(), nullable=False),
        ],
        "level",
        "number",
    )


def _create(name: str, columns: list[sa.Column[object]], *key: str) -> None:
    op.create_table(
        name,
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        *columns,
        sa.ForeignKeyConstraint(
            ["project_id", "job_id"], ["jobs.project_id", "jobs.id"],
            name=op.f(f"fk_{name}_project_id_job_id"), ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("project_id", "job_id", "name", *key, name=op.f(f"pk_{name}")),
    )  # fmt: skip


def downgrade() -> None:
    """Undo. The points stay."""
    op.drop_table("metric_buckets")
    op.drop_table("metric_series")
    op.drop_column("jobs", "metric_built")
