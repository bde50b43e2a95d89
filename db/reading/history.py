"""Reads the history of a job: its steps, their attempts, and the prompts that were used."""

import heapq
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any, NamedTuple, Self

from sqlalchemy import Select, false, func, select
from sqlalchemy.orm import Session

from db.models import Batch, Event, Job, ScoreRun, ScoreStep, Segment, StageRun, Step
from pipeline.states import JobState, Stage, StepState

ATTEMPT = "attempt"
"""Kind of the entries that are attempts."""
_PAGE = 1_000


def steps_of_job(session: Session, job_id: str) -> Sequence[Step]:
    """Steps in the order in which they were made."""
    return session.scalars(select(Step).where(Step.job_id == job_id).order_by(Step.id)).all()


def attempts_of_job(session: Session, job_id: str) -> Sequence[StageRun]:
    """Attempts that ended, oldest first."""
    return session.scalars(select(StageRun).where(StageRun.job_id == job_id).order_by(StageRun.id)).all()


def scoring_attempts(session: Session, job: Job) -> Sequence[ScoreRun]:
    """Attempts at those steps of evaluation runs that score its clip among others, oldest first."""
    of_it = (ScoreStep.batch_id == job.batch_id, ScoreStep.first_seq <= job.seq, ScoreStep.last_seq >= job.seq)
    runs = select(ScoreRun).join(ScoreStep, ScoreStep.id == ScoreRun.step_id)
    return session.scalars(runs.where(*of_it).order_by(ScoreRun.id)).all()


def segments_of_job(session: Session, job: Job) -> Sequence[Segment]:
    """The segments of the current roll that were generated, in order."""
    of_roll = (Segment.job_id == job.id, Segment.roll == job.roll)
    return session.scalars(select(Segment).where(*of_roll).order_by(Segment.segment)).all()


def prompts_used(session: Session, job_ids: Sequence[str]) -> dict[str, str]:
    """The prompt that each job's first segment was made with, enhanced or not; jobs without frames are left out."""
    rows = session.execute(
        select(Segment.job_id, Segment.prompt)
        .join(Job, (Job.id == Segment.job_id) & (Job.roll == Segment.roll))
        .where(Segment.job_id.in_(job_ids), Segment.segment == 0)
    )
    return {row.job_id: row.prompt for row in rows}


def segment_prompts(session: Session, job_ids: Sequence[str]) -> dict[str, list[str]]:
    """The prompts that the segments of each job were made with, in order, enhanced or not."""
    prompts: dict[str, list[str]] = {}
    rows = session.execute(
        select(Segment.job_id, Segment.prompt)
        .join(Job, (Job.id == Segment.job_id) & (Job.roll == Segment.roll))
        .where(Segment.job_id.in_(job_ids))
        .order_by(Segment.job_id, Segment.segment)
    )
    for job_id, prompt in rows:
        prompts.setdefault(job_id, []).append(prompt)
    return prompts


def failures(session: Session, batch_id: str) -> Sequence[tuple[str, int]]:
    """Error codes of a batch's jobs with how often each occurs, most frequent first."""
    rows = session.execute(
        select(Job.error_code, func.count())
        .where(Job.batch_id == batch_id, Job.state.in_((JobState.FAILED, JobState.BLOCKED)))
        .group_by(Job.error_code)
        .order_by(func.count().desc(), Job.error_code)
    )
    return [(code or "unknown", count) for code, count in rows]


