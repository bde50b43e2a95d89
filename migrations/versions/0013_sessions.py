"""Sessions, and the GPUs that are reserved for them.

Only additions: workers of the release before go on against them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql")
_BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_STATES = "state IN ('queued', 'gpu_binding', 'active', 'complete', 'error', 'timeout')"
_UNSETTLED, _LIVE = sa.text("settled_at IS NULL"), sa.text("ended_at IS NULL")


def upgrade() -> None:
    op.create_table(
        "stream_sessions",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("preset", sa.Text(), nullable=False),
        sa.Column("need", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("spec", _JSON, nullable=False),
        sa.Column("options", _JSON, nullable=False),
        sa.Column("limits", _JSON, nullable=False),
        sa.Column("extra", _JSON, nullable=False),
        sa.Column("continuation", _JSON, nullable=True),
        sa.Column("segment_cap", sa.Integer(), nullable=True),
        sa.Column("segments", sa.Integer(), nullable=False),
        sa.Column("timeout_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("last_seen", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("end_reason", sa.Text(), nullable=True),
        sa.Column("settled_at", sa.BigInteger(), nullable=True),
        sa.Column("joined_job_id", sa.String(length=40), nullable=True),
        sa.CheckConstraint(_STATES, name=op.f("ck_stream_sessions_state")),
        sa.CheckConstraint(
            "(state IN ('complete', 'error', 'timeout')) = (ended_at IS NOT NULL)",
            name=op.f("ck_stream_sessions_ended"),
        ),
        sa.CheckConstraint(
            "settled_at IS NULL OR ended_at IS NOT NULL", name=op.f("ck_stream_sessions_settled_has_ended")
        ),
        sa.CheckConstraint("segments >= 0", name=op.f("ck_stream_sessions_segments")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stream_sessions")),
        sa.UniqueConstraint("batch_id", name=op.f("uq_stream_sessions_batch_id")),
    )
    op.create_index("ix_stream_sessions_owner_id", "stream_sessions", ["owner", "id"], unique=False)
    op.create_index(op.f("ix_stream_sessions_joined_job_id"), "stream_sessions", ["joined_job_id"], unique=False)
    op.create_index(
        "ix_stream_sessions_unsettled",
        "stream_sessions",
        ["created_at"],
        unique=False,
        postgresql_where=_UNSETTLED,
        sqlite_where=_UNSETTLED,
    )
    op.create_table(
        "reservations",
        sa.Column("id", _BIG_ID, nullable=False),
        sa.Column("session_id", sa.String(length=40), nullable=False),
        sa.Column("batch_id", sa.String(length=40), nullable=False),
        sa.Column("worker", sa.String(length=200), nullable=False),
        sa.Column("gpu_type", sa.String(length=64), nullable=False),
        sa.Column("queue", sa.String(length=120), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("ready_at", sa.BigInteger(), nullable=True),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.Column("counted_to", sa.BigInteger(), nullable=False),
        sa.Column("idle_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("end_reason", sa.String(length=64), nullable=True),
        sa.CheckConstraint("idle_ms >= 0", name=op.f("ck_reservations_idle_ms")),
        sa.ForeignKeyConstraint(
            ["session_id"], ["stream_sessions.id"], name=op.f("fk_reservations_session_id_stream_sessions")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reservations")),
    )
    op.create_index(op.f("ix_reservations_batch_id"), "reservations", ["batch_id"], unique=False)
    for name, column in (("uq_reservations_live_worker", "worker"), ("uq_reservations_live_session", "session_id")):
        op.create_index(name, "reservations", [column], unique=True, postgresql_where=_LIVE, sqlite_where=_LIVE)


def downgrade() -> None:
    op.drop_table("reservations")
    op.drop_table("stream_sessions")
