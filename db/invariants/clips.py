"""Invariants of what a job made: its segments, scores and rolls, and what was published."""

from typing import Any

from sqlalchemy import ColumnElement, and_, case, exists, func, or_, select
from sqlalchemy.orm import aliased

from db.events import MEDIA_REMOVED
from db.invariants.rule import OPEN, SUCCESS, Query, Rule, has_step
from db.models import ArtifactRow, Batch, Checkpoint, ContinuationState, Event, Job, Score, Segment, Step, StreamSession
from pipeline.states import JobState, Stage, StepState


def _media_removed(batch_id: Any) -> ColumnElement[bool]:
    return exists().where(Event.batch_id == batch_id, Event.kind == MEDIA_REMOVED)


def _published() -> Query:
    videos = func.count(ArtifactRow.job_id).filter(ArtifactRow.kind == "video")
    done = has_step((StepState.DONE,), Stage.PUBLISH)
    gone = or_(Job.state != JobState.SUCCEEDED, Job.deleted_at.is_not(None), _media_removed(Job.batch_id))
    wanted = case((gone, 0), else_=1)
    return (
        select(Job.id, Job.state.label("state"), videos.label("videos"))
        .join(ArtifactRow, and_(ArtifactRow.job_id == Job.id, ArtifactRow.roll == Job.roll), isouter=True)
        .group_by(Job.id)
        .having(or_(videos != wanted, and_(Job.state == JobState.SUCCEEDED, ~done)))
    )


def _artifacts() -> Query:
    named = ArtifactRow.key.startswith("media/" + Job.id + "/" + ArtifactRow.sha256 + ".")
    return (
        select(Job.id, ArtifactRow.kind.label("kind"), ArtifactRow.roll.label("roll"), ArtifactRow.key.label("key"))
        .join(ArtifactRow, ArtifactRow.job_id == Job.id)
        .where(or_(Job.state != JobState.SUCCEEDED, ArtifactRow.roll != Job.roll, ~named))
    )


def _accepted() -> Query:
    """A batch whose clips are scored publishes a roll only after a score step that accepted it."""
    scored = Batch.options["score"].as_string().is_not(None)
    score = aliased(Step)
    accepted = exists().where(
        score.job_id == Step.job_id,
        score.roll == Step.roll,
        score.stage == Stage.SCORE,
        score.state == StepState.DONE,
        score.output["accepted"].as_boolean(),
    )
    wrong = or_(
        and_(Step.stage == Stage.SCORE, ~scored),
        and_(Step.stage == Stage.PUBLISH, Step.state.in_((*OPEN, *SUCCESS)), scored, ~accepted),
    )
    return (
        select(Step.job_id, Step.roll.label("roll"), Step.stage.label("stage"), Step.state.label("state"))
        .join(Batch, Batch.id == Step.batch_id)
        .where(Step.stage.in_((Stage.SCORE, Stage.PUBLISH)), wrong)
    )


def _rolls() -> Query:
    """Every roll before the current one was rejected."""
    rejected = (
        select(func.count(Step.id))
        .where(
            Step.job_id == Job.id,
            Step.roll < Job.roll,
            Step.stage == Stage.SCORE,
            Step.state.in_((StepState.DONE, StepState.FAILED)),
            ~Step.output["accepted"].as_boolean(),
        )
        .correlate(Job)
        .scalar_subquery()
    )
    return select(Job.id, Job.roll.label("roll"), rejected.label("rejected")).where(
        Job.roll > 1, rejected != Job.roll - 1
    )


def _scores() -> Query:
    """A clip that was scored has its scores in rows."""
    return select(Step.job_id, Step.roll.label("roll")).where(
        Step.stage == Stage.SCORE,
        Step.output.is_not(None),
        Step.state.in_((StepState.DONE, StepState.FAILED)),
        ~exists().where(Score.job_id == Step.job_id, Score.roll == Step.roll),
    )


def _frames() -> Query:
    recorded = Step.output["frames_sha256"].as_string()
    return (
        select(Step.job_id, Step.segment.label("segment"), Segment.frames_sha256.label("frames_sha256"))
        .join(
            Segment,
            and_(Segment.job_id == Step.job_id, Segment.roll == Step.roll, Segment.segment == Step.segment),
            isouter=True,
        )
        .where(
            Step.stage == Stage.GENERATE,
            Step.state == StepState.DONE,
            or_(Segment.frames_sha256.is_(None), Segment.frames_sha256 != recorded),
        )
    )


def _segments() -> Query:
    """A clip is published with all its segments, and the last is encoded after the others."""
    wanted = func.coalesce(Job.spec["segments"].as_integer(), 1)
    of_roll = (Step.job_id == Job.id) & (Step.roll == Job.roll) & (Step.state == StepState.DONE)
    generated = select(func.count()).where(of_roll, Step.stage == Stage.GENERATE).scalar_subquery()
    encoded = select(func.count()).where(of_roll, Step.stage == Stage.ENCODE).scalar_subquery()
    published = has_step((StepState.DONE,), Stage.PUBLISH)
    return select(Job.id, wanted.label("segments"), generated.label("generated"), encoded.label("encoded")).where(
        published, Job.state == JobState.SUCCEEDED, ~_joins(), or_(generated != wanted, encoded != wanted)
    )


def _joins() -> ColumnElement[bool]:
    """The job joins the clips of a session: it has no frames of its own."""
    return exists().where(StreamSession.joined_job_id == Job.id)


def _continued() -> Query:
    """The state that a segment goes on from is kept until its clip has ended."""
    state = exists().where(
        ContinuationState.job_id == Step.job_id,
        ContinuationState.roll == Step.roll,
        ContinuationState.segment == Step.segment - 1,
    )
    return (
        select(Step.job_id, Step.segment.label("segment"), Step.state.label("state"))
        .join(Job, and_(Job.id == Step.job_id, Job.roll == Step.roll))
        .where(Step.stage == Stage.GENERATE, Step.segment > 0, Step.state.in_(OPEN), ~state)
    )


def _deleted() -> Query:
    """A deleted job has ended, and nothing of it is left to go on from or to be shown."""
    left = or_(*(exists().where(table.job_id == Job.id) for table in (ArtifactRow, Checkpoint, ContinuationState)))
    open_ = or_(Job.finished_at.is_(None), has_step(OPEN))
    return select(Job.id, Job.state.label("state")).where(Job.deleted_at.is_not(None), or_(left, open_))


RULES = (
    Rule("published", "a succeeded job has one video unless it was deleted, any other none", _published()),
    Rule("deleted", "a deleted job has ended and has no files", _deleted()),
    Rule("artifacts", "files belong to the current roll of a succeeded job, under their own digest", _artifacts()),
    Rule("accepted", "where clips are scored, the published roll is the accepted one", _accepted()),
    Rule("rolls", "every roll before the current one was scored and rejected", _rolls()),
    Rule("scores", "a scored clip has scores", _scores()),
    Rule("frames", "a generated segment has the frames' digest that its step recorded", _frames()),
    Rule("segments", "a published clip has every segment, generated and encoded", _segments()),
    Rule("continuation", "what a segment goes on from is kept until it is generated", _continued()),
)
