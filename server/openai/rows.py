"""Jobs out of the rows, as videos: whose they are, where they stand, when they will be done."""

from collections.abc import Sequence

from sqlalchemy import BindParameter, bindparam, select
from sqlalchemy.orm import Session

from db.clips import jobs
from db.models import Batch, Job, Score, StageRun, Step
from db.reading.queue_position import positions, queue_position
from db.session import now_ms
from pipeline.states import TERMINAL_JOB_STATES, Stage, StepState
from server.auth import Caller, owned
from server.database import Line
from server.errors import ApiError
from server.openai import objects
from server.openai.ids import is_video_id, job_id_of
from server.openai.objects import JobRows, Video

_EARLY_SHARE = 0.1
"""Before so much of a clip is made, how long the others took says more than how long it has taken."""


# Made once: to build a statement takes as long as to run it.
_FIND = (
    select(Job, Batch)
    .join(Batch, Batch.id == Job.batch_id)
    .where(Job.id == bindparam("job_id"), Job.deleted_at.is_(None))
)
_OF_BATCH = (
    select(Job, Batch)
    .join(Batch, Batch.id == Job.batch_id)
    .where(Job.batch_id == bindparam("batch_id"))
    .order_by(Job.seq)
)
_IDS: BindParameter[Sequence[str]] = bindparam("ids", expanding=True)
_STEPS = select(Step).join(Job, (Job.id == Step.job_id) & (Job.roll == Step.roll)).where(Step.job_id.in_(_IDS))
_RUNS = select(StageRun).where(StageRun.job_id.in_(_IDS)).order_by(StageRun.id)


def find(session: Session, caller: Caller, video_id: str) -> JobRows:
    """Raises ApiError: 404, also where it is another owner's, or was deleted."""
    found = {"job_id": job_id_of(video_id)}
    row = session.execute(owned(_FIND, caller), found).one_or_none() if is_video_id(video_id) else None
    if row is None:
        raise ApiError(404, f"video {video_id[:80]!r} does not exist", code="video_not_found", param="video_id")
    return JobRows(row[0], row[1])


def of_batch(session: Session, batch_id: str) -> list[JobRows]:
    """The jobs of a batch, in their order."""
    return [JobRows(job, batch) for job, batch in session.execute(_OF_BATCH, {"batch_id": batch_id})]


def views(session: Session, line: Line, found: Sequence[JobRows]) -> list[Video]:
    """The videos of jobs, with a handful of queries however many there are."""
    by_id = {rows.job.id: rows for rows in found}
    for step in session.scalars(_STEPS, {"ids": list(by_id)}):
        by_id[step.job_id].steps.append(step)
    ended = [rows.job.id for rows in found if rows.job.state in TERMINAL_JOB_STATES]
    if ended:
        for run in session.scalars(_RUNS, {"ids": ended}):
            by_id[run.job_id].runs.append(run)
        for job_id, files in jobs.artifacts(session, ended).items():
            by_id[job_id].files = files
    scored = [job_id for job_id in ended if by_id[job_id].batch.options.get("score")]
    if scored:
        of_roll = (Job.id == Score.job_id) & (Job.roll == Score.roll)
        for score in session.scalars(select(Score).join(Job, of_roll).where(Score.job_id.in_(scored))):
            by_id[score.job_id].scores.append(score)
    settings = line.settings
    return [objects.video(rows, settings.prices, settings.retention.days) for rows in found]


def view(session: Session, line: Line, rows: JobRows) -> Video:
    """One video, with its place in the queue and when it should be done."""
    return placed_views(session, line, [rows])[0]


def placed_views(session: Session, line: Line, found: Sequence[JobRows]) -> list[Video]:
    """The same of several: few are asked for exactly, of many the queue's beginning is as it was a moment ago."""
    videos = views(session, line, found)
    places = _places(session, line, [rows.job for rows, video in zip(found, videos, strict=True) if _waits(video)])
    for rows, video in zip(found, videos, strict=True):
        if rows.job.state in TERMINAL_JOB_STATES:
            continue
        each, between = line.speed.of(session)
        if _waits(video):
            place = video.queue_position = places[rows.job.id]
            video.eta_seconds = None if each is None or between is None else round(place * between + each, 1)
        else:
            video.queue_position = 0
            video.eta_seconds = _remaining(session, rows, each)
    return videos


def _waits(video: Video) -> bool:
    return video.status == "queued"


def _places(session: Session, line: Line, waiting: Sequence[Job]) -> dict[str, int]:
    if len(waiting) == 1:
        exact = queue_position(session, waiting[0])
        if exact is not None:
            return {waiting[0].id: exact}
    return positions(session, waiting, line.queue.of(session)) if waiting else {}


def _remaining(session: Session, rows: JobRows, each: float | None) -> float | None:
    """Seconds until a clip at work is done: from its own pace, or at its beginning from the others'."""
    running = next((step for step in rows.steps if step.state is StepState.RUNNING), None)
    if running is None or running.stage is not Stage.GENERATE or running.started_at is None:
        return None if each is None else 1.0
    elapsed = max(0, session.scalars(select(now_ms())).one() - running.started_at) / 1000
    share = objects.share_done(running)
    if share >= _EARLY_SHARE:
        return round(elapsed * (1 - share) / share, 1)
    return None if each is None else round(max(0.0, each - elapsed), 1)
