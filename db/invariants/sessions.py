"""Rules for sessions that watch a video while it is made."""

from sqlalchemy import and_, case, exists, func, or_, select
from sqlalchemy.orm import aliased

from db.invariants.rule import OPEN, Query, Rule
from db.models import Batch, Job, Step, StreamSession
from pipeline.states import TERMINAL_JOB_STATES, JobState, Stage


def _open_batch() -> Query:
    """A session's batch stays open until the session is settled."""
    wrong = and_(StreamSession.settled_at.is_(None), ~Batch.active)
    return (
        select(StreamSession.batch_id, StreamSession.id.label("session_id"))
        .join(Batch, Batch.id == StreamSession.batch_id)
        .where(wrong)
    )


def _segments() -> Query:
    """A session's batch has the segments that were asked for, and the joined clip's job once it is settled."""
    jobs = func.count(Job.id)
    with_join = StreamSession.segments + case((StreamSession.joined_job_id.is_not(None), 1), else_=0)
    return (
        select(StreamSession.batch_id, StreamSession.segments.label("segments"), jobs.label("jobs"))
        .join(Job, Job.batch_id == StreamSession.batch_id, isouter=True)
        .group_by(StreamSession.id)
        .having(jobs != with_join)
    )


def _settled() -> Query:
    """The job that joins a session's segments is there only where one succeeded."""
    segment = and_(Job.batch_id == StreamSession.batch_id, Job.seq < StreamSession.segments)
    succeeded = exists().where(segment, Job.state == JobState.SUCCEEDED)
    return select(StreamSession.batch_id, StreamSession.joined_job_id.label("joined")).where(
        StreamSession.joined_job_id.is_not(None), ~succeeded
    )


def _succession() -> Query:
    """A segment is generated after the one that it goes on from."""
    before, generated = aliased(Job), aliased(Step)
    early = (
        select(Step.job_id, Step.state.label("state"))
        .join(Job, Job.id == Step.job_id)
        .join(StreamSession, StreamSession.batch_id == Job.batch_id)
        .join(before, and_(before.id == Job.spec["extends"].as_string(), before.batch_id == Job.batch_id))
        .join(generated, and_(generated.job_id == before.id, generated.stage == Stage.GENERATE), isouter=True)
        .where(Step.stage == Stage.GENERATE, Step.state.in_(OPEN), Step.roll == Job.roll)
    )
    return early.where(or_(generated.id.is_(None), generated.attempt == 0), before.state.not_in(TERMINAL_JOB_STATES))


RULES = (
    Rule("session batch", "a session's batch is open until the session is settled", _open_batch()),
    Rule("session jobs", "a session's batch has its segments, and one job that joins them", _segments()),
    Rule("session end", "segments are joined where one succeeded", _settled()),
    Rule("session order", "a segment is generated after the one that it goes on from", _succession()),
)
