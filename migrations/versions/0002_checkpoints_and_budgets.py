"""Checkpoints, deadlines and budgets of batches, lanes of workers.

Every new column may be left out by a worker of the release before.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_BATCH_COLUMNS = ("deadline_at", "max_gpu_ms", "max_cost", "prices", "gpu_ms", "cost", "over_budget")


def upgrade() -> None:
    op.create_table(
        "checkpoints",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("roll", sa.Integer(), nullable=False),
        sa.Column("segment", sa.Integer(), nullable=False),
        sa.Column("final", sa.Boolean(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column(
            "numerics", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=False
        ),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("step >= 1 AND step <= total", name=op.f("ck_checkpoints_step")),
        sa.CheckConstraint("size >= 1", name=op.f("ck_checkpoints_size")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_checkpoints_job_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", "roll", "segment", "final", name=op.f("pk_checkpoints")),
    )
    # One ALTER a column: SQLite adds a column in place, and so does Postgres where the default is a constant.
    op.add_column("batches", sa.Column("deadline_at", sa.BigInteger(), nullable=True))
    op.add_column("batches", sa.Column("max_gpu_ms", sa.BigInteger(), nullable=True))
    op.add_column("batches", sa.Column("max_cost", sa.Float(), nullable=True))
    json = sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql")
    op.add_column("batches", sa.Column("prices", json, nullable=True))
    op.add_column("batches", sa.Column("gpu_ms", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("batches", sa.Column("cost", sa.Float(), nullable=False, server_default="0"))
    op.add_column("batches", sa.Column("over_budget", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("steps", sa.Column("faults", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("workers", sa.Column("lane", sa.String(length=100), nullable=True))
    op.add_column("workers", sa.Column("lane_since", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    for column in ("lane_since", "lane"):
        op.drop_column("workers", column)
    op.drop_column("steps", "faults")
    for column in reversed(_BATCH_COLUMNS):
        op.drop_column("batches", column)
    op.drop_table("checkpoints")
