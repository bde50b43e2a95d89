"""Deleted clips, remixes, and requests that clients send again.

Only additions: workers of the release before go on against them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "request_keys",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("key", sa.String(length=80), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("batch_id", sa.String(length=40), nullable=False),
        sa.Column("repeated", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_request_keys_batch_id_batches")),
        sa.PrimaryKeyConstraint("owner", "key", name=op.f("pk_request_keys")),
    )
    op.create_index(op.f("ix_request_keys_created_at"), "request_keys", ["created_at"], unique=False)
    # Batches before jobs, as a submission locks them.
    op.add_column("jobs", sa.Column("deleted_at", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("remixed_from", sa.String(length=40), nullable=True))


def downgrade() -> None:
    op.drop_table("request_keys")
    op.drop_column("jobs", "remixed_from")
    op.drop_column("jobs", "deleted_at")
