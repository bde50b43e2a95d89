"""Batches: inserted all or nothing, counted, listed, paused."""

from __future__ import annotations

import itertools
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Insert, Table, bindparam, case, false, func, insert, literal, or_, select, update
from sqlalchemy.orm import Session
from sqlalchemy.sql.dml import ReturningInsert

from db import events, measurements, quotas
from db.base import insert_into
from db.clips import continuations
from db.models import STEPS, Batch, Job, Step
from db.notify import wake_dispatcher
from db.session import now_ms
from pipeline.digests import canonical_json, sha256_hex
from pipeline.errors import ConflictError, NoSuchRowError
from pipeline.ids import job_id, new_batch_id
from pipeline.names import check_owner
from pipeline.spec import BatchOptions, JobSpec
from pipeline.states import JobState, Stage, StepState
from pipeline.work import ContinuationRef

if TYPE_CHECKING:  # reading prompt files takes more imports than a worker needs
    from pipeline.prompts import PlannedJob, Submission

_CHUNK = 2_000
_NOW = select(now_ms())

Need = tuple[str, tuple[str, ...]]
"""A preset and the GPU types that a job accepts."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a batch: what it may use, and by when it should be done."""

    deadline_at: int | None = None
    """The deadline in the database's milliseconds."""
    max_gpu_ms: int | None = None
    max_cost: float | None = None
    prices: Mapping[str, float] = field(default_factory=dict)
    """Prices of an hour by GPU type, kept with a batch that has a budget."""

    def columns(self) -> dict[str, Any]:
        values = {"deadline_at": self.deadline_at, "max_gpu_ms": self.max_gpu_ms, "max_cost": self.max_cost}
        limited = self.max_gpu_ms is not None or self.max_cost is not None
        return {**values, "prices": dict(self.prices)} if limited else values


@dataclass(frozen=True, slots=True)
class _Added:
    """A job that is added to a batch: what ``PlannedJob`` has, without what reads prompt files."""

    line: int
    variant: int
    spec: JobSpec


@dataclass(frozen=True, slots=True)
class Submitted:
    """The result of a submission: ``created`` is False when the same one was stored before."""

    batch_id: str
    total: int
    created: bool


def default_key(submission: Submission, owner: str, options: BatchOptions) -> str:
    """The idempotency key of a submission that names none: same content, settings and owner, same key."""
    content = {"fingerprint": submission.fingerprint, "owner": owner, "options": options.as_json()}
    return f"content:{sha256_hex(canonical_json(content))}"


def submit(
    session: Session,
    submission: Submission,
    *,
    name: str,
    owner: str,
    options: BatchOptions,
    key: str | None = None,
    again: bool = False,
    limits: Limits | None = None,
    states: Mapping[int, ContinuationRef] | None = None,
    batch_id: str | None = None,
) -> Submitted:
    """Store a batch and its jobs, all in the caller's transaction. A batch that was stored before keeps its limits.

    ``states`` are what those of the jobs that extend a clip start from, by their place among the jobs.
    ``batch_id`` is the id of the new batch, where it has one before it is stored.

    Raises:
        ConflictError: ``key`` was used for another file or other settings.
        QuotaError: the key with which it was asked for over HTTP may not have as much.
    """
    check_owner(owner)
    content_key = default_key(submission, owner, options)
    idempotency_key = f"again:{uuid.uuid4()}" if again else f"key:{owner}:{key}" if key else content_key
    now = session.connection().execute(_NOW).scalar_one()
    batch_id, key_id = batch_id or new_batch_id(), events.acting_key.get()
    if not _claim_key(
        session,
        {
            "id": batch_id,
            "name": name,
            "owner": owner,
            "source_name": submission.source_name,
            "idempotency_key": idempotency_key,
            "fingerprint": content_key.removeprefix("content:"),
            "options": options.as_json(),
            "total": len(submission.jobs),
            "paused": False,
            "active": True,
            "created_at": now,
            "key_id": key_id,
            **(limits or Limits()).columns(),
        },
    ):
        existing = session.scalars(select(Batch).where(Batch.idempotency_key == idempotency_key)).one()
        if existing.fingerprint != content_key.removeprefix("content:"):
            raise ConflictError(
                f"key {key!r}: batch {existing.id} was submitted under it with other content or settings; "
                "use another key"
            )
        return Submitted(existing.id, existing.total, created=False)
    if key_id is not None:
        quotas.require_room(session, key_id, batch_id, len(submission.jobs))
    needs = _insert_jobs(session, batch_id, submission.jobs, now)
    for seq, state in (states or {}).items():
        continuations.put(session, job_id(batch_id, seq), 1, continuations.GIVEN, state)
    wake_dispatcher(session)
    events.record(
        session,
        "submitted",
        batch_id=batch_id,
        total=len(submission.jobs),
        owner=owner,
        # What the jobs need of a GPU, so that nobody has to read them all to know what no worker can run.
        needs=[
            {"preset": preset, "gpu": list(gpu), "jobs": count, "segments": segments}
            for (preset, gpu), (count, segments) in sorted(needs.items())
        ],
    )
    by_preset: Counter[str] = Counter()
    for (preset, _), (count, _) in needs.items():
        by_preset[preset] += count
    measurements.record_submitted(session, by_preset)
    return Submitted(batch_id, len(submission.jobs), created=True)


