"""The steps of evaluation runs: a slice of clips, to be scored by one model family.

Workers of the release before know nothing of them, and leave them to those of this one.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_STATES = "'pending', 'waiting', 'dispatched', 'running', 'done', 'skipped', 'failed', 'cancelled'"


def upgrade() -> None:
    op.create_table(
        "score_steps",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("run_id", sa.String(40), nullable=False),
        sa.Column("batch_id", sa.String(40), nullable=False),
        sa.Column("family", sa.String(32), nullable=False),
        sa.Column("first_seq", sa.Integer(), nullable=False),
        sa.Column("last_seq", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("queue", sa.String(120), nullable=True),
        sa.Column("worker", sa.String(200), nullable=True),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("not_before", sa.BigInteger(), nullable=False),
        sa.Column("dispatched_at", sa.BigInteger(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in ("errors", "faults", "crashes", "losses")),
        sa.Column("scored", sa.Integer(), nullable=False),
        sa.Column("unread", sa.Integer(), nullable=False),
        sa.Column("error_code", sa.String(64), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(f"state IN ({_STATES})", name=op.f("ck_score_steps_state")),
        sa.CheckConstraint(
            "attempt >= 0 AND first_seq >= 0 AND last_seq >= first_seq", name=op.f("ck_score_steps_counts")
        ),
        sa.CheckConstraint(
            "state NOT IN ('dispatched', 'running') OR queue IS NOT NULL", name=op.f("ck_score_steps_live_has_queue")
        ),
        sa.CheckConstraint(
            "(state = 'running') = (lease_until IS NOT NULL)", name=op.f("ck_score_steps_running_has_lease")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["eval_runs.id"], name=op.f("fk_score_steps_run_id_eval_runs")),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_score_steps_batch_id_batches")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_score_steps")),
        sa.UniqueConstraint("run_id", "family", "first_seq", name=op.f("uq_score_steps_run_id_family_first_seq")),
    )
    op.create_index(op.f("ix_score_steps_batch_id"), "score_steps", ["batch_id"])
    op.create_index("ix_score_steps_state_run_id", "score_steps", ["state", "run_id"])


def downgrade() -> None:
    op.drop_table("score_steps")
