"""Finds the stored objects that no row refers to, and deletes rows whose retention time is over.

Nothing here touches the store. Whoever removes an object asks right before, and an object is kept as long as any row
names it, however old it is.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, func, select, true
from sqlalchemy.orm import Session

from db import events
from db.events import HISTORY_REMOVED, MEDIA_REMOVED
from db.models import (
    ArtifactRow,
    Batch,
    Checkpoint,
    ContinuationState,
    Event,
    Job,
    Reservation,
    ScoreRun,
    StageRun,
    Step,
    StreamSession,
)
from db.session import now_ms
from pipeline.states import TERMINAL_JOB_STATES, AttemptOutcome, JobState, Stage, StepState

SWEPT = "swept"
"""Kind of the event that every sweep leaves."""
_NOT_RESUMED = (JobState.SUCCEEDED, JobState.CANCELLED, JobState.BLOCKED)
_KEPT_EVENTS = ("approved", "rejected", HISTORY_REMOVED, MEDIA_REMOVED)
"""Outlive their batch's history: a person's word still counts when the job is tried again."""
_PAGE = 500


def unreferenced(session: Session, keys: Sequence[str], *, inputs_age_ms: int | None = None) -> set[str]:
    """Return those of the keys that no row points at now.

    A deleted job points at nothing, and one that ended ``inputs_age_ms`` ago no longer at its inputs.

    Everything of a job that has not ended is pointed at, and so is what an ended job's encode step recorded: a retry
    goes on from it.
    """
    jobs = {key: parts[1] for key in keys if len(parts := key.split("/")) > 2 and parts[0] in ("media", "checkpoints")}
    ids = sorted(set(jobs.values()))
    open_jobs = set(session.scalars(select(Job.id).where(Job.id.in_(ids), Job.state.not_in(TERMINAL_JOB_STATES))))
    referenced = {key for key, job_id in jobs.items() if job_id in open_jobs}
    referenced |= set(session.scalars(select(ArtifactRow.key).where(ArtifactRow.key.in_(keys))))
    referenced |= set(session.scalars(select(Checkpoint.key).where(Checkpoint.key.in_(keys))))
    referenced |= _encoded(session, ids)
    inputs = {key.removeprefix("inputs/"): key for key in keys if key.startswith("inputs/")}
    if inputs:
        referenced |= {inputs[digest] for digest in _named_inputs(session, inputs, inputs_age_ms)}
    others = set(keys) - jobs.keys() - referenced
    if others:
        blob = ContinuationState.blobs["frames"]["key"].as_string()
        referenced |= set(session.scalars(select(blob).where(blob.in_(others)).distinct()))
        given = StreamSession.continuation["blobs"]["frames"]["key"].as_string()
        waits = StreamSession.ended_at.is_(None)
        referenced |= set(session.scalars(select(given).where(given.in_(others), waits).distinct()))
    return set(keys) - referenced


def _named_inputs(session: Session, digests: Collection[str], age_ms: int | None) -> set[str]:
    """Return those of the digests that a job's inputs have."""
    named: set[str] = set()
    kept: ColumnElement[bool] = Job.deleted_at.is_(None)
    if age_ms is not None:
        kept &= Job.finished_at.is_(None) | (Job.finished_at >= now_ms() - age_ms)
    for field in ("image", "last_image", "video"):
        digest = Job.spec[field]["sha256"].as_string()
        named.update(session.scalars(select(digest).where(digest.in_(digests), kept).distinct()))
    shown = StreamSession.spec["image"]["sha256"].as_string()  # before its first segment there is no job
    waits = StreamSession.ended_at.is_(None)
    named.update(session.scalars(select(shown).where(shown.in_(digests), waits).distinct()))
    before = Job.spec["begins_with"]["video"]["sha256"].as_string()
    named.update(session.scalars(select(before).where(before.in_(digests), kept).distinct()))
    lists = Job.spec["reference_images"].as_string()
    for text in session.scalars(select(lists).where(lists.is_not(None), kept).distinct()):
        named.update(str(ref["sha256"]) for ref in json.loads(text))
    lists = Job.spec["loras"].as_string()
    for text in session.scalars(select(lists).where(lists.is_not(None), lists != "[]", kept).distinct()):
        named.update(str(lora["file"]["sha256"]) for lora in json.loads(text))
    return named & set(digests)


