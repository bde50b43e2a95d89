"""``/generate``, ``/status/{task_id}`` and ``/results/{task_id}``: a task is a job, and its id the job's."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from db.models import ArtifactRow, Batch, Job, Step
from pipeline.errors import InputError
from pipeline.presets import load_library
from pipeline.prompts.parse import parse_fields
from pipeline.settings import Settings
from pipeline.states import JobState
from server.auth import Caller, owned, require
from server.database import Line, ServedLine
from server.errors import ApiError, error_body
from server.openai import objects
from server.openai.content import file_answer
from server.openai.fields import canonical, refusal
from server.openai.forms import Body, read_body
from service import submission
from service.choices import SubmissionChoices

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


@router.post("/generate")
async def generate(request: Request, line: ServedLine, caller: Writer) -> Task:
    """Take an image, of which a video is made: the part ``file`` or ``image`` of a form.

    Further fields are those of ``/v1/videos``.
    """
    body = await read_body(request)
    return await run_in_threadpool(_generate, body, line, caller)


def _generate(body: Body, line: Line, caller: Caller) -> Task:
    fields = canonical({"image" if name == "file" else name: value for name, value in body.fields.items()})
    image = fields.get("image")
    if not isinstance(image, str) or image not in body.files:
        message = "file: send the image as a file, in the part 'file' or 'image' of a multipart form"
        raise ApiError(400, message, code="invalid_value", param="file")
    settings = line.settings
    fields.setdefault("preset", _preset(settings))
    fields.setdefault("prompt", _PROMPT)
    try:
        parsed = parse_fields([fields], "request", settings=settings, files=body.files)
    except InputError as error:
        problems = [replace(item, field="file") if item.field == "image" else item for item in error.problems]
        raise refusal(problems) from None
    options = submission.batch_options(SubmissionChoices(owner=caller.owner), settings, parsed.scoring)
    stored = submission.store(
        parsed, options, settings=settings, database=line.database, name="generate", owner=caller.owner, again=True
    )
    with line.database.reading() as session:
        return Task(task_id=session.scalars(select(Job.id).where(Job.batch_id == stored.batch_id)).one())


def _preset(settings: Settings) -> str:
    preset = load_library(settings.effective_presets_dir).presets.get(settings.preset)
    return settings.preset if preset is None or preset.workload == "i2v" else SVD


@router.get("/status/{task_id}", response_model=TaskState)
def status(task_id: str, line: ServedLine, caller: Reader) -> TaskState | JSONResponse:
    """Return where a task stands; 404 with the status ``not_found`` where there is none of that id."""
    with line.database.reading() as session:
        job = _find(session, caller, task_id)
        if job is None:
            return _not_found(task_id)
        current = (Step.job_id == job.id, Step.roll == job.roll)
        video = objects.video(job, session.scalars(select(Step).where(*current)).all(), {})
    return TaskState(
        task_id=job.id,
        status=_STATUS.get(video.status, video.status),
        progress=video.progress,
        result=f"/results/{job.id}" if video.status == "completed" else None,
        error=None if video.error is None else f"{video.error.code}: {video.error.message}",
    )


@router.get("/results/{task_id}", response_class=Response)
def result(task_id: str, line: ServedLine, caller: Reader) -> Response:
    """Return the finished video, an MP4."""
    with line.database.reading() as session:
        job = _find(session, caller, task_id)
        if job is None:
            return _not_found(task_id)
        file = session.get(ArtifactRow, (job.id, "video"))
    if job.finished_at is None:
        raise ApiError(400, f"task {task_id} is not finished yet", code="video_not_ready")
    if job.state is not JobState.SUCCEEDED:
        raise ApiError(400, f"task {task_id} failed: it has no video", code="video_generation_failed")
    if file is None or line.storage.stat(file.key) is None:
        raise ApiError(404, f"the video of task {task_id} is no longer kept", code="video_expired")
    return file_answer(line.storage, file)


def _find(session: Session, caller: Caller, task_id: str) -> Job | None:
    query = select(Job).join(Batch, Batch.id == Job.batch_id).where(Job.id == task_id)
    return session.scalars(owned(query, caller)).one_or_none()


def _not_found(task_id: str) -> JSONResponse:
    body = error_body(404, f"task {task_id!r} does not exist", code="task_not_found", param="task_id")
    return JSONResponse({"task_id": task_id, "status": "not_found", **body}, 404)
