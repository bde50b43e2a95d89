"""Reads a session: its segments with their steps and files, and its place in the queue for a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from db.clips import continuations, jobs
from db.models import Job, Reservation, Step, StreamSession
from db.sessions import rows
from pipeline.outputs import GenerateOutput
from pipeline.states import JobState, Stage, StepState

_AT_WORK = (StepState.RUNNING, StepState.DISPATCHED, StepState.WAITING, StepState.PENDING)
"""The states of a step that is not over, the one that is nearest to its end first."""


@dataclass(frozen=True, slots=True)
class SegmentFacts:
    """One segment's job, and what its steps say."""

    job: Job
    steps: Mapping[Stage, Step] = field(default_factory=dict)
    video_key: str | None = None
    gpu_types: Mapping[str, str] = field(default_factory=dict)
    """The GPU type of each worker that was ever reserved for the session."""

    @property
    def at_work(self) -> Step | None:
        """The step that is not over yet, the furthest along."""
        open_ = [step for step in self.steps.values() if step.state in _AT_WORK]
        return min(open_, key=lambda step: _AT_WORK.index(step.state)) if open_ else None

    @property
    def generated(self) -> GenerateOutput | None:
        """What generate recorded; None before."""
        step = self.steps.get(Stage.GENERATE)
        return None if step is None or step.state is not StepState.DONE else GenerateOutput.from_row(step.output)

    @property
    def gpu_type(self) -> str | None:
        """The GPU type of its frames, also while they are made; None where no worker has them in hand."""
        if (output := self.generated) is not None:
            return output.gpu_type
        step = self.steps.get(Stage.GENERATE)
        return None if step is None or step.worker is None else self.gpu_types.get(step.worker)


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """A session's row, and what other rows say of it."""

    row: StreamSession
    segments: Sequence[SegmentFacts]
    reservation: Reservation | None
    position: int | None
    """How many sessions get a GPU before it; None where it has one, or has ended."""
    waiting: int
    """How many sessions wait for a GPU."""
    continuation: dict[str, Any] | None
    """What the next segment would go on from."""


def facts_of(session: Session, row: StreamSession) -> SessionFacts:
    """Read everything that is shown of one session."""
    segments = _segments(session, row)
    live = select(Reservation).where(Reservation.session_id == row.id, Reservation.ended_at.is_(None))
    reservation = session.scalars(live).one_or_none()
    queue = waiting_for_gpu(session)
    position = queue.index(row.id) if row.id in queue else None
    return SessionFacts(row, segments, reservation, position, len(queue), snapshot(session, row))


def segment_facts(session: Session, row: StreamSession, segment: int) -> SegmentFacts:
    """Read what is shown of one segment, which was asked for."""
    return _segments(session, row, Job.seq == segment)[0]


def waiting_for_gpu(session: Session) -> list[str]:
    """The ids of the sessions that wait for a GPU, in the order in which they get one."""
    bound = select(Reservation.session_id).where(Reservation.ended_at.is_(None))
    query = select(StreamSession.id).where(
        StreamSession.settled_at.is_(None), StreamSession.ended_at.is_(None), StreamSession.id.not_in(bound)
    )
    return list(session.scalars(query.order_by(StreamSession.created_at, StreamSession.id)))


def snapshot(session: Session, row: StreamSession) -> dict[str, Any] | None:
    """What another session may go on from: the state that the newest generated segment left, or was given."""
    query = select(Job).where(Job.batch_id == row.batch_id, Job.seq < row.segments).order_by(Job.seq.desc())
    for job in session.scalars(query):
        state = continuations.last(session, job.id, job.roll)
        if state is not None and job.state not in (JobState.BLOCKED, JobState.CANCELLED, JobState.FAILED):
            left = {"kind": state.kind, "version": state.version, "payload": state.payload, "blobs": state.blobs}
            return {**left, "job_id": job.id, "segment": job.seq}
    return row.continuation


def listed(session: Session, *, owner: str | None, open_only: bool, limit: int) -> list[SessionFacts]:
    """The newest sessions first, each with all that is shown of it."""
    return [facts_of(session, row) for row in rows.recent(session, owner=owner, open_only=open_only, limit=limit)]


def _segments(session: Session, row: StreamSession, *which: ColumnElement[bool]) -> list[SegmentFacts]:
    of_session = (Job.batch_id == row.batch_id, Job.seq < row.segments, *which)
    found = session.scalars(select(Job).where(*of_session).order_by(Job.seq)).all()
    steps: dict[str, dict[Stage, Step]] = {job.id: {} for job in found}
    query = select(Step).join(Job, (Job.id == Step.job_id) & (Job.roll == Step.roll)).where(*of_session)
    for step in session.scalars(query):
        steps[step.job_id][step.stage] = step
    files = jobs.artifacts(session, list(steps))
    videos = {job_id: of_job["video"].key for job_id, of_job in files.items() if "video" in of_job}
    reserved = select(Reservation.worker, Reservation.gpu_type).where(Reservation.session_id == row.id)
    workers = session.execute(reserved.order_by(Reservation.id)).all() if found else ()
    gpu_types = {each.worker: each.gpu_type for each in workers}
    return [SegmentFacts(job, steps[job.id], videos.get(job.id), gpu_types) for job in found]