def _encoded(session: Session, job_ids: Sequence[str]) -> set[str]:
    """Keys that the encode and score steps of jobs recorded; those of a succeeded job are its artifacts or nobody's."""
    outputs = session.scalars(
        select(Step.output)
        .join(Job, Job.id == Step.job_id)
        .where(
            Step.job_id.in_(job_ids),
            Step.stage.in_((Stage.ENCODE, Stage.SCORE)),
            Step.state == StepState.DONE,
            Step.roll == Job.roll,
            Job.state.in_((JobState.FAILED, JobState.CANCELLED)),
            Job.deleted_at.is_(None),
        )
    )
    return {text for output in outputs for text in _texts(output)}


def _texts(value: Any) -> Iterator[str]:
    """Yield every text within a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


@dataclass(frozen=True, slots=True)
class Object:
    """A stored object that a row pointed at."""

    key: str
    size: int


def drop_checkpoints(session: Session, *, older_than_ms: int, dry_run: bool) -> list[Object]:
    """A page of checkpoints that nobody goes on from: of jobs that ended for good, and of those that ended long ago."""
    over = Job.state.in_(_NOT_RESUMED) | (Job.finished_at < now_ms() - older_than_ms)
    rows = session.scalars(
        select(Checkpoint)
        .join(Job, Job.id == Checkpoint.job_id)
        .where(over)
        .with_for_update(of=Job)
        .limit(None if dry_run else _PAGE)
    ).all()
    if not dry_run:
        for row in rows:
            session.delete(row)
    return [Object(row.key, row.size) for row in rows]


def _finished_before(age_ms: int) -> ColumnElement[bool]:
    """Batches whose last job ended so long ago."""
    ended = select(func.max(Job.finished_at)).where(Job.batch_id == Batch.id).scalar_subquery()
    return ~Batch.active & (ended < now_ms() - age_ms)


def _marked(kind: str) -> ColumnElement[bool]:
    return exists().where(Event.batch_id == Batch.id, Event.job_id.is_(None), Event.kind == kind)


def expired_batches(
    session: Session, *, older_than_ms: int, kind: str, of_sessions: bool | None = None
) -> Sequence[str]:
    """Finished batches of that age from which this (``media_removed``, ``history_removed``) was not removed yet.

    ``of_sessions``: only those of sessions, or only all others; None: whichever.
    """
    which: list[ColumnElement[bool]] = [_finished_before(older_than_ms), ~_marked(kind)]
    if of_sessions is not None:
        belongs = exists().where(StreamSession.batch_id == Batch.id)
        which.append(belongs if of_sessions else ~belongs)
    return session.scalars(select(Batch.id).where(*which)).all()


def drop_empty_sessions(session: Session, *, older_than_ms: int, dry_run: bool) -> int:
    """Remove the rows of sessions that ended so long ago and never had a segment; how many."""
    old = StreamSession.segments == 0, StreamSession.settled_at < now_ms() - older_than_ms
    ids = session.scalars(select(StreamSession.id).where(*old).limit(_PAGE)).all()
    if not dry_run and ids:
        for table, column in ((Reservation, Reservation.session_id), (StreamSession, StreamSession.id)):
            session.execute(delete(table).where(column.in_(ids)).execution_options(synchronize_session=False))
    return len(ids)


def _still_finished(session: Session, batch_id: str, older_than_ms: int) -> bool:
    """Asked with the batch's row locked, which a retry of one of its jobs has to change."""
    session.execute(select(Batch.id).where(Batch.id == batch_id).with_for_update())
    finished = session.scalars(select(Batch.id).where(Batch.id == batch_id, _finished_before(older_than_ms)))
    return finished.one_or_none() is not None


