"""The answers of the API, made of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel

from db.models import ArtifactRow, Job, Step
from pipeline.seeds import roll_seed
from pipeline.spec import JobSpec
from pipeline.states import JobState, Stage, StepState

ID_PREFIX = "video_"
_STATUS = {JobState.SUCCEEDED: "completed"} | dict.fromkeys(
    (JobState.FAILED, JobState.BLOCKED, JobState.CANCELLED), "failed"
)
_ERROR_OF = {
    JobState.CANCELLED: ("cancelled", "the job was cancelled"),
    JobState.BLOCKED: ("content_policy_violation", "the prompt was refused"),
}
_SHARE = {Stage.ENHANCE: (0, 1), Stage.SCREEN: (1, 2), Stage.GENERATE: (2, 90), Stage.ENCODE: (90, 96)}
_SHARE |= {Stage.SCORE: (96, 98), Stage.PUBLISH: (98, 99)}
"""Where each stage begins and ends on the way from 0 to 100."""


class VideoError(BaseModel):
    """Why a video failed."""

    code: str
    message: str


class Video(BaseModel):
    """A video, as OpenAI's SDKs read it, and what vgen knows besides."""

    id: str
    object: str = "video"
    model: str
    status: str
    progress: int
    created_at: int
    completed_at: int | None = None
    expires_at: int | None = None
    prompt: str | None = None
    seconds: str
    size: str
    remixed_from_video_id: str | None = None
    error: VideoError | None = None
    seed: int
    vgen_job: str


def video_id(job_id: str) -> str:
    return f"{ID_PREFIX}{job_id}"


def job_id_of(video_id: str) -> str:
    return video_id.removeprefix(ID_PREFIX)


def video(job: Job, steps: Sequence[Step], artifacts: Mapping[str, ArtifactRow]) -> Video:
    """The state of a job as a video."""
    spec = JobSpec.model_validate(job.spec)
    return Video(
        id=video_id(job.id),
        model=spec.preset,
        status=status_of(job, steps),
        progress=_progress(job, steps),
        created_at=job.created_at // 1000,
        completed_at=None if job.finished_at is None else job.finished_at // 1000,
        prompt=spec.prompt,
        seconds=_seconds(spec.clip_frames / spec.fps),
        size=f"{spec.width}x{spec.height}",
        error=_error(job),
        seed=roll_seed(spec.seed, job.roll),
        vgen_job=job.id,
    )


def status_of(job: Job, steps: Sequence[Step]) -> str:
    """Return one of the four statuses that clients know; their pollers stop at any other."""
    if job.state in _STATUS:
        return _STATUS[job.state]
    started = any(step.state is StepState.RUNNING and step.stage is Stage.GENERATE for step in steps)
    made = any(step.state is StepState.DONE and step.stage is Stage.GENERATE for step in steps)
    return "in_progress" if started or made else "queued"


def _progress(job: Job, steps: Sequence[Step]) -> int:
    if job.state is JobState.SUCCEEDED:
        return 100
    return max((_reached(step) for step in steps), default=0)


def _reached(step: Step) -> int:
    begin, end = _SHARE.get(step.stage, _SHARE[Stage.PUBLISH])
    if step.state in (StepState.DONE, StepState.SKIPPED):
        return end
    share = step.progress_step / step.progress_total if step.progress_total else 0.0
    return begin + int((end - begin) * min(1.0, share)) if step.state is StepState.RUNNING else 0


def _error(job: Job) -> VideoError | None:
    if job.state not in (JobState.FAILED, *_ERROR_OF):
        return None
    code, message = _ERROR_OF.get(job.state, (job.error_code or "failed", "the job failed"))
    return VideoError(code=code, message=job.error or message)


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}".rstrip("0").rstrip(".")
