"""The first tables, of release 0.1.0.

The numbers before belonged to development versions; a database of one of them is refused (``db/schema.py``).

Rules for those that follow: additive first (a column with a default, then code that uses it, then the constraint in a
later release), so that the previous release's workers go on against the new schema; indexes on large tables are made
concurrently; a data change goes in pages, not in one UPDATE.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = None
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql")
_ROW_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "batches",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("source_name", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.String(length=200), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("options", _JSON, nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("deadline_at", sa.BigInteger(), nullable=True),
        sa.Column("max_gpu_ms", sa.BigInteger(), nullable=True),
        sa.Column("max_cost", sa.Float(), nullable=True),
        sa.Column("prices", _JSON, nullable=True),
        sa.Column("gpu_ms", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cost", sa.Float(), server_default="0", nullable=False),
        sa.Column("over_budget", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.CheckConstraint("total >= 1", name=op.f("ck_batches_total")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_batches_idempotency_key")),
    )
    op.create_index(
        "ix_batches_active",
        "batches",
        ["id"],
        unique=False,
        postgresql_where=sa.text("active"),
        sqlite_where=sa.text("active"),
    )
    op.create_table(
        "events",
        sa.Column("id", _ROW_NUMBER, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("batch_id", sa.String(length=40), nullable=True),
        sa.Column("job_id", sa.String(length=40), nullable=True),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("data", _JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_index("ix_events_batch_id_id", "events", ["batch_id", "id"], unique=False)
    op.create_index("ix_events_job_id_id", "events", ["job_id", "id"], unique=False)
    op.create_table(
        "memory_needs",
        sa.Column("gpu_type", sa.String(length=64), nullable=False),
        sa.Column("shape", sa.String(length=64), nullable=False),
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
    op.create_table(
        "queues",
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_queues")),
    )
    op.create_table(
        "workers",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("queues", _JSON, nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("gpu_type", sa.String(length=64), nullable=True),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("loaded", sa.String(length=100), nullable=True),
        sa.Column("assigned_preset", sa.String(length=100), nullable=True),
        sa.Column("assigned_since", sa.BigInteger(), nullable=True),
        sa.Column("failed_presets", _JSON, nullable=True),
        sa.Column("drain_reason", sa.Text(), nullable=True),
        sa.Column("draining", sa.Boolean(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("slots >= 1", name=op.f("ck_workers_slots")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workers")),
    )
    op.create_index(op.f("ix_workers_seen_at"), "workers", ["seen_at"], unique=False)
    op.create_table(
        "eval_runs",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("batch_id", sa.String(length=40), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("metrics", _JSON, nullable=False),
        sa.Column("suite", _JSON, nullable=True),
        sa.Column("expected", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("summary", _JSON, nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("(state = 'open') = (finished_at IS NULL)", name=op.f("ck_eval_runs_finished")),
        sa.CheckConstraint("state IN ('open', 'complete', 'incomplete')", name=op.f("ck_eval_runs_state")),
        sa.CheckConstraint("expected >= 1", name=op.f("ck_eval_runs_expected")),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_eval_runs_batch_id_batches")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_eval_runs")),
    )
    op.create_index(op.f("ix_eval_runs_batch_id"), "eval_runs", ["batch_id"], unique=False)
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("batch_id", sa.String(length=40), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("variant", sa.Integer(), nullable=False),
        sa.Column("spec", _JSON, nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("roll", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("custom_id", sa.Text(), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "(state IN ('succeeded', 'failed', 'blocked', 'cancelled')) = (finished_at IS NOT NULL)",
            name=op.f("ck_jobs_finished"),
        ),
        sa.CheckConstraint("state <> 'failed' OR error_code IS NOT NULL", name=op.f("ck_jobs_failed_has_code")),
        sa.CheckConstraint(
            "state IN ('waiting', 'held', 'in_flight', 'succeeded', 'failed', 'blocked', 'cancelled')",
            name=op.f("ck_jobs_state"),
        ),
        sa.CheckConstraint("roll >= 1", name=op.f("ck_jobs_roll")),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_jobs_batch_id_batches")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("batch_id", "seq", name=op.f("uq_jobs_batch_id_seq")),
    )
    op.create_index("ix_jobs_batch_id_state", "jobs", ["batch_id", "state"], unique=False)
    op.create_table(
        "artifacts",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("roll", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("media_type", sa.String(length=100), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("size >= 1", name=op.f("ck_artifacts_size")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_artifacts_job_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", "kind", name=op.f("pk_artifacts")),
        sa.UniqueConstraint("key", name=op.f("uq_artifacts_key")),
    )
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
        sa.Column("numerics", _JSON, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("size >= 1", name=op.f("ck_checkpoints_size")),
        sa.CheckConstraint("step >= 1 AND step <= total", name=op.f("ck_checkpoints_step")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_checkpoints_job_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", "roll", "segment", "final", name=op.f("pk_checkpoints")),
    )
    op.create_table(
        "continuation_states",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("roll", sa.Integer(), nullable=False),
        sa.Column("segment", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("payload", _JSON, nullable=False),
        sa.Column("blobs", _JSON, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("version >= 1", name=op.f("ck_continuation_states_version")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_continuation_states_job_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", "roll", "segment", name=op.f("pk_continuation_states")),
    )
    op.create_table(
        "score_steps",
        sa.Column("id", _ROW_NUMBER, nullable=False),
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.Column("batch_id", sa.String(length=40), nullable=False),
        sa.Column("family", sa.String(length=32), nullable=False),
        sa.Column("first_seq", sa.Integer(), nullable=False),
        sa.Column("last_seq", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("queue", sa.String(length=120), nullable=True),
        sa.Column("worker", sa.String(length=200), nullable=True),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("not_before", sa.BigInteger(), nullable=False),
        sa.Column("dispatched_at", sa.BigInteger(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("errors", sa.Integer(), nullable=False),
        sa.Column("faults", sa.Integer(), nullable=False),
        sa.Column("crashes", sa.Integer(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("scored", sa.Integer(), nullable=False),
        sa.Column("unread", sa.Integer(), nullable=False),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "(state = 'running') = (lease_until IS NOT NULL)", name=op.f("ck_score_steps_running_has_lease")
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'waiting', 'dispatched', 'running', 'done', 'skipped', 'failed', 'cancelled')",
            name=op.f("ck_score_steps_state"),
        ),
        sa.CheckConstraint(
            "state NOT IN ('dispatched', 'running') OR queue IS NOT NULL", name=op.f("ck_score_steps_live_has_queue")
        ),
        sa.CheckConstraint(
            "attempt >= 0 AND first_seq >= 0 AND last_seq >= first_seq", name=op.f("ck_score_steps_counts")
        ),
        sa.ForeignKeyConstraint(["batch_id"], ["batches.id"], name=op.f("fk_score_steps_batch_id_batches")),
        sa.ForeignKeyConstraint(["run_id"], ["eval_runs.id"], name=op.f("fk_score_steps_run_id_eval_runs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_score_steps")),
        sa.UniqueConstraint("run_id", "family", "first_seq", name=op.f("uq_score_steps_run_id_family_first_seq")),
    )
    op.create_index(op.f("ix_score_steps_batch_id"), "score_steps", ["batch_id"], unique=False)
    op.create_index("ix_score_steps_state_run_id", "score_steps", ["state", "run_id"], unique=False)
    op.create_table(
        "scores",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("roll", sa.Integer(), nullable=False),
        sa.Column("metric", sa.String(length=100), nullable=False),
        sa.Column("scorer_digest", sa.String(length=64), nullable=False),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("passed", sa.Boolean(), nullable=True),
        sa.Column("details", _JSON, nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("weights_digest", sa.String(length=64), nullable=True),
        sa.Column("scorer", _JSON, nullable=False),
        sa.Column("scored_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("(score IS NULL) = (reason IS NOT NULL)", name=op.f("ck_scores_score_or_reason")),
        sa.CheckConstraint("roll >= 1", name=op.f("ck_scores_roll")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_scores_job_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", "roll", "metric", "scorer_digest", name=op.f("pk_scores")),
    )
    op.create_table(
        "segments",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("roll", sa.Integer(), nullable=False),
        sa.Column("segment", sa.Integer(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("num_frames", sa.Integer(), nullable=False),
        sa.Column("frames_sha256", sa.String(length=64), nullable=False),
        sa.Column("numerics", _JSON, nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("num_frames >= 1", name=op.f("ck_segments_num_frames")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_segments_job_id_jobs")),
        sa.PrimaryKeyConstraint("job_id", "roll", "segment", name=op.f("pk_segments")),
    )
    op.create_table(
        "steps",
        sa.Column("id", _ROW_NUMBER, nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("batch_id", sa.String(length=40), nullable=False),
        sa.Column("roll", sa.Integer(), nullable=False),
        sa.Column("segment", sa.Integer(), nullable=False),
        sa.Column("stage", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("need", sa.Text(), server_default="", nullable=False),
        sa.Column("memory_rung", sa.Integer(), server_default="0", nullable=False),
        sa.Column("queue", sa.String(length=120), nullable=True),
        sa.Column("worker", sa.String(length=200), nullable=True),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("not_before", sa.BigInteger(), nullable=False),
        sa.Column("dispatched_at", sa.BigInteger(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("errors", sa.Integer(), nullable=False),
        sa.Column("faults", sa.Integer(), server_default="0", nullable=False),
        sa.Column("crashes", sa.Integer(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("progress_phase", sa.String(length=32), nullable=True),
        sa.Column("progress_step", sa.Integer(), nullable=False),
        sa.Column("progress_total", sa.Integer(), nullable=False),
        sa.Column("output", _JSON, nullable=True),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name=op.f("ck_steps_running_has_lease")),
        sa.CheckConstraint(
            "stage IN ('enhance', 'screen', 'generate', 'encode', 'score', 'publish')", name=op.f("ck_steps_stage")
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'waiting', 'dispatched', 'running', 'done', 'skipped', 'failed', 'cancelled')",
            name=op.f("ck_steps_state"),
        ),
        sa.CheckConstraint(
            "state NOT IN ('dispatched', 'running') OR queue IS NOT NULL", name=op.f("ck_steps_live_has_queue")
        ),
        sa.CheckConstraint("attempt >= 0 AND segment >= 0", name=op.f("ck_steps_counts")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_steps_job_id_jobs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_steps")),
        sa.UniqueConstraint("job_id", "roll", "segment", "stage", name=op.f("uq_steps_job_id_roll_segment_stage")),
    )
    op.create_index(
        "ix_steps_live",
        "steps",
        ["queue", "state", "dispatched_at"],
        unique=False,
        postgresql_where=sa.text("state IN ('dispatched', 'running')"),
        sqlite_where=sa.text("state IN ('dispatched', 'running')"),
    )
    op.create_index(
        "ix_steps_waiting",
        "steps",
        ["batch_id", "stage", "need", sa.literal_column("priority DESC"), "id"],
        unique=False,
        postgresql_where=sa.text("state = 'waiting'"),
        sqlite_where=sa.text("state = 'waiting'"),
    )
    op.create_table(
        "stage_runs",
        sa.Column("id", _ROW_NUMBER, nullable=False),
        sa.Column("step_id", sa.BigInteger(), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("stage", sa.String(length=32), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("queue", sa.String(length=120), nullable=True),
        sa.Column("worker", sa.String(length=200), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.String(length=32), nullable=False),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "outcome IN ('done', 'skipped', 'held', 'blocked', 'rejected', 'retried', 'failed', 'cancelled', 'released', 'rewound', 'lease_ended')",
            name=op.f("ck_stage_runs_outcome"),
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_stage_runs_job_id_jobs")),
        sa.ForeignKeyConstraint(["step_id"], ["steps.id"], name=op.f("fk_stage_runs_step_id_steps")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stage_runs")),
        sa.UniqueConstraint("step_id", "attempt", name=op.f("uq_stage_runs_step_id_attempt")),
    )
    op.create_index(op.f("ix_stage_runs_job_id"), "stage_runs", ["job_id"], unique=False)
    op.create_index("ix_stage_runs_queue_ended", "stage_runs", ["queue", "ended_at"], unique=False)


def downgrade() -> None:
    for table in (
        "stage_runs",
        "steps",
        "segments",
        "scores",
        "score_steps",
        "continuation_states",
        "checkpoints",
        "artifacts",
        "jobs",
        "eval_runs",
        "workers",
        "queues",
        "memory_needs",
        "events",
        "batches",
    ):
        op.drop_table(table)
