"""What a step needs of a GPU, presets that a worker could not load, and why a worker drains.

Every new column may be left out by a worker of the release before; the dispatcher fills in what steps need that it
queued. The index covers waiting steps only, which a million jobs keep below a million rows: building it holds up
their writers for a second or two, so that it needs no concurrent build, which could not be part of the transaction.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_WAITING = sa.text("state = 'waiting'")


def upgrade() -> None:
    op.add_column("steps", sa.Column("need", sa.Text(), nullable=False, server_default=""))
    _index(["batch_id", "stage", "need", sa.literal_column("priority DESC"), "id"])
    json = sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql")
    op.add_column("workers", sa.Column("failed_lanes", json, nullable=True))
    op.add_column("workers", sa.Column("drain_reason", sa.Text(), nullable=True))


def downgrade() -> None:
    for column in ("drain_reason", "failed_lanes"):
        op.drop_column("workers", column)
    _index(["batch_id", "stage", sa.literal_column("priority DESC"), "id"])
    op.drop_column("steps", "need")


def _index(columns: list[sa.ColumnElement[object] | str]) -> None:
    op.drop_index("ix_steps_waiting", table_name="steps")
    op.create_index("ix_steps_waiting", "steps", columns, postgresql_where=_WAITING, sqlite_where=_WAITING)
