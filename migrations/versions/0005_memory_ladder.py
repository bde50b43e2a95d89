"""The memory ladder: a step's rung, and what clips of one shape have needed on a GPU type.

Workers of the release before leave both out: their clips are on no rung.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("steps", sa.Column("memory_rung", sa.Integer(), nullable=False, server_default="0"))
    op.create_table(
        "memory_needs",
        sa.Column("gpu_type", sa.String(64), nullable=False),
        sa.Column("shape", sa.String(64), nullable=False),
        sa.Column("preset", sa.Text(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("num_frames", sa.Integer(), nullable=False),
        sa.Column("rung", sa.Integer(), nullable=False),
        sa.Column("clips", sa.Integer(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("rung >= 0 AND clips >= 1", name=op.f("ck_memory_needs_counts")),
        sa.PrimaryKeyConstraint("gpu_type", "shape", name=op.f("pk_memory_needs")),
    )


def downgrade() -> None:
    op.drop_table("memory_needs")
    op.drop_column("steps", "memory_rung")
