"""What users upload: uploads of a project, and the datasets, packages and bundles that are made of them"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_OF_ATTEMPTS: dict[str, sa.types.TypeEngine[Any]] = {
    "job_id": sa.String(64),
    "attempt": sa.Integer(),
    "path": sa.String(1000),
}


def upgrade() -> None:
    """Apply. Uploads that are there belong to attempts."""
    with op.batch_alter_table("uploads") as table:
        for name, kind in _OF_ATTEMPTS.items():
            table.alter_column(name, existing_type=kind, nullable=True)
    of_project = sa.text("job_id IS NULL")
    op.create_index(
        "ix_uploads_content", "uploads", ["project_id", "sha256", "bytes"],
        unique=True, sqlite_where=of_project, postgresql_where=of_project,
    )  # fmt: skip
    op.add_column("workers", sa.Column("packages", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("workers", sa.Column("sandbox", sa.JSON(none_as_null=True), server_default="{}", nullable=False))
    op.create_table(
        "assets",
        sa.Column(
            "asset_seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("project_id", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("format", sa.String(length=16), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=1000), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=True),
        sa.Column("document", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_assets_project_id")),
        sa.PrimaryKeyConstraint("asset_seq", name=op.f("pk_assets")),
        sa.UniqueConstraint("id", name=op.f("uq_assets_id")),
        sa.UniqueConstraint(
            "project_id", "kind", "name", "version", name=op.f("uq_assets_project_id_kind_name_version")
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_assets_key", "assets", ["project_id", "key"])
    op.create_index("ix_assets_job", "assets", ["job_id"])


def downgrade() -> None:
    """Undo. Uploads of projects go with their assets."""
    op.drop_table("assets")
    op.drop_column("workers", "sandbox")
    op.drop_column("workers", "packages")
    op.drop_index("ix_uploads_content", table_name="uploads")
    op.execute("DELETE FROM uploads WHERE job_id IS NULL")
    with op.batch_alter_table("uploads") as table:
        for name, kind in _OF_ATTEMPTS.items():
            table.alter_column(name, existing_type=kind, nullable=False)
