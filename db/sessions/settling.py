"""Settles a session's segments: cancels those after a lost one, and joins all at the end.

Done by the dispatcher, one session a transaction, and at once where a session is closed.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Select, exists, select, update
from sqlalchemy.orm import Session, aliased

from db import events
from db.clips import batches
from db.clips.batch_closing import close_batch
from db.clips.cancel_retry_approve import cancel_all
from db.clips.jobs import OPEN
from db.models import Job, Step, StreamSession
from db.notify import wake_dispatcher
from db.session import now_ms
from db.sessions import joined
from pipeline.spec import JobSpec
from pipeline.states import SESSION_ENDS, JobState, Stage, StepState
from pipeline.work import JoinedClip

BEFORE_ENDED = "segment_before_ended"
"""The error code of a segment that was cancelled since the one it goes on from was not made."""


def settle(session: Session, row: StreamSession) -> bool:
    """Bring a session forward whose row is locked: True when it is settled, and its batch may close.

    Segments that go on from one that did not succeed are cancelled. Once the session has ended and all segments have,
    the job that joins them is stored.
    """
    if row.settled_at is not None:
        return True
    _cancel_followers(session, row.batch_id)
    if row.state not in SESSION_ENDS or _some_open(session, row.batch_id):
        return False
    made = joined.clips(session, row.batch_id)
    if made:
        row.joined_job_id = batches.append(session, row.batch_id, _joined_spec(made), stage=Stage.ENCODE)
        facts = {"session_id": row.id, "segments": len(made)}
        events.record(session, "session_joining", batch_id=row.batch_id, job_id=row.joined_job_id, **facts)
    row.settled_at = session.scalars(select(now_ms())).one()
    session.flush()
    close_batch(session, row.batch_id)
    wake_dispatcher(session)
    return True


def cancel_ungenerated(session: Session, row: StreamSession, *, wait: bool = False) -> list[str]:
    """Ask the segments to stop whose frames are not generated; the ids of those that were not asked before.

    Those that were generated the client has seen: they become a part of its clip. Without ``wait`` those that somebody
    else has locked are left to the next call.
    """
    made = exists().where(
        Step.job_id == Job.id, Step.roll == Job.roll, Step.stage == Stage.GENERATE, Step.state == StepState.DONE
    )
    if wait:  # before it is looked at which are generated: none of them may become so in between
        session.execute(_open_jobs(row.batch_id).with_for_update())
    query = _open_jobs(row.batch_id).where(~Job.cancel_requested, ~made)
    return cancel_all(session, session.scalars(query).all(), wait=wait)


def _open_jobs(batch_id: str) -> Select[str]:
    return select(Job.id).where(Job.batch_id == batch_id, Job.state.in_(OPEN)).order_by(Job.id)


def _some_open(session: Session, batch_id: str) -> bool:
    return session.scalars(_open_jobs(batch_id).limit(1)).first() is not None


def _cancel_followers(session: Session, batch_id: str) -> None:
    while ids := _orphaned(session, batch_id):
        cancelled = cancel_all(session, ids, wait=False)
        why = "the segment before it was not made"
        session.execute(
            update(Job)
            .where(Job.id.in_(cancelled), Job.state == JobState.CANCELLED)
            .values(error_code=BEFORE_ENDED, error=why)
            .execution_options(synchronize_session=False)
        )
        session.expire_all()
        events.record_each(session, "segment_dropped", [(batch_id, job_id) for job_id in cancelled], code=BEFORE_ENDED)
        if len(cancelled) < len(ids):
            return  # somebody holds one: the next poll finds it again


def _orphaned(session: Session, batch_id: str) -> Sequence[str]:
    """Open segments that go on from one that has ended without a clip."""
    before = aliased(Job)
    lost = before.state.in_((JobState.FAILED, JobState.BLOCKED, JobState.CANCELLED))
    of_batch = (Job.batch_id == batch_id, Job.state.in_(OPEN), ~Job.cancel_requested)
    orphaned = exists().where(before.id == Job.spec["extends"].as_string(), before.batch_id == batch_id, lost)
    return session.scalars(select(Job.id).where(*of_batch, orphaned).order_by(Job.id)).all()


def _joined_spec(made: Sequence[JoinedClip]) -> JobSpec:
    """What the joined clip is: the first segment's specification, with all frames."""
    alone = {"image": None, "last_image": None, "video": None, "reference_images": (), "extends": None}
    frames = sum(clip.outputs.generated.num_frames for clip in made)
    more = {"seam_frames": 0, "num_frames": frames, "custom_id": None, "enhance": False, "loras": ()}
    return made[0].spec.model_copy(update={**alone, **more})
