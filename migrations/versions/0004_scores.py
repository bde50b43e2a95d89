"""Scores, evaluation runs, and a stage that scores between encode and publish.

Two CHECKs learn a further value each. Postgres reads the table through once for that, with its writers held up. SQLite
cannot change a CHECK but by copying the table, which foreign keys forbid within a transaction; so its text is changed
in the schema, by the procedure that SQLite documents for changes which no stored row can break
(https://www.sqlite.org/lang_altertable.html, section 7).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_STAGES = ("enhance", "screen", "generate", "encode", "publish")
_OUTCOMES = (
    *("done", "skipped", "held", "blocked", "retried", "failed", "cancelled", "released", "rewound", "lease_ended"),
)
_CHECKS = (
    ("steps", "stage", _STAGES, ("enhance", "screen", "generate", "encode", "score", "publish")),
    ("stage_runs", "outcome", _OUTCOMES, (*_OUTCOMES[:4], "rejected", *_OUTCOMES[4:])),
)


def upgrade() -> None:
    for table, column, old, new in _CHECKS:
        _change_check(table, column, old, new)
    json = sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql")
    op.create_table(
        "scores",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("roll", sa.Integer(), nullable=False),
        sa.Column("metric", sa.String(length=100), nullable=False),
        sa.Column("scorer_digest", sa.String(length=64), nullable=False),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("passed", sa.Boolean(), nullable=True),
        sa.Column("details", json, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("weights_digest", sa.String(length=64), nullable=True),
        sa.Column("scorer", json, nullable=False),
        sa.Column("scored_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("(score IS NULL) = (reason IS NOT NULL)", name=op.f("ck_scores_score_or_reason")),
        sa.CheckConstraint("roll >= 1", name=op.f("ck_scores_roll")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_scores_job_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", "roll", "metric", "scorer_digest", name=op.f("pk_scores")),
    )
    op.create_table(
        "eval_runs",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("batch_id", sa.String(length=40), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("metrics", json, nullable=False),
        sa.Column("suite", json, nullable=True),
        sa.Column("expected", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("summary", json, nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("state IN ('open', 'complete', 'incomplete')", name=op.f("ck_eval_runs_state")),
        sa.CheckConstraint("expected >= 1", name=op.f("ck_eval_runs_expected")),
        sa.CheckConstraint("(state = 'open') = (finished_at IS NULL)", name=op.f("ck_eval_runs_finished")),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_eval_runs_batch_id_batches")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_eval_runs")),
    )
    with op.batch_alter_table("eval_runs", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_eval_runs_batch_id"), ["batch_id"], unique=False)


def downgrade() -> None:
    """Attempts that scored are forgotten: the release before has no word for them."""
    op.drop_table("eval_runs")
    op.drop_table("scores")
    op.execute("DELETE FROM stage_runs WHERE stage = 'score' OR outcome = 'rejected'")
    op.execute("DELETE FROM steps WHERE stage = 'score'")
    for table, column, old, new in _CHECKS:
        _change_check(table, column, new, old)


def _change_check(table: str, column: str, old: tuple[str, ...], new: tuple[str, ...]) -> None:
    name = f"ck_{table}_{column}"
    before, after = (f"{column} IN ({', '.join(map(repr, values))})" for values in (old, new))
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}, ADD CONSTRAINT {name} CHECK ({after})")
        return
    text = connection.scalar(
        sa.text("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = :name"), {"name": table}
    )
    if str(text).count(before) != 1:
        raise RuntimeError(f"table {table}: its CHECK {name} is not {before!r}")
    version = connection.scalar(sa.text("PRAGMA schema_version"))
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    connection.execute(
        sa.text("UPDATE sqlite_master SET sql = :sql WHERE type = 'table' AND name = :name"),
        {"sql": str(text).replace(before, after), "name": table},
    )
    connection.exec_driver_sql(f"PRAGMA schema_version = {int(version) + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = OFF")