def append(
    session: Session, batch_id: str, spec: JobSpec, *, stage: Stage = Stage.SCREEN, state: ContinuationRef | None = None
) -> str:
    """Add one job behind the others of a batch that is open, and return its id. The caller keeps others from adding.

    ``stage`` is its first step's, encode for one that joins what is there; ``state`` is what it starts from.

    Raises:
        QuotaError: the key with which the batch was asked for may not have another.
    """
    now = session.scalars(select(now_ms())).one()
    key_id = session.scalars(select(Batch.key_id).where(Batch.id == batch_id)).one()
    if key_id is not None and stage is not Stage.ENCODE:
        quotas.require_room(session, key_id, None, 1)
    counted = update(Batch).where(Batch.id == batch_id).values(total=Batch.total + 1, active=True)
    total = session.execute(counted.returning(Batch.total).execution_options(synchronize_session=False)).scalar_one()
    new = job_id(batch_id, total - 1)
    load = _copy_jobs if session.get_bind().dialect.name == "postgresql" else _insert_many_jobs
    load(session, [_job_row(batch_id, total - 1, _Added(total, 0, spec), now)])
    first = {"job_id": new, "batch_id": batch_id, "roll": 1, "segment": 0, "stage": stage}
    session.connection().execute(insert(STEPS).values(**first, state=StepState.WAITING, priority=spec.priority))
    if state is not None:
        continuations.put(session, new, 1, continuations.GIVEN, state)
    wake_dispatcher(session)
    measurements.record_submitted(session, {spec.preset: 1})
    return new


def _claim_key(session: Session, values: dict[str, Any]) -> bool:
    """Insert the batch unless its key is taken; of two at one instant, the second waits and then sees the first."""
    statement = _claiming(session.get_bind().dialect.name)
    return session.connection().execute(statement, values).one_or_none() is not None


@cache
def _claiming(dialect: str) -> ReturningInsert[tuple[str]]:
    """Made once: to build it takes longer than to run it, and a server runs it for each video."""
    table = cast(Table, Batch.__table__)
    return insert_into(dialect, table).on_conflict_do_nothing(index_elements=["idempotency_key"]).returning(table.c.id)


def _insert_jobs(session: Session, batch_id: str, jobs: Iterable[PlannedJob], now: int) -> dict[Need, tuple[int, int]]:
    """Store the jobs and their first steps, in one pass over jobs that are made as they are read.

    How many (jobs, segments) there are of each need.
    """
    numbered = enumerate(jobs)
    load = _copy_jobs if session.get_bind().dialect.name == "postgresql" else _insert_many_jobs
    counted: Counter[Need] = Counter()
    segments: Counter[Need] = Counter()
    while chunk := list(itertools.islice(numbered, _CHUNK)):
        load(session, [_job_row(batch_id, seq, job, now) for seq, job in chunk])
        for _, job in chunk:
            counted[job.spec.preset, job.spec.gpu] += 1
            segments[job.spec.preset, job.spec.gpu] += job.spec.segments
    session.connection().execute(_FIRST_STEPS, {"p_batch_id": batch_id})
    return {need: (count, segments[need]) for need, count in counted.items()}


