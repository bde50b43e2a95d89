"""``/v1/videos``: a request becomes a batch of one job, and a job's rows become a video."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import select
from sqlalchemy.orm import Session

from db.clips import jobs
from db.models import ArtifactRow, Batch, Job, Step
from pipeline.errors import InputError
from pipeline.prompts.parse import parse_fields
from pipeline.states import JobState
from server.auth import Caller, owned, require
from server.database import Line, ServedLine
from server.errors import ApiError
from server.openai import objects
from server.openai.content import file_answer
from server.openai.fields import canonical, refusal
from server.openai.forms import Body, read_body
from server.openai.objects import Video
from service import submission
from service.choices import SubmissionChoices

router = APIRouter(tags=["videos"])
Reader = Annotated[Caller, Depends(require("videos.read"))]
Writer = Annotated[Caller, Depends(require("videos.write"))]
_FILES = {"video": "video", "thumbnail": "poster", "spritesheet": "strip"}


@router.post("/videos")
async def create(request: Request, line: ServedLine, caller: Writer) -> Video:
    """Store a video to be made."""
    body = await read_body(request)
    return await run_in_threadpool(_create, body, line, caller)


def _create(body: Body, line: Line, caller: Caller) -> Video:
    settings, choices = line.settings, SubmissionChoices(owner=caller.owner)
    try:
        parsed = parse_fields([canonical(body.fields)], "request", settings=settings, files=body.files)
    except InputError as error:
        raise refusal(error.problems) from None
    stored = submission.store(
        parsed,
        submission.batch_options(choices, settings, parsed.scoring),
        settings=settings,
        database=line.database,
        name="videos",
        owner=caller.owner,
        again=True,
    )
    with line.database.reading() as session:
        job = session.scalars(select(Job).where(Job.batch_id == stored.batch_id).order_by(Job.seq)).first()
        assert job is not None
        return _view(session, [job])[0]


@router.get("/videos")
def list_videos(
    line: ServedLine,
    caller: Reader,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> dict[str, Any]:
    """List videos, newest first unless ``order`` says otherwise."""
    place = Job.id.desc() if order == "desc" else Job.id.asc()
    query = owned(select(Job).join(Batch, Batch.id == Job.batch_id), caller).order_by(place).limit(limit + 1)
    if after is not None:
        last = objects.job_id_of(after)
        query = query.where(Job.id < last if order == "desc" else Job.id > last)
    with line.database.reading() as session:
        rows = list(session.scalars(query))
        videos = _view(session, rows[:limit])
    return {
        "object": "list",
        "data": videos,
        "first_id": videos[0].id if videos else None,
        "last_id": videos[-1].id if videos else None,
        "has_more": len(rows) > limit,
    }


@router.get("/videos/{video_id}")
def retrieve(video_id: str, line: ServedLine, caller: Reader) -> Video:
    """Return where a video stands."""
    with line.database.reading() as session:
        return _view(session, [_job(session, caller, video_id)])[0]


@router.get("/videos/{video_id}/content")
def content(
    video_id: str, line: ServedLine, caller: Reader, variant: Literal["video", "thumbnail", "spritesheet"] = "video"
) -> Response:
    """Return the bytes of a finished video, its poster or its strip of frames."""
    with line.database.reading() as session:
        job = _job(session, caller, video_id)
        file = session.get(ArtifactRow, (job.id, _FILES[variant]))
    if job.state is not JobState.SUCCEEDED:
        failed = job.finished_at is not None
        code = "video_generation_failed" if failed else "video_not_ready"
        message = f"video {video_id} failed: it has no content" if failed else f"video {video_id} is not finished yet"
        raise ApiError(400, message, code=code, headers={"x-should-retry": "false"})
    if file is None or line.storage.stat(file.key) is None:
        raise ApiError(404, f"the {variant} of video {video_id} is no longer kept", code="video_expired")
    return file_answer(line.storage, file)


def _job(session: Session, caller: Caller, video_id: str) -> Job:
    """Raises ApiError: 404, also where it is another owner's."""
    query = select(Job).join(Batch, Batch.id == Job.batch_id).where(Job.id == objects.job_id_of(video_id))
    job = session.scalars(owned(query, caller)).one_or_none()
    if job is None:
        raise ApiError(404, f"video {video_id!r} does not exist", code="video_not_found", param="video_id")
    return job


def _view(session: Session, rows: list[Job]) -> list[Video]:
    """The videos of jobs, with two queries however many there are."""
    ids = [job.id for job in rows]
    steps: dict[str, list[Step]] = {}
    current = select(Step).join(Job, (Job.id == Step.job_id) & (Job.roll == Step.roll)).where(Step.job_id.in_(ids))
    for step in session.scalars(current):
        steps.setdefault(step.job_id, []).append(step)
    files = jobs.artifacts(session, ids)
    return [objects.video(job, steps.get(job.id, []), files.get(job.id, {})) for job in rows]
