"""Current figures for metrics: open jobs, clips that wait for a GPU, workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db import workers
from db.models import LIVE_INDEX, Batch, Job, Step
from db.scheduling.capacity import mean_seconds, ready
from db.session import now_ms
from pipeline.policy.routes import gpu_type_of, preset_queue, preset_slug, preset_slug_of, split_need
from pipeline.states import TERMINAL_JOB_STATES, JobState, Stage, StepState

ANY_TYPE = "any"
"""The ``gpu_type`` of clips that keep to none."""


@dataclass
class GpuQueue:
    """The clips that wait for a GPU."""

    jobs: int = 0
    oldest_s: float = 0.0
    """The time since the oldest of them was submitted."""
    gpu_seconds: float | None = None
    """The GPU time that they are expected to take; None where nothing like them was generated yet."""


@dataclass
class Gauges:
    """The counts of one moment."""

    jobs: dict[tuple[JobState, str], int] = field(default_factory=dict)
    """Jobs that have not ended, by state and preset."""
    queues: dict[str, GpuQueue] = field(default_factory=dict)
    """By GPU type; several, or ``any``, where the clips may go to any of them."""
    workers: dict[tuple[str, str], int] = field(default_factory=dict)
    """Live workers by GPU type, empty for none, and ``ready``, ``loading`` or ``draining``."""


def read(session: Session) -> Gauges:
    """Count what is there now."""
    return Gauges(_open_jobs(session), _queues(session), _workers(session))


def waiting_for_a_gpu(session: Session) -> int:
    """Count the clips that wait for a GPU, sent to a queue or not."""
    generates = select(func.count()).where(Step.stage == Stage.GENERATE)
    waiting = session.scalars(generates.where(Step.state == StepState.WAITING)).one()
    return waiting + session.scalars(generates.where(Step.state == StepState.DISPATCHED, LIVE_INDEX)).one()


def _open_jobs(session: Session) -> dict[tuple[JobState, str], int]:
    preset = Job.spec["preset"].as_string()
    open_states = [state for state in JobState if state not in TERMINAL_JOB_STATES]
    rows = session.execute(
        select(Job.state, preset, func.count())
        .join(Batch, Batch.id == Job.batch_id)
        .where(Batch.active, Job.state.in_(open_states))
        .group_by(Job.state, preset)
    )
    return {(state, name): count for state, name, count in rows}


def _queues(session: Session) -> dict[str, GpuQueue]:
    """Steps that wait, whatever for, and those that were sent to a queue and not begun."""
    now = session.scalars(select(now_ms())).one()
    generates = (Step.stage == Stage.GENERATE,)
    oldest = func.min(Batch.created_at)
    waiting = session.execute(
        select(Step.need, func.count(), oldest)
        .join(Batch, Batch.id == Step.batch_id)
        .where(*generates, Step.state == StepState.WAITING)
        .group_by(Step.need)
    )
    sent = session.execute(
        select(Step.queue, func.count(), oldest)
        .join(Batch, Batch.id == Step.batch_id)
        .where(*generates, Step.state == StepState.DISPATCHED, LIVE_INDEX)
        .group_by(Step.queue)
    )
    live = sorted({worker.gpu_type for worker in workers.alive(session) if worker.gpu_type is not None})
    queues: dict[str, GpuQueue] = {}
    for need, count, since in waiting:
        preset, types = split_need(need)
        label = ",".join(types) or ANY_TYPE
        _add(queues, label, count, now - since, _mean(session, preset_slug(preset), types or live))
    for queue, count, since in sent:
        gpu_type = gpu_type_of(queue or "") or ANY_TYPE
        _add(queues, gpu_type, count, now - since, _mean(session, preset_slug_of(queue or "") or "", (gpu_type,)))
    return queues


def _add(queues: dict[str, GpuQueue], label: str, count: int, age_ms: int, seconds_each: float | None) -> None:
    queue = queues.setdefault(label, GpuQueue())
    queue.jobs += count
    queue.oldest_s = max(queue.oldest_s, age_ms / 1000)
    if seconds_each is not None:
        queue.gpu_seconds = (queue.gpu_seconds or 0.0) + count * seconds_each


def _mean(session: Session, slug: str, gpu_types: Sequence[str]) -> float | None:
    """Mean seconds of a preset's last generations on these GPU types."""
    means = [mean for kind in gpu_types if (mean := mean_seconds(session, preset_queue(kind, slug))) is not None]
    return sum(means) / len(means) if means else None


def _workers(session: Session) -> dict[tuple[str, str], int]:
    now = workers.now(session)
    counted: Counter[tuple[str, str]] = Counter()
    for worker in workers.alive(session):
        loading = worker.assigned_preset is not None and not ready(worker, now)
        state = "draining" if worker.draining else "loading" if loading else "ready"
        counted[worker.gpu_type or "", state] += 1
    return dict(counted)