def waiting_for_gpu(session: Session, batch_ids: Sequence[str]) -> set[tuple[str, tuple[str, ...]]] | None:
    """Return what the open jobs of batches need, as (preset, GPU types), when all wait to be generated; else None."""
    open_steps = session.execute(
        select(Step.stage, Step.state, Job.spec)
        .join(Job, Job.id == Step.job_id)
        .join(Batch, Batch.id == Step.batch_id)
        .where(
            Step.batch_id.in_(batch_ids),
            Step.state.in_((StepState.WAITING, StepState.DISPATCHED, StepState.RUNNING)),
            Job.state.in_((JobState.WAITING, JobState.IN_FLIGHT)),
            ~Batch.paused,
        )
    )
    needs = set()
    for stage, state, spec in open_steps:
        if stage is not Stage.GENERATE or state is not StepState.WAITING:
            return None
        needs.add((str(spec["preset"]), tuple(spec.get("gpu", ()))))
    return needs or None


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened: an event, or an attempt that ended (kind ``attempt``)."""

    at: int
    kind: str
    source: str
    """``event``, ``attempt`` or ``score_attempt``, which is of an evaluation run; with ``id`` it names the row."""
    id: int
    batch_id: str | None
    job_id: str | None
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """The ids up to which rows have been read."""

    event: int = 0
    attempt: int = 0
    score_attempt: int = 0

    def __str__(self) -> str:
        return "-".join(map(str, astuple(self)))

    def with_entry(self, entry: Entry) -> Self:
        return replace(self, **{entry.source: entry.id})

    def reaches(self, other: Self) -> bool:
        """Return whether whoever has read up to here has read up to there."""
        return all(mine >= theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True))

    def further(self, other: Self) -> Self:
        """Return the place up to which rows have been read that were read up to either."""
        return type(self)(*map(max, zip(astuple(self), astuple(other), strict=True)))


class _Sources(NamedTuple):
    """The rows that make a history, as queries."""

    events: Select[Event]
    runs: Select[StageRun, str, int]
    scored: Select[ScoreRun, ScoreStep]


def entries(session: Session, *, batch_id: str | None = None, job_id: str | None = None) -> Iterator[Entry]:
    """Yield the events of a batch, or of one job, in the order of time; read from the database as it is asked for.

    The session is one that ``Database.reading`` gave for one instant.
    """
    events, runs, scored = _history_of(batch_id, job_id)
    ordered = _Sources(
        events.order_by(Event.at, Event.id),
        runs.order_by(StageRun.ended_at, StageRun.id),
        scored.order_by(ScoreRun.ended_at, ScoreRun.id),
    )
    return _merged(session, ordered, {"yield_per": _PAGE})


def page(
    session: Session, *, batch_id: str | None, job_id: str | None, after: Seen, until: Seen, limit: int
) -> list[Entry]:
    """Return at most ``limit`` entries whose ids lie after ``after`` and not after ``until``.

    Of each source they are the first in the order of ids, so that the last one's ids are where the next page begins.
    """
    events, runs, scored = _history_of(batch_id, job_id)
    ordered = _Sources(
        events.where(Event.id > after.event, Event.id <= until.event).order_by(Event.id).limit(limit),
        runs.where(StageRun.id > after.attempt, StageRun.id <= until.attempt).order_by(StageRun.id).limit(limit),
        scored.where(ScoreRun.id > after.score_attempt, ScoreRun.id <= until.score_attempt)
        .order_by(ScoreRun.id)
        .limit(limit),
    )
    return list(itertools.islice(_merged(session, ordered, {}), limit))


def _history_of(batch_id: str | None, job_id: str | None) -> _Sources:
    events = select(Event)
    runs = (
        select(StageRun, Job.batch_id, Step.segment)
        .join(Job, Job.id == StageRun.job_id)
        .join(Step, Step.id == StageRun.step_id)
    )
    scored = select(ScoreRun, ScoreStep).join(ScoreStep, ScoreStep.id == ScoreRun.step_id)
    if job_id is not None:
        events, runs = events.where(Event.job_id == job_id), runs.where(StageRun.job_id == job_id)
        scored = scored.where(false())  # they are the batch's
    if batch_id is not None:
        events, runs = events.where(Event.batch_id == batch_id), runs.where(Job.batch_id == batch_id)
        scored = scored.where(ScoreRun.batch_id == batch_id)
    return _Sources(events, runs, scored)


def _merged(session: Session, of: _Sources, options: Mapping[str, Any]) -> Iterator[Entry]:
    happened = (
        Entry(event.at, event.kind, "event", event.id, event.batch_id, event.job_id, event.data)
        for event in session.scalars(of.events, execution_options=options)
    )
    ended = (
        _attempt(run, batch, run.job_id, "attempt", stage=run.stage.value, segment=segment)
        for run, batch, segment in session.execute(of.runs, execution_options=options)
    )
    of_evals = (
        _attempt(
            run, run.batch_id, None, "score_attempt", stage=Stage.SCORE.value, eval_run=step.run_id, family=step.family
        )
        for run, step in session.execute(of.scored, execution_options=options)
    )
    return heapq.merge(ended, of_evals, happened, key=lambda entry: entry.at)


def _attempt(run: StageRun | ScoreRun, batch_id: str, job_id: str | None, source: str, **of: Any) -> Entry:
    names = ("attempt", "outcome", "worker", "queue", "started_at", "ended_at", "error_code", "error")
    return Entry(
        run.ended_at, ATTEMPT, source, run.id, batch_id, job_id, of | {name: getattr(run, name) for name in names}
    )