def drop_media(session: Session, batch_id: str, *, older_than_ms: int, dry_run: bool) -> list[Object]:
    """Forget the published files of a batch whose time is over; what they were."""
    if not _still_finished(session, batch_id, older_than_ms):
        return []
    of_batch = ArtifactRow.job_id.in_(select(Job.id).where(Job.batch_id == batch_id))
    objects = [
        Object(key, size) for key, size in session.execute(select(ArtifactRow.key, ArtifactRow.size).where(of_batch))
    ]
    if not dry_run:
        session.execute(delete(ArtifactRow).where(of_batch).execution_options(synchronize_session=False))
        states = ContinuationState.job_id.in_(select(Job.id).where(Job.batch_id == batch_id))
        session.execute(delete(ContinuationState).where(states).execution_options(synchronize_session=False))
        events.record(session, MEDIA_REMOVED, batch_id=batch_id, files=len(objects), bytes=sum(f.size for f in objects))
    return objects


def drop_history(session: Session, batch_id: str, *, older_than_ms: int, dry_run: bool) -> int:
    """Remove the attempts and events of a batch whose time is over; how many rows. What a person approved stays."""
    if not _still_finished(session, batch_id, older_than_ms):
        return 0
    runs = (StageRun.job_id.in_(select(Job.id).where(Job.batch_id == batch_id))) & (
        StageRun.outcome != AttemptOutcome.HELD
    )
    of_batch = (Event.batch_id == batch_id) & Event.kind.not_in(_KEPT_EVENTS)
    rows = [
        (table, condition & _number_stays_given(session, table))
        for table, condition in ((StageRun, runs), (ScoreRun, ScoreRun.batch_id == batch_id), (Event, of_batch))
    ]
    if dry_run:
        return sum(session.scalars(select(func.count()).select_from(table).where(cond)).one() for table, cond in rows)
    removed = 0
    for table, condition in rows:
        statement = delete(table).where(condition).returning(table.id).execution_options(synchronize_session=False)
        removed += len(session.scalars(statement).all())
    events.record(session, HISTORY_REMOVED, batch_id=batch_id, rows=removed)
    return removed


def drop_lone_events(session: Session, *, older_than_ms: int, dry_run: bool) -> int:
    """Remove events of that age that belong to no batch, such as those of keys and queues; how many. Of sweeps the last
    one stays, which says when the next is due."""
    last = select(func.max(Event.id)).where(Event.batch_id.is_(None), Event.kind == SWEPT).scalar_subquery()
    old = Event.batch_id.is_(None) & (Event.at < now_ms() - older_than_ms) & (Event.id != func.coalesce(last, 0))
    old &= _number_stays_given(session, Event)
    if dry_run:
        return session.scalars(select(func.count()).select_from(Event).where(old)).one()
    statement = delete(Event).where(old).returning(Event.id).execution_options(synchronize_session=False)
    return len(session.scalars(statement).all())


def _number_stays_given(session: Session, table: type[StageRun] | type[ScoreRun] | type[Event]) -> ColumnElement[bool]:
    """A condition: to remove the row has no later one take its number. SQLite gives the highest one away again, which
    a feed that has read up to it would pass over."""
    if session.get_bind().dialect.name != "sqlite":
        return true()
    return table.id < select(func.max(table.id)).scalar_subquery()


def record_sweep(session: Session, removed: dict[str, int]) -> None:
    events.record(session, SWEPT, removed=removed)


def is_due(session: Session, *, every_ms: int) -> bool:
    """Return whether the last sweep, or where there was none the first submission, is so long ago."""
    last = session.scalars(
        select(Event.at).where(Event.batch_id.is_(None), Event.kind == SWEPT).order_by(Event.id.desc()).limit(1)
    ).one_or_none()
    if last is None:
        last = session.scalars(select(func.min(Batch.created_at))).one()
    return last is not None and last < session.scalars(select(now_ms())).one() - every_ms
