"""A batch's jobs for a browser: filtered, sorted, in pages, grouped by prompt.

A page begins where the one before ended, at a key and not after a number of rows: no page takes longer than the first,
and none shows a job twice because others have moved meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Float, Select, SQLColumnExpression, and_, cast, func, or_, select
from sqlalchemy.orm import Session

from db.clips.selection import labelled
from db.models import ArtifactRow, ClipRating, Event, Job, Score
from pipeline.states import JobState

_ENDED_BADLY = (JobState.FAILED, JobState.BLOCKED)
Query = Select[*tuple[Any, ...]]


class Order(StrEnum):
    """The orders in which jobs are shown."""

    TROUBLE = "trouble"
    """Failed and blocked ones first, then all others, both in the order of the file."""
    FILE = "file"
    NEWEST = "newest"
    """The last to end first; then what has not ended."""
    BEST = "best"
    """The highest score of the filter's metric first, then what has none."""
    WORST = "worst"
    STARS = "stars"
    """Most stars first, the mean of all raters'; then what nobody gave any."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What the jobs that are shown have in common."""

    states: tuple[JobState, ...] = ()
    label: tuple[str, str | None] | None = None
    """A label's name, and its value unless any will do."""
    preset: str | None = None
    seed: int | None = None
    text: str | None = None
    """A part of the prompt or of the custom id, in any case."""
    metric: str | None = None
    """The metric that ``least``, ``most`` and the orders by score are about: the newest score of the current roll."""
    least: float | None = None
    most: float | None = None
    stars: float | None = None
    """At least so many stars, the mean of all raters'."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page begins: after the job with this key, in the phase of the order that it was in."""

    phase: int
    seq: int
    key: float | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some jobs, and where the next page begins."""

    jobs: Sequence[Job]
    next: Place | None
    """None: there are no more."""


@dataclass(frozen=True, slots=True)
class PromptGroup:
    """The jobs of a batch that have one prompt."""

    prompt: str
    first_seq: int
    count: int
    jobs: Sequence[Job]
    """The first of them, in the order of the file."""


@dataclass(frozen=True, slots=True)
class _Phase:
    """A part of an order: its jobs, and what they are sorted by before their place in the file."""

    condition: ColumnElement[bool] | None
    key: SQLColumnExpression[Any] | None = None
    """Jobs of which it is NULL are not of this phase."""
    descending: bool = False


def page(session: Session, batch_id: str, chosen: Filter, order: Order, *, after: Place | None, limit: int) -> Page:
    """Return at most ``limit`` jobs of a batch."""
    place, rows = after or Place(0, -1), list[tuple[str, Place]]()
    phases = _phases(order, chosen, batch_id)
    for number, phase in enumerate(phases[place.phase :], place.phase):
        start = place if number == place.phase else Place(number, -1)
        query = _of_phase(_matching(session, batch_id, chosen), phase, start).limit(limit + 1 - len(rows))
        rows += [(row.id, Place(number, row.seq, row.key)) for row in session.execute(query)]
        if len(rows) > limit:
            break
    jobs = _in_order(session, [job_id for job_id, _ in rows[:limit]])
    return Page(jobs, rows[limit - 1][1] if len(rows) > limit else None)


def prompt_groups(
    session: Session, batch_id: str, chosen: Filter, *, after_seq: int, limit: int, most: int
) -> list[PromptGroup]:
    """Return the groups whose first job lies after ``after_seq``, each with at most ``most`` of its jobs."""
    prompt, matching = Job.spec["prompt"].as_string(), _matching(session, batch_id, chosen)
    first_seq = func.min(Job.seq)
    grouped = matching.with_only_columns(
        prompt.label("prompt"), first_seq.label("first_seq"), func.count().label("number")
    )
    groups = session.execute(
        grouped.group_by(prompt).having(first_seq > after_seq).order_by(first_seq).limit(limit)
    ).all()
    # One pass over the batch for all of them: windows over each prompt's jobs take four times as long.
    wanted = matching.with_only_columns(Job.id, prompt.label("prompt")).order_by(Job.seq)
    members: dict[str, list[str]] = {row.prompt: [] for row in groups}
    # So many there are: with the limit the pass ends at the last of them, not at the end of the batch.
    begin, number = (groups[0].first_seq if groups else 0), sum(row.number for row in groups)
    wanted = wanted.where(Job.seq >= begin, prompt.in_(list(members))).limit(number)
    for job_id, text in session.execute(wanted):
        if len(members[text]) < most:
            members[text].append(job_id)
    jobs = {job.id: job for job in _in_order(session, [job_id for ids in members.values() for job_id in ids])}
    return [
        PromptGroup(row.prompt, row.first_seq, row.number, [jobs[job_id] for job_id in members[row.prompt]])
        for row in groups
    ]


def files_of(session: Session, job_ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the digests of jobs' published files, by job and kind."""
    found: dict[str, dict[str, str]] = {}
    query = select(ArtifactRow.job_id, ArtifactRow.kind, ArtifactRow.sha256).where(ArtifactRow.job_id.in_(job_ids))
    for job_id, kind, sha256 in session.execute(query):
        found.setdefault(job_id, {})[kind] = sha256
    return found


