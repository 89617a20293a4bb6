"""Inputs: jobs that go on from what others left, and wait for it"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_HIGHEST_FIRST: sa.ColumnClause[int] = sa.literal_column("priority DESC")


def upgrade() -> None:
    """Apply. Jobs that are there wait for nothing."""
    op.create_table(
        "job_inputs",
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("reference", sa.String(length=64), nullable=False),
        sa.Column("source_id", sa.String(length=64), nullable=False),
        sa.Column("checkpoint_id", sa.String(length=64), nullable=True),
        sa.Column("kind", sa.String(length=16), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("key", sa.String(length=1000), nullable=True),
        sa.ForeignKeyConstraint(
            ["project_id", "job_id"],
            ["jobs.project_id", "jobs.id"],
            name=op.f("fk_job_inputs_project_id_job_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("project_id", "job_id", "index", name=op.f("pk_job_inputs")),
    )
    op.create_index("ix_job_inputs_source", "job_inputs", ["project_id", "source_id"])
    op.add_column("jobs", sa.Column("waiting", sa.Integer(), server_default="0", nullable=False))
    _drop_indexes()
    op.create_index("ix_jobs_claim", "jobs", ["state", "waiting", "fit_key", _HIGHEST_FIRST, "fair_rank", "queue_seq"])
    op.create_index("ix_jobs_round", "jobs", ["state", "waiting", "priority", "fair_rank"])
    op.create_index("ix_jobs_fair", "jobs", ["project_id", "state", "waiting", "priority", "fair_rank"])


def downgrade() -> None:
    """Undo."""
    _drop_indexes()
    op.drop_column("jobs", "waiting")
    op.create_index("ix_jobs_claim", "jobs", ["state", "fit_key", _HIGHEST_FIRST, "fair_rank", "queue_seq"])
    op.create_index("ix_jobs_round", "jobs", ["state", "priority", "fair_rank"])
    op.create_index("ix_jobs_fair", "jobs", ["project_id", "state", "priority", "fair_rank"])
    op.drop_index("ix_job_inputs_source", table_name="job_inputs")
    op.drop_table("job_inputs")


def _drop_indexes() -> None:
    for name in ("ix_jobs_claim", "ix_jobs_round", "ix_jobs_fair"):
        op.drop_index(name, table_name="jobs")
