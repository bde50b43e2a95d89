"""``/generate``, ``/status/{task_id}`` and ``/results/{task_id}``: a task is a job, and its id the job's."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from db.models import ArtifactRow, Batch, Job
from pipeline.errors import NotFoundError
from pipeline.presets import load_library
from pipeline.settings import Settings
from pipeline.states import JobState
from server.auth import Caller, owned, require
from server.database import ServedLine
from server.errors import ApiError, error_body
from server.openai import rows
from server.openai.content import file_answer
from server.openai.objects import JobRows
from server.openai.request_schema import request_body
from server.openai.submitting import Order, create, order_of

router = APIRouter(tags=["tasks"])
Reader = Annotated[Caller, Depends(require("videos.read"))]
Writer = Annotated[Caller, Depends(require("videos.write"))]

SVD = "svd-xt"
"""The model of the service, used where the preset of the settings makes no video of an image."""
_PROMPT = "image to video"
"""Recorded where none is given: the model of the service reads none."""
_STATUS = {"in_progress": "started", "completed": "finished"}


class Task(BaseModel):
    """A task that was taken."""

    task_id: str
    status: str = Field("queued", description="queued, started, finished or failed.")


class TaskState(Task):
    """Where a task stands."""

    progress: int = Field(description="0 to 100.")
    result: str | None = Field(description="The path of the finished video.")
    error: str | None = Field(description="Why it failed.")


@router.post("/generate", openapi_extra=request_body("image"))
async def generate(request: Request, line: ServedLine, caller: Writer) -> Task:
    """Take an image, of which a video is made: the part ``file`` or ``image`` of a form.

    Further fields are those of ``/v1/videos``.
    """
    order = await order_of(request, line, caller, route="generate")
    return Task(task_id=await run_in_threadpool(_generate, order))


def _generate(order: Order) -> str:
    """The id of the stored job."""
    fields = {"image" if name == "file" else name: value for name, value in order.body.fields.items()}
    image = fields.get("image")
    if not isinstance(image, str) or image not in order.body.files:
        message = "file: send the image as a file, in the part 'file' or 'image' of a multipart form"
        raise ApiError(400, message, code="invalid_value", param="file")
    if "preset" not in fields:
        fields.setdefault("model", _preset(order.line.settings))
    fields.setdefault("prompt", _PROMPT)
    try:
        return create(order, fields).vgen_job
    except ApiError as error:
        if error.param != "image":
            raise
        message = f"file{error.message.removeprefix('image')}"
        raise ApiError(error.status, message, code=error.code, param="file") from None


def _preset(settings: Settings) -> str:
    preset = load_library(settings.effective_presets_dir).presets.get(settings.preset)
    return settings.preset if preset is None or preset.workload == "i2v" else SVD


@router.get("/status/{task_id}", response_model=TaskState)
def status(task_id: str, line: ServedLine, caller: Reader) -> TaskState | JSONResponse:
    """Return where a task stands; 404 with the status ``not_found`` where there is none of that id."""
    with line.database.reading() as session:
        found = _find(session, caller, task_id)
        if found is None:
            return _not_found(task_id)
        video = rows.views(session, line, [found])[0]
    return TaskState(
        task_id=video.vgen_job,
        status=_STATUS.get(video.status, video.status),
        progress=video.progress,
        result=f"/results/{video.vgen_job}" if video.status == "completed" else None,
        error=None if video.error is None else f"{video.error.code}: {video.error.message}",
    )


@router.get("/results/{task_id}", response_class=Response)
def result(request: Request, task_id: str, line: ServedLine, caller: Reader) -> Response:
    """Return the finished video, an MP4."""
    with line.database.reading() as session:
        found = _find(session, caller, task_id)
        if found is None:
            return _not_found(task_id)
        job = found.job
        file = session.get(ArtifactRow, (job.id, "video"))
    if job.finished_at is None:
        raise ApiError(400, f"task {task_id} is not finished yet", code="video_not_ready")
    if job.state is not JobState.SUCCEEDED:
        raise ApiError(400, f"task {task_id} failed: it has no video", code="video_generation_failed")
    try:
        if file is None:
            raise NotFoundError(task_id)
        return file_answer(request, line.storage, file, redirect=line.settings.serve.redirect)
    except NotFoundError:
        raise ApiError(404, f"the video of task {task_id} is no longer kept", code="video_expired") from None


def _find(session: Session, caller: Caller, task_id: str) -> JobRows | None:
    query = select(Job, Batch).join(Batch, Batch.id == Job.batch_id).where(Job.id == task_id, Job.deleted_at.is_(None))
    row = session.execute(owned(query, caller)).one_or_none()
    return None if row is None else JobRows(row[0], row[1])


def _not_found(task_id: str) -> JSONResponse:
    body = error_body(404, f"task {task_id!r} does not exist", code="task_not_found", param="task_id")
    return JSONResponse({"task_id": task_id, "status": "not_found", **body}, 404)
