"""A batch's report: each worker's timeline and where the time went, added up by the database.

Attempts are put into a hundred or so spans of time. An attempt adds to each span what it ran within it; the database
groups attempts by the spans in which they began and ended, and sums their times, so that every span's share is exact
and only sums are read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Float, Integer, Select, cast, func, literal, select
from sqlalchemy.orm import Session

from db.clips.attempts import attempts_of
from db.models import Batch, Event, Job, ScoreRun, StageRun, Step
from db.moves import LEASED
from db.queue.leases import Held, held_of
from db.reading.worker_places import Span, places
from db.session import now_ms
from pipeline.states import TERMINAL_JOB_STATES, AttemptOutcome, Stage, StepState

SPANS = 120
"""The number of spans of a timeline: a screen's width of them."""
PIPELINE_PARTS = ("encode_text_and_first_step", "denoise", "decode", "hand_off")
"""The parts of a generation that generators time (``timings_s``), by name."""
KEPT = frozenset(
    {AttemptOutcome.DONE, AttemptOutcome.SKIPPED, AttemptOutcome.HELD, AttemptOutcome.BLOCKED, AttemptOutcome.REJECTED}
)
"""Attempts whose result was recorded; the time of the others is lost, apart from their checkpoints."""


_Key = tuple[str, str, Stage, AttemptOutcome | None, bool, bool]


@dataclass(slots=True)
class Work:
    """The work of one worker at one stage on one queue, by outcome; an attempt that still runs has none."""

    worker: str
    queue: str
    stage: Stage
    outcome: AttemptOutcome | None
    evaluation: bool
    """True of an evaluation run's steps: they score clips that are made already."""
    continued: bool = False
    """True of interrupted attempts that a later one went on from."""
    attempts: int = 0
    ms: int = 0
    first_at: int = 0
    last_at: int = 0
    spans_ms: list[int] = field(default_factory=list)
    """Milliseconds within each span of the timeline."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """A batch's work, between its first attempt's beginning and its last one's end, or now while it is active."""

    began_at: int
    ended_at: int
    span_ms: int
    work: Sequence[Work]

    @property
    def of_jobs(self) -> list[Work]:
        """Without what evaluation runs did."""
        return [work for work in self.work if not work.evaluation]

    @property
    def places(self) -> dict[str, str]:
        """The place of each worker: one that was started again is the same."""
        return places(Span(work.worker, work.first_at, work.last_at) for work in self.work)

    @property
    def made_at(self) -> int:
        """The end of the work on jobs."""
        return max((work.last_at for work in self.of_jobs), default=self.ended_at)


@dataclass(frozen=True, slots=True)
class Clips:
    """The batch's jobs that have ended: how many, how many of them as clips, and their time from submit to end."""

    ended: int
    succeeded: int
    ms: int


