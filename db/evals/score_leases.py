"""A worker's right to a step of an evaluation run: claimed, renewed, and ended, each by one conditional UPDATE.

The same rules as of the line's steps: the attempt is the fence, and a claim never takes over a lease.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, exists, select, update
from sqlalchemy.orm import Session

from db import events
from db.clips import scores as clips_scores
from db.models import ArtifactRow, Batch, EvalRun, Job, Queue, Score, ScoreStep, Worker
from db.queue.leases import Control
from db.session import now_ms
from pipeline.errors import FailureClass, StageError
from pipeline.policy.retry import decide
from pipeline.policy.routes import ALL_QUEUES
from pipeline.seeds import roll_seed
from pipeline.spec import JobSpec
from pipeline.states import JobState, StepState
from pipeline.work import ScoreRecord, ScoreWork, StoredClip

_COUNTERS = {FailureClass.RETRYABLE: "errors", FailureClass.CRASH: "crashes"}


@dataclass(frozen=True, slots=True)
class ScoreClaim:
    """The right to work on a score step until the lease ends; ``attempt`` is the fence."""

    step_id: int
    attempt: int
    queue: str
    worker: str
    run_id: str
    batch_id: str
    work: ScoreWork

    @property
    def event_data(self) -> dict[str, Any]:
        """The data of events about it."""
        return {
            "run": self.run_id,
            "family": self.work.family,
            "attempt": self.attempt,
            "worker": self.worker,
            "queue": self.queue,
        }


def _not_paused() -> ColumnElement[bool]:
    over_it = Queue.name.in_([ScoreStep.queue, ALL_QUEUES]) | ScoreStep.queue.startswith(Queue.name + ".")
    return ~exists().where(over_it, Queue.paused) & ~exists().where(Batch.id == ScoreStep.batch_id, Batch.paused)


def claim(session: Session, step_id: int, *, queues: Sequence[str], worker: str, lease_ms: int) -> ScoreClaim | None:
    """Take a dispatched step. None when there is nothing to take: done, taken, cancelled, paused, another queue's."""
    row = session.execute(
        update(ScoreStep)
        .where(
            ScoreStep.id == step_id,
            ScoreStep.state == StepState.DISPATCHED,
            ScoreStep.queue.in_(queues),
            _not_paused(),
            ~exists().where(Worker.name == worker, Worker.drain_reason.is_not(None)),
        )
        .values(
            state=StepState.RUNNING,
            attempt=ScoreStep.attempt + 1,
            worker=worker,
            lease_until=now_ms() + lease_ms,
            started_at=now_ms(),
            scored=0,
            unread=0,
        )
        .returning(
            *(ScoreStep.attempt, ScoreStep.queue, ScoreStep.run_id, ScoreStep.batch_id),
            *(ScoreStep.family, ScoreStep.first_seq, ScoreStep.last_seq),
        )
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if row is None:
        return None
    metrics = session.scalars(select(EvalRun.metrics).where(EvalRun.id == row.run_id)).one()
    clips = _clips(session, row.batch_id, row.first_seq, row.last_seq)
    work = ScoreWork(row.family, tuple(metrics), clips)
    return ScoreClaim(step_id, row.attempt, row.queue or "", worker, row.run_id, row.batch_id, work)


def _clips(session: Session, batch_id: str, first: int, last: int) -> tuple[StoredClip, ...]:
    """The published clips of a slice, with what is known of each already."""
    rows = session.execute(
        select(Job.id, Job.spec, ArtifactRow.roll, ArtifactRow.key, ArtifactRow.sha256)
        .join(ArtifactRow, (ArtifactRow.job_id == Job.id) & (ArtifactRow.kind == "video"))
        .where(Job.batch_id == batch_id, Job.seq.between(first, last), Job.state == JobState.SUCCEEDED)
        .order_by(Job.seq)
    ).all()
    scored: dict[str, set[tuple[str, str]]] = {}
    for row in session.execute(
        select(Score.job_id, Score.metric, Score.scorer_digest)
        .join(Job, (Job.id == Score.job_id) & (Job.roll == Score.roll))
        .where(Score.job_id.in_([row.id for row in rows]), Score.score.is_not(None))
    ):
        scored.setdefault(row.job_id, set()).add((row.metric, row.scorer_digest))
    clips = []
    for job_id, stored, roll, key, sha256 in rows:
        spec = JobSpec.model_validate(stored)
        spec = spec if roll == 1 else spec.model_copy(update={"seed": roll_seed(spec.seed, roll)})
        clips.append(StoredClip(job_id, roll, spec, key, sha256, frozenset(scored.get(job_id, ()))))
    return tuple(clips)


def _current(claimed: ScoreClaim) -> ColumnElement[bool]:
    return (
        (ScoreStep.id == claimed.step_id)
        & (ScoreStep.attempt == claimed.attempt)
        & (ScoreStep.state == StepState.RUNNING)
    )


def check_control(session: Session, claimed: ScoreClaim) -> Control:
    """Return what ``renew`` would, without extending the lease."""
    free = session.scalars(select(_not_paused()).where(_current(claimed))).one_or_none()
    return Control(held=free is not None, pause=free is not None and not free)


def renew(session: Session, claimed: ScoreClaim, *, lease_ms: int) -> Control:
    """Extend the lease, and learn whether to stop."""
    free = session.scalars(
        update(ScoreStep)
        .where(_current(claimed))
        .values(lease_until=now_ms() + lease_ms)
        .returning(_not_paused())
        .execution_options(synchronize_session=False)
    ).one_or_none()
    return Control(held=free is not None, pause=free is not None and not free)


def record(session: Session, claimed: ScoreClaim, clip: StoredClip, scores: Sequence[ScoreRecord]) -> bool:
    """Store one clip's scores, while the step goes on; False when the attempt is no longer the current one."""
    if not _change(session, claimed, {"scored": ScoreStep.scored + 1}):
        return False
    clips_scores.record(session, clip.job_id, clip.roll, scores)
    return True


def finish(session: Session, claimed: ScoreClaim, *, unread: int) -> bool:
    """End the step as done. False when the attempt is no longer the current one."""
    values = {"state": StepState.DONE, "unread": unread, "error_code": None, "error": None}
    return _end(session, claimed, "done", {**values, "finished_at": now_ms()})


def release(session: Session, claimed: ScoreClaim) -> bool:
    """Give the step back (drain, pause): no failed attempt."""
    return _end(session, claimed, "released", {"state": StepState.WAITING, "queue": None})


def fail(session: Session, claimed: ScoreClaim, error: StageError) -> bool:
    """Record a failed attempt: the step is tried again after a backoff, or fails, and its run is incomplete."""
    counter = _COUNTERS.get(error.failure_class, "faults")
    count = session.scalars(select(getattr(ScoreStep, counter)).where(ScoreStep.id == claimed.step_id)).one() + 1
    decision = decide(error.failure_class, count)
    values: dict[str, Any] = {"error_code": error.code, "error": str(error)[:4000], counter: count}
    if decision.again:
        values |= {"state": StepState.WAITING, "queue": None, "not_before": now_ms() + decision.delay_ms}
        return _end(session, claimed, "retried", values, code=error.code)
    return _end(session, claimed, "failed", {**values, "state": StepState.FAILED, "finished_at": now_ms()}, error.code)


def _end(session: Session, claimed: ScoreClaim, outcome: str, values: dict[str, Any], code: str | None = None) -> bool:
    ended = _change(session, claimed, {**values, "lease_until": None, "worker": None})
    if ended and outcome != "done":
        details = claimed.event_data | ({} if code is None else {"code": code})
        events.record(session, "score_attempt", batch_id=claimed.batch_id, outcome=outcome, **details)
    return ended


def _change(session: Session, claimed: ScoreClaim, values: dict[str, Any]) -> bool:
    """The conditional UPDATE that only the current attempt may do; a refusal is recorded as fenced."""
    changed = session.execute(
        update(ScoreStep)
        .where(_current(claimed))
        .values(**values)
        .returning(ScoreStep.id)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if changed is None:
        events.record(session, "fenced", batch_id=claimed.batch_id, stage="score_clips", **claimed.event_data)
    return changed is not None
