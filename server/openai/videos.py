"""``/v1/videos``: a request becomes a batch of one job, and a job's rows become a video."""

import asyncio
import time
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import select

from db.clips import deletion
from db.models import ArtifactRow, Batch, Job
from pipeline.errors import NotFoundError
from pipeline.states import JobState
from server.auth import Caller, owned, require
from server.database import Line, ServedLine
from server.errors import ApiError
from server.openai import rows
from server.openai.content import file_answer
from server.openai.ids import is_video_id, job_id_of, video_id
from server.openai.objects import DeletedVideo, JobRows, Video, VideoList
from server.openai.request_schema import request_body
from server.openai.submitting import create, order_of

router = APIRouter(tags=["videos"])
Reader = Annotated[Caller, Depends(require("videos.read"))]
Writer = Annotated[Caller, Depends(require("videos.write"))]
Wait = Annotated[float, Query(ge=0, le=60, description="Answer when the video has ended, or after so many seconds.")]
Variant = Annotated[
    Literal["video", "thumbnail", "spritesheet"], Query(description="The clip, its poster, or its strip of frames.")
]
_FILES = {"video": "video", "thumbnail": "poster", "spritesheet": "strip"}
_POLL_S = 0.5
_POLL_MS = (1_000, 15_000)
_POLLS = 4
"""How often a client should ask until a video is done, if the estimate holds."""
DELETE_WAIT_S = 60.0


@router.post("/videos", response_model=Video, openapi_extra=request_body("prompt"))
@router.post("/videos/generations", response_model=Video, openapi_extra=request_body("prompt"))
async def create_video(request: Request, response: Response, line: ServedLine, caller: Writer) -> Video:
    """Store a video to be made, or ``n`` of them: the answer is the first, and has the ids of all."""
    order = await order_of(request, line, caller, route="videos")
    video = await run_in_threadpool(create, order, order.body.fields)
    response.headers.update(poll_header(video))
    return video


@router.get("/videos", response_model=VideoList)
def list_videos(
    line: ServedLine,
    caller: Reader,
    after: Annotated[str | None, Query(description="The last id of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="How many at most.")] = 20,
    order: Annotated[Literal["asc", "desc"], Query(description="By the time of their creation.")] = "desc",
) -> VideoList:
    """List videos, newest first unless ``order`` says otherwise."""
    place = Job.id.desc() if order == "desc" else Job.id.asc()
    query = select(Job, Batch).join(Batch, Batch.id == Job.batch_id).where(Job.deleted_at.is_(None))
    if after is not None:
        if not is_video_id(after):
            raise ApiError(400, f"{after[:80]!r} is not a valid video id", code="invalid_value", param="after")
        last = job_id_of(after)
        query = query.where(Job.id < last if order == "desc" else Job.id > last)
    with line.database.reading() as session:
        found = session.execute(owned(query, caller).order_by(place).limit(limit + 1)).all()
        videos = rows.placed_views(session, line, [JobRows(job, batch) for job, batch in found[:limit]])
    return VideoList(
        data=videos,
        first_id=videos[0].id if videos else None,
        last_id=videos[-1].id if videos else None,
        has_more=len(found) > limit,
    )


@router.get("/videos/{video_id}", response_model=Video)
async def retrieve(
    request: Request, response: Response, video_id: str, line: ServedLine, caller: Reader, wait: Wait = 0
) -> Video:
    """Return where a video stands."""
    video = await waited(request, line, caller, video_id, wait)
    response.headers.update(poll_header(video))
    return video


@router.delete("/videos/{video_id}", response_model=DeletedVideo)
async def delete(video_id: str, line: ServedLine, caller: Writer) -> DeletedVideo:
    """Delete a video: a GPU that works on it stops first, and its files are removed."""
    until = time.monotonic() + DELETE_WAIT_S
    while not await run_in_threadpool(_deleted, line, caller, video_id):
        if time.monotonic() > until or line.stopping.is_set():
            message = f"video {video_id} is being stopped: delete it again in a moment"
            raise ApiError(503, message, code="video_stopping")
        await asyncio.sleep(_POLL_S)
    return DeletedVideo(id=video_id_of(video_id))


@router.head("/videos/{video_id}/content", response_class=Response)
@router.get("/videos/{video_id}/content", response_class=Response)
def content(request: Request, video_id: str, line: ServedLine, caller: Reader, variant: Variant = "video") -> Response:
    """Return the bytes of a finished video, its poster or its strip of frames."""
    with line.database.reading() as session:
        job = rows.find(session, caller, video_id).job
        file = session.get(ArtifactRow, (job.id, _FILES[variant]))
    require_finished(job, video_id)
    try:
        if file is None:
            raise NotFoundError(video_id)
        return file_answer(request, line.storage, file, redirect=line.settings.serve.redirect)
    except NotFoundError:
        text = f"the {variant} of video {video_id} is no longer kept"
        raise ApiError(404, text, code="video_expired", param="video_id") from None


def require_finished(job: Job, video_id: str) -> None:
    """Raises ApiError: it has not succeeded. Not 404 or 409, which clients try again or take for good."""
    if job.state is not JobState.SUCCEEDED:
        failed = job.finished_at is not None
        code = "video_generation_failed" if failed else "video_not_ready"
        message = f"video {video_id} failed: it has no content" if failed else f"video {video_id} is not finished yet"
        raise ApiError(400, message, code=code, param="video_id", headers={"x-should-retry": "false"})


async def waited(request: Request, line: Line, caller: Caller, video_id: str, wait_s: float) -> Video:
    """Return a video when it has ended, when so much time has passed, or when nobody waits any more."""

    def look() -> Video:
        with line.database.reading() as session:
            return rows.view(session, line, rows.find(session, caller, video_id))

    until = time.monotonic() + wait_s
    while True:
        video = await run_in_threadpool(look)
        left = until - time.monotonic()
        if video.status in ("completed", "failed") or left <= 0 or line.stopping.is_set():
            return video
        if await request.is_disconnected():
            return video
        await asyncio.sleep(min(_POLL_S, left))


def poll_header(video: Video) -> dict[str, str]:
    """When to ask again: a whole number, as OpenAI's SDKs read it, and only while there is something to wait for."""
    if video.status in ("completed", "failed"):
        return {}
    low, high = _POLL_MS
    wait_ms = 2 * low if video.eta_seconds is None else int(video.eta_seconds * 1000 / _POLLS)
    return {"openai-poll-after-ms": str(max(low, min(high, wait_ms)))}


def _deleted(line: Line, caller: Caller, video_id: str) -> bool:
    with line.database.transaction() as session:
        job_id = rows.find(session, caller, video_id).job.id
        if not deletion.request(session, job_id, by=caller.owner):
            return False
    _remove_files(line, job_id)
    return True


def _remove_files(line: Line, job_id: str) -> None:
    """Remove all that the job put into the store; what cannot be removed now is the sweep's."""
    for prefix in (f"media/{job_id}/", f"checkpoints/{job_id}/"):
        line.storage.delete_all([item.key for item in line.storage.list(prefix)])


def video_id_of(text: str) -> str:
    return video_id(job_id_of(text))