def timeline(session: Session, batch: Batch, spans: int = SPANS) -> Timeline | None:
    """The batch's timeline; None where nothing has run, or its history was removed."""
    runs = attempts_of(batch.id).c
    began, ended = session.execute(select(func.min(runs.started_at), func.max(runs.ended_at))).one()
    running: list[tuple[int, Held]] = []
    for table in LEASED:
        query: Select[Any] = select(table).where(table.batch_id == batch.id, table.state == StepState.RUNNING)
        running += [(step.started_at, held_of(step)) for step in session.scalars(query)]
    starts = [started_at for started_at, _ in running] + ([] if began is None else [began])
    if not starts:
        return None
    now = session.scalars(select(now_ms())).one()
    began_at = min(starts)
    ended_at = max(began_at + 1, now if running else ended)
    span_ms = -(-(ended_at - began_at) // spans)
    by_key: dict[_Key, Work] = {}

    def add(key: _Key, group: _Group) -> None:
        work = by_key.setdefault(key, Work(*key, spans_ms=[0] * spans, first_at=group.first_at))
        _add(work, group, began_at, span_ms)

    for group_key, group in _groups(session, batch.id, began_at, span_ms, spans):
        add(group_key, group)
    for started_at, attempt in running:
        begin, end = ((at - began_at) // span_ms for at in (started_at, now))
        alone = _Group(begin, min(end, spans - 1), 1, started_at, now, started_at, now)
        add((attempt.worker or "", attempt.queue or "", attempt.stage, None, attempt.job_id is None, False), alone)
    return Timeline(began_at, ended_at, span_ms, list(by_key.values()))


@dataclass(frozen=True, slots=True)
class _Group:
    """Attempts that began in one span and ended in one, with the sums of their beginnings and ends."""

    begin: int
    end: int
    attempts: int
    started: int
    ended: int
    first_at: int
    last_at: int


def _groups(session: Session, batch_id: str, began_at: int, span_ms: int, spans: int) -> list[tuple[_Key, _Group]]:
    # Written out: PostgreSQL takes two parameters for two expressions, and would not group by the one selected.
    zero, width = literal(began_at, literal_execute=True), literal(span_ms, literal_execute=True)
    runs = attempts_of(batch_id).c
    begin = ((runs.started_at - zero) // width).label("begin")
    end = ((runs.ended_at - zero) // width).label("end")
    keys = (runs.worker, runs.queue, runs.stage, runs.outcome, runs.evaluation, runs.continued)
    # Since the beginning, not since 1970: sums of millions of those would leave 64 bits.
    rows = session.execute(
        select(
            *keys,
            begin,
            end,
            func.count().label("attempts"),
            func.sum(runs.started_at - began_at).label("started"),
            func.sum(runs.ended_at - began_at).label("ended"),
            func.min(runs.started_at).label("first_at"),
            func.max(runs.ended_at).label("last_at"),
        ).group_by(*keys, begin, end)
    )
    return [
        (
            (row.worker or "", row.queue or "", row.stage, row.outcome, row.evaluation, bool(row.continued)),
            _Group(
                int(row.begin),
                min(int(row.end), spans - 1),  # what ends at the very end belongs to the last one
                row.attempts,
                int(row.started) + row.attempts * began_at,
                int(row.ended) + row.attempts * began_at,
                row.first_at,
                row.last_at,
            ),
        )
        for row in rows
    ]


def _add(work: Work, group: _Group, began_at: int, span_ms: int) -> None:
    work.attempts += group.attempts
    work.ms += group.ended - group.started
    work.first_at, work.last_at = min(work.first_at, group.first_at), max(work.last_at, group.last_at)
    if group.begin == group.end:
        work.spans_ms[group.begin] += group.ended - group.started
        return
    second = began_at + (group.begin + 1) * span_ms
    work.spans_ms[group.begin] += group.attempts * second - group.started
    for span in range(group.begin + 1, group.end):
        work.spans_ms[span] += group.attempts * span_ms
    work.spans_ms[group.end] += group.ended - group.attempts * (began_at + group.end * span_ms)


def pipeline_seconds(session: Session, batch_id: str) -> dict[str, float]:
    """Return the seconds of each part of generating, as the generators timed it, where frames were recorded."""
    timings = Step.output["timings_s"]
    sums = session.execute(
        select(*(func.sum(timings[part].as_float()) for part in PIPELINE_PARTS)).where(
            Step.batch_id == batch_id, Step.stage == Stage.GENERATE, Step.state == StepState.DONE
        )
    ).one()
    return {part: float(value) for part, value in zip(PIPELINE_PARTS, sums, strict=True) if value is not None}


def other_work(session: Session, batch_id: str, queues: Sequence[str], began_at: int, ended_at: int) -> dict[str, int]:
    """Milliseconds that each worker gave to other batches on these queues meanwhile."""
    if not queues:
        return {}
    # Both are at hand where either would do: SQLite's min and max of two, PostgreSQL's least and greatest.
    sqlite = session.get_bind().dialect.name == "sqlite"
    least, greatest = (func.min, func.max) if sqlite else (func.least, func.greatest)
    ms: dict[str, int] = {}
    for runs, of_batch in ((StageRun, Job.batch_id), (ScoreRun, ScoreRun.batch_id)):
        inside = least(runs.ended_at, ended_at) - greatest(runs.started_at, began_at)
        then = (runs.queue.in_(queues), runs.ended_at > began_at, runs.started_at < ended_at, of_batch != batch_id)
        query = select(runs.worker, func.sum(inside)).where(*then).group_by(runs.worker)
        for worker, sum_ms in session.execute(
            query.join(Job, Job.id == StageRun.job_id) if runs is StageRun else query
        ):
            ms[worker or ""] = ms.get(worker or "", 0) + int(sum_ms)
    return ms


def clips(session: Session, batch_id: str) -> Clips:
    """The batch's ended jobs."""
    succeeded = cast(Job.state == "succeeded", Integer)
    ended, good, ms = session.execute(
        select(func.count(), func.sum(succeeded), func.sum(cast(Job.finished_at - Job.created_at, Float))).where(
            Job.batch_id == batch_id, Job.state.in_(TERMINAL_JOB_STATES)
        )
    ).one()
    return Clips(ended, int(good or 0), int(ms or 0))


def event_counts(session: Session, batch_id: str) -> dict[str, int]:
    """Count how often each kind of event happened to the batch and its jobs."""
    rows = session.execute(
        select(Event.kind, func.count().label("times"))
        .where(Event.batch_id == batch_id)
        .group_by(Event.kind)
        .order_by(Event.kind)
    )
    return {row.kind: row.times for row in rows}
