"""Quotas of keys, and the key with which each batch was submitted.

Rules: additive first (a column with a default, then code that uses it, then the constraint in a later release), so that
the previous release's workers go on against the new schema; indexes on large tables are made concurrently; a data
change goes in pages, not in one UPDATE.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_OF_A_KEY = sa.text("key_id IS NOT NULL")


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("max_active_jobs", sa.Integer(), nullable=True))
    op.add_column("api_keys", sa.Column("max_daily_clips", sa.Integer(), nullable=True))
    op.add_column("api_keys", sa.Column("max_daily_gpu_ms", sa.BigInteger(), nullable=True))
    op.add_column("batches", sa.Column("key_id", sa.String(length=8), nullable=True))
    # Of no row yet: it is made at once.
    op.create_index(
        "ix_batches_key",
        "batches",
        ["key_id", "created_at"],
        unique=False,
        postgresql_where=_OF_A_KEY,
        sqlite_where=_OF_A_KEY,
    )


def downgrade() -> None:
    op.drop_index("ix_batches_key", table_name="batches")
    op.drop_column("batches", "key_id")
    for name in ("max_daily_gpu_ms", "max_daily_clips", "max_active_jobs"):
        op.drop_column("api_keys", name)