def scores_of(session: Session, job_ids: Sequence[str], metric: str | None) -> dict[str, tuple[str, float]]:
    """Return one score of each job's current roll, the newest scorer's: of that metric, else of the first by name."""
    query = (
        select(Score.job_id, Score.metric, Score.score)
        .join(Job, (Job.id == Score.job_id) & (Job.roll == Score.roll))
        .where(Score.job_id.in_(job_ids))
        .order_by(Score.job_id, Score.metric, Score.scored_at, Score.scorer_digest.desc())
    )
    if metric is not None:
        query = query.where(Score.metric == metric)
    newest: dict[tuple[str, str], float | None] = {(of, name): score for of, name, score in session.execute(query)}
    found: dict[str, tuple[str, float]] = {}
    for (job_id, name), score in newest.items():
        if score is not None:
            found.setdefault(job_id, (name, score))
    return found


def metrics_of(session: Session, batch_id: str) -> Sequence[str]:
    """Return the names of the metrics that some clip of a batch was scored by: of the first hundred scored jobs."""
    is_scored = select(Score.job_id).where(Score.job_id == Job.id).exists()
    scored = select(Job.id).where(Job.batch_id == batch_id, is_scored).order_by(Job.seq).limit(100)
    ids = session.scalars(scored).all()
    query = select(Score.metric).where(Score.job_id.in_(ids)).distinct().order_by(Score.metric)
    return session.scalars(query).all() if ids else []


def presets_of(session: Session, batch_id: str) -> list[str]:
    """Return the presets of a batch's jobs, as its first event names them; none once its history was removed."""
    first = select(Event.kind, Event.data).where(Event.batch_id == batch_id).order_by(Event.id).limit(1)
    row = session.execute(first).one_or_none()
    needs = [] if row is None or row.kind != "submitted" else row.data.get("needs", [])
    return sorted({str(need["preset"]) for need in needs})


def _matching(session: Session, batch_id: str, chosen: Filter) -> Query:
    return select(Job.id, Job.seq).where(Job.batch_id == batch_id, *_conditions(session, chosen))


def _conditions(session: Session, chosen: Filter) -> Iterator[ColumnElement[bool]]:
    if chosen.states:
        yield Job.state.in_(chosen.states)
    if chosen.label is not None:
        yield labelled(*chosen.label, sqlite=session.get_bind().dialect.name == "sqlite")
    if chosen.preset is not None:
        yield Job.spec["preset"].as_string() == chosen.preset
    if chosen.seed is not None:
        yield Job.spec["seed"].as_integer() == chosen.seed
    if chosen.text:
        yield containing(chosen.text)
    if chosen.metric is not None and chosen.least is not None:
        yield _score(chosen.metric) >= chosen.least
    if chosen.metric is not None and chosen.most is not None:
        yield _score(chosen.metric) <= chosen.most
    if chosen.stars is not None:
        yield _stars() >= chosen.stars


def containing(text: str) -> ColumnElement[bool]:
    """The condition that a job's prompt or custom id has this text in it, in any case."""
    prompt = Job.spec["prompt"].as_string()
    return or_(prompt.icontains(text, autoescape=True), Job.custom_id.icontains(text, autoescape=True))


def _score(metric: str) -> ColumnElement[Any]:
    """The newest score of a job's current roll."""
    return (
        select(Score.score)
        .where(Score.job_id == Job.id, Score.roll == Job.roll, Score.metric == metric)
        .order_by(Score.scored_at.desc(), Score.scorer_digest)
        .limit(1)
        .correlate(Job)
        .scalar_subquery()
    )


def _stars() -> ColumnElement[Any]:
    """The mean of the stars that a job's raters gave."""
    mean = func.avg(ClipRating.stars, type_=Float)
    return select(cast(mean, Float)).where(ClipRating.job_id == Job.id).correlate(Job).scalar_subquery()


def _phases(order: Order, chosen: Filter, batch_id: str) -> tuple[_Phase, ...]:
    if order is Order.TROUBLE:
        return _Phase(Job.state.in_(_ENDED_BADLY)), _Phase(Job.state.not_in(_ENDED_BADLY))
    if order is Order.NEWEST:
        return _Phase(None, Job.finished_at, True), _Phase(Job.finished_at.is_(None))
    if order in (Order.BEST, Order.WORST) and chosen.metric is not None:
        score = _score(chosen.metric)
        return _Phase(None, score, order is Order.BEST), _Phase(score.is_(None))
    if order is Order.STARS:
        rated = select(ClipRating.job_id).where(ClipRating.batch_id == batch_id, ClipRating.stars.is_not(None))
        return _Phase(Job.id.in_(rated), _stars(), True), _Phase(Job.id.not_in(rated))
    return (_Phase(None),)


def _of_phase(query: Query, phase: _Phase, after: Place) -> Query:
    if phase.condition is not None:
        query = query.where(phase.condition)
    if phase.key is None:
        return query.add_columns(func.nullif(0, 0).label("key")).where(Job.seq > after.seq).order_by(Job.seq)
    # A key of its own query is computed once for each job, not where it is compared, sorted by and shown.
    keyed = query.add_columns(phase.key.label("key")).cte("keyed").prefix_with("MATERIALIZED")
    query = select(keyed.c.id, keyed.c.seq, keyed.c.key).where(keyed.c.key.is_not(None))
    if after.key is not None:
        further = keyed.c.key < after.key if phase.descending else keyed.c.key > after.key
        query = query.where(or_(further, and_(keyed.c.key == after.key, keyed.c.seq > after.seq)))
    return query.order_by(keyed.c.key.desc() if phase.descending else keyed.c.key, keyed.c.seq)


def _in_order(session: Session, ids: Sequence[str]) -> Sequence[Job]:
    by_id = {job.id: job for job in session.scalars(select(Job).where(Job.id.in_(ids)))}
    return [by_id[job_id] for job_id in ids]