def _copy_jobs(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    """COPY: the way to load many rows into PostgreSQL."""
    driver = session.connection().connection.driver_connection
    assert driver is not None
    with driver.cursor() as cursor, cursor.copy(f"COPY jobs ({', '.join(rows[0])}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(tuple(row.values()))


def _insert_many_jobs(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    """The same for SQLite: the driver's own executemany."""
    statement = f"INSERT INTO jobs ({', '.join(rows[0])}) VALUES ({', '.join('?' * len(rows[0]))})"
    session.connection().exec_driver_sql(statement, [tuple(row.values()) for row in rows])


def _job_row(batch_id: str, seq: int, job: PlannedJob | _Added, now: int) -> dict[str, Any]:
    """Return the row as the driver takes it."""
    return {
        "id": job_id(batch_id, seq),
        "batch_id": batch_id,
        "seq": seq,
        "line": job.line,
        "variant": job.variant,
        "spec": job.spec.model_dump_json(exclude_defaults=True),
        "state": JobState.WAITING.value,
        "roll": 1,
        "priority": job.spec.priority,
        "custom_id": job.spec.custom_id,
        "cancel_requested": False,
        "created_at": now,
    }


def _first_steps() -> Insert:
    """Makes the rows within the database from the jobs' rows, in the order of the file: nothing is sent twice."""
    flags = (Job.spec["enhance"].as_boolean(), Job.spec["auto_extend"].as_boolean())
    enhanced = or_(*(func.coalesce(flag, false()) for flag in flags))
    first = (
        select(
            Job.id,
            Job.batch_id,
            Job.roll,
            literal(0),
            case((enhanced, Stage.ENHANCE.value), else_=Stage.SCREEN.value),
            literal(StepState.WAITING.value),
            Job.priority,
        )
        .where(Job.batch_id == bindparam("p_batch_id"))
        .order_by(Job.seq)
    )
    columns = ["job_id", "batch_id", "roll", "segment", "stage", "state", "priority"]
    return insert(STEPS).from_select(columns, first)


_FIRST_STEPS = _first_steps()


def get(session: Session, batch_id: str) -> Batch:
    """The batch of that id, or of the only id that starts so; ``latest`` is the newest.

    Raises:
        NotFoundError: there is none, or several.
    """
    if batch_id == "latest":
        matches = session.scalars(select(Batch).order_by(Batch.id.desc()).limit(1)).all()
    else:
        matches = session.scalars(
            select(Batch).where(Batch.id.startswith(batch_id, autoescape=True)).order_by(Batch.id).limit(3)
        ).all()
    if len(matches) == 1 and batch_id:
        return matches[0]
    problem = "is not unique" if len(matches) > 1 and batch_id else "does not exist"
    raise NoSuchRowError(f"batch {batch_id!r} {problem}; `vgen list` shows the batches")


def recent(session: Session, *, limit: int = 50, owner: str | None = None) -> Sequence[Batch]:
    """The newest batches first."""
    query = select(Batch).order_by(Batch.id.desc()).limit(limit)
    return session.scalars(query.where(Batch.owner == owner) if owner else query).all()


def counts(session: Session, batch_ids: Sequence[str]) -> dict[str, dict[JobState, int]]:
    """Jobs per state of each batch; every state is there, and they add up to the batch's total."""
    result = {batch_id: dict.fromkeys(JobState, 0) for batch_id in batch_ids}
    rows = session.execute(
        select(Job.batch_id, Job.state, func.count())
        .where(Job.batch_id.in_(batch_ids))
        .group_by(Job.batch_id, Job.state)
    )
    for batch_id, state, count in rows:
        result[batch_id][state] = count
    return result


def job_rows(
    session: Session, batch_id: str, *, states: Sequence[JobState] = (), after_seq: int = -1, limit: int | None = None
) -> Sequence[Job]:
    """Jobs of a batch in the order of its file."""
    query = select(Job).where(Job.batch_id == batch_id, Job.seq > after_seq).order_by(Job.seq)
    if states:
        query = query.where(Job.state.in_(states))
    return session.scalars(query.limit(limit) if limit is not None else query).all()


def running_steps(session: Session, batch_id: str) -> Sequence[tuple[Step, int]]:
    """Steps that a worker holds now, with their progress, and how many segments the clip of each has."""
    rows = session.execute(
        select(Step, func.coalesce(Job.spec["segments"].as_integer(), 1))
        .join(Job, Job.id == Step.job_id)
        .where(Step.batch_id == batch_id, Step.state == StepState.RUNNING)
        .order_by(Step.job_id, Step.segment)
    )
    return [(step, segments) for step, segments in rows]


def set_deadline(session: Session, batch_id: str, deadline_at: int | None, *, by: str) -> None:
    """``deadline_at`` in the database's milliseconds; None for none."""
    session.execute(update(Batch).where(Batch.id == batch_id).values(deadline_at=deadline_at))
    events.record(session, "deadline_set", batch_id=batch_id, deadline_at=deadline_at, by=by)
