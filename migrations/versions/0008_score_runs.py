"""Attempts at steps of evaluation runs are rows, as those of jobs' steps are.

A table of its own: the attempts of jobs are many, and none of their columns changes. Workers of the release before go
on; what they end leaves no row here.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "score_runs",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("step_id", sa.BigInteger(), nullable=False),
        sa.Column("batch_id", sa.String(length=40), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("queue", sa.String(length=120), nullable=True),
        sa.Column("worker", sa.String(length=200), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.String(length=32), nullable=False),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "outcome IN ('done', 'skipped', 'held', 'blocked', 'rejected', 'retried', 'failed', 'cancelled', "
            "'released', 'rewound', 'lease_ended')",
            name=op.f("ck_score_runs_outcome"),
        ),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_score_runs_batch_id_batches")),
        sa.ForeignKeyConstraint(["step_id"], ["score_steps.id"], name=op.f("fk_score_runs_step_id_score_steps")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_score_runs")),
        sa.UniqueConstraint("step_id", "attempt", name=op.f("uq_score_runs_step_id_attempt")),
    )
    op.create_index(op.f("ix_score_runs_batch_id"), "score_runs", ["batch_id"], unique=False)
    op.create_index("ix_score_runs_queue_ended", "score_runs", ["queue", "ended_at"], unique=False)


def downgrade() -> None:
    op.drop_table("score_runs")
