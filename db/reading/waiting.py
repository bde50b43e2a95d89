"""Reads what of a batch does not run: the rows from which ``reasons.explain`` decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from db import events, workers
from db.models import LIVE_INDEX, Batch, Event, Job, Reservation, Step, Worker
from db.queue import pauses
from db.reading.reasons import BatchFacts, Code, LiveWorker, Needs, OpenStep, Pause, Reason, Situation, explain, held
from db.reading.remaining import TO_DO
from db.scheduling import capacity
from db.session import now_ms
from pipeline.outputs import ScreenOutput
from pipeline.policy.routes import IO_QUEUE
from pipeline.presets import Preset
from pipeline.states import JobState, Stage, StepState

_ORDER = (Needs.PERSON, Needs.SERVICE, Needs.WORKER, Needs.NOTHING)
_WAITS = (StepState.WAITING, StepState.DISPATCHED)


@dataclass(frozen=True, slots=True)
class Wait:
    """Jobs of a batch that wait for the same reason."""

    jobs: int
    stage: Stage
    reason: Reason


def situation(session: Session, presets: Mapping[str, Preset], *, solo: bool) -> Situation:
    """Read what holds for all batches now."""
    now = session.scalars(select(now_ms())).one()
    held_by = select(Reservation.worker, Reservation.batch_id).where(Reservation.ended_at.is_(None))
    reserved = {each.worker: each.batch_id for each in session.execute(held_by)}
    live = [_live(worker, now, reserved.get(worker.name)) for worker in workers.alive(session)]
    running = session.execute(
        select(Step.queue, func.count()).where(LIVE_INDEX, Step.state == StepState.RUNNING).group_by(Step.queue)
    )
    return Situation(
        now=now,
        solo=solo,
        presets=presets,
        workers=live,
        paused=_paused_queues(session),
        in_flight=capacity.in_flight(session),
        running={queue or "": count for queue, count in running},
        broker_away_since=events.broker_away_since(session),
    )


def _live(worker: Worker, now: int, reserved_for: str | None) -> LiveWorker:
    failures, lately = worker.failed_presets or {}, capacity.failed(worker, now)
    return LiveWorker(
        worker.name,
        worker.queues,
        gpu_type=worker.gpu_type,
        memory_bytes=worker.memory_bytes,
        assigned_preset=worker.assigned_preset,
        assigned_since=worker.assigned_since,
        loaded=worker.loaded,
        draining=worker.draining,
        dispatches=IO_QUEUE in worker.queues or not worker.queues,
        reserved_for=reserved_for,
        failed={
            preset: (failure.get("code", ""), failure.get("error", ""))
            for preset, failure in failures.items()
            if preset in lately
        },
    )


def _paused_queues(session: Session) -> dict[str, Pause]:
    names = pauses.paused_queues(session)
    if not names:
        return {}
    rows = session.execute(
        select(Event.at, Event.data)
        .where(Event.batch_id.is_(None), Event.kind == "queue_paused")
        .order_by(Event.id.desc())
        .limit(_LAST_PAUSES)
    )
    known: dict[str, Pause] = {}
    for at, data in rows:
        known.setdefault(str(data.get("queue")), Pause(data.get("by"), at))
    return {name: known.get(name, Pause()) for name in names}


_LAST_PAUSES = 200
"""Pauses of queues that are read to find who paused one."""


def batch_facts(session: Session, batch: Batch) -> BatchFacts:
    """Read what of a batch decides whether its steps go on."""
    pause = None
    if batch.paused:
        last = session.execute(
            select(Event.at, Event.data)
            .where(Event.batch_id == batch.id, Event.kind == "paused", Event.job_id.is_(None))
            .order_by(Event.id.desc())
            .limit(1)
        ).one_or_none()
        pause = Pause() if last is None else Pause(last.data.get("by"), last.at)
    priced = None if batch.max_cost is None else frozenset(batch.prices or {})
    return BatchFacts(batch.id, pause, batch.over_budget, priced)


_DUE_LATER = case((Step.not_before > now_ms(), 1), else_=0)
_ALIKE = (Step.stage, Step.state, Step.need, Step.queue, Step.error_code, _DUE_LATER)


def of_batch(session: Session, batch: Batch, now: Situation) -> list[Wait]:
    """Return why jobs of the batch are not at work, what needs a person first."""
    if not batch.active:
        return []
    facts = batch_facts(session, batch)
    rows = session.execute(
        select(
            *_ALIKE,
            func.count(Step.job_id.distinct()),
            func.min(Step.not_before),
            func.min(Step.dispatched_at),
            func.max(Step.error),
            func.max(Step.errors),
        )
        .join(Job, Job.id == Step.job_id)
        .where(Step.batch_id == batch.id, Step.state.in_(_WAITS), Job.state.in_(TO_DO), ~Job.cancel_requested)
        .group_by(*_ALIKE)
    )
    waits: dict[tuple[Stage, Code, str], Wait] = {}
    for stage, _, need, queue, code, _, jobs, not_before, dispatched_at, error, errors in rows:
        step = OpenStep(stage, need, queue, dispatched_at, not_before, code, error, errors)
        _add(waits, Wait(jobs, stage, explain(step, facts, now)))
    holds = session.scalar(
        select(func.count()).select_from(Job).where(Job.batch_id == batch.id, Job.state == JobState.HELD)
    )
    if holds:
        _add(waits, Wait(holds, Stage.SCREEN, held(batch.id)))
    return sorted(waits.values(), key=_urgency)


def _add(waits: dict[tuple[Stage, Code, str], Wait], wait: Wait) -> None:
    key = (wait.stage, wait.reason.code, wait.reason.text)
    earlier = waits.get(key)
    waits[key] = wait if earlier is None else Wait(earlier.jobs + wait.jobs, wait.stage, earlier.reason)


def _urgency(wait: Wait) -> tuple[int, int, str]:
    return _ORDER.index(wait.reason.needs), -wait.jobs, wait.reason.text


def of_jobs(session: Session, rows: Sequence[Job], now: Situation) -> dict[str, Reason]:
    """Return why each of these jobs is not at work; those that have ended or are at work are left out."""
    open_jobs = {job.id: job for job in rows if job.state in TO_DO}
    reasons = _holds(session, [job.id for job in rows if job.state is JobState.HELD])
    facts = {
        batch.id: batch_facts(session, batch)
        for batch in session.scalars(select(Batch).where(Batch.id.in_({job.batch_id for job in open_jobs.values()})))
    }
    steps = session.scalars(
        select(Step)
        .where(Step.job_id.in_(open_jobs), Step.state.in_((*_WAITS, StepState.RUNNING)))
        .order_by(Step.segment.desc(), Step.id.desc())
    )
    running = set()
    for step in steps:
        if step.state is StepState.RUNNING:
            running.add(step.job_id)
        elif step.roll == open_jobs[step.job_id].roll:
            of = OpenStep(
                step.stage, step.need, step.queue, step.dispatched_at, step.not_before, step.error_code, step.error,
                step.errors,
            )  # fmt: skip
            reasons[step.job_id] = explain(of, facts[step.batch_id], now)
    return {job_id: reason for job_id, reason in reasons.items() if job_id not in running}


def _holds(session: Session, job_ids: Sequence[str]) -> dict[str, Reason]:
    screened = select(Step.job_id, Step.output).where(Step.job_id.in_(job_ids), Step.stage == Stage.SCREEN)
    verdicts = {job_id: ScreenOutput.from_row(output) for job_id, output in session.execute(screened)}
    return {job_id: held(job_id, verdict.reason if (verdict := verdicts.get(job_id)) else "") for job_id in job_ids}
