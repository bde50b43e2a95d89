"""Stars, notes and votes of people, and the sessions of browsers.

Only additions: workers of the release before go on against them. What was signed in with a key in its cookie signs in
once more.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "clip_ratings",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("rater", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.String(length=40), nullable=False),
        sa.Column("stars", sa.Integer(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("stars IS NULL OR (stars >= 1 AND stars <= 5)", name=op.f("ck_clip_ratings_stars")),
        sa.CheckConstraint("stars IS NOT NULL OR note IS NOT NULL", name=op.f("ck_clip_ratings_says_something")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_clip_ratings_job_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", "rater", name=op.f("pk_clip_ratings")),
    )
    op.create_index("ix_clip_ratings_batch_id", "clip_ratings", ["batch_id"], unique=False)
    op.create_table(
        "clip_votes",
        sa.Column("first_job_id", sa.String(length=40), nullable=False),
        sa.Column("second_job_id", sa.String(length=40), nullable=False),
        sa.Column("rater", sa.Text(), nullable=False),
        sa.Column("preferred_job_id", sa.String(length=40), nullable=True),
        sa.Column("voted_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("first_job_id <> second_job_id", name=op.f("ck_clip_votes_two")),
        sa.CheckConstraint(
            "preferred_job_id IS NULL OR preferred_job_id = first_job_id OR preferred_job_id = second_job_id",
            name=op.f("ck_clip_votes_preferred"),
        ),
        sa.ForeignKeyConstraint(["first_job_id"], ["jobs.id"], name=op.f("fk_clip_votes_first_job_id_jobs")),
        sa.ForeignKeyConstraint(["second_job_id"], ["jobs.id"], name=op.f("fk_clip_votes_second_job_id_jobs")),
        sa.PrimaryKeyConstraint("first_job_id", "second_job_id", "rater", name=op.f("pk_clip_votes")),
    )
    op.create_index("ix_clip_votes_second_job_id", "clip_votes", ["second_job_id"], unique=False)
    op.create_table(
        "browser_sessions",
        sa.Column("secret_sha256", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(length=8), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_browser_sessions_key_id_api_keys")),
        sa.PrimaryKeyConstraint("secret_sha256", name=op.f("pk_browser_sessions")),
    )
    op.create_index(op.f("ix_browser_sessions_expires_at"), "browser_sessions", ["expires_at"], unique=False)


def downgrade() -> None:
    op.drop_table("browser_sessions")
    op.drop_table("clip_votes")
    op.drop_table("clip_ratings")
