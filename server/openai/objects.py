"""The answers of the API, made of rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, Field

from db.clips.spending import HOUR_MS, price_of
from db.models import ArtifactRow, Batch, Job, Score, StageRun, Step
from pipeline.generators.base import Phase
from pipeline.seeds import roll_seed
from pipeline.spec import JobSpec
from pipeline.states import AttemptOutcome, JobState, Stage, StepState
from server.openai.ids import video_id

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
_SHARE_OF_PHASE: Mapping[str, tuple[float, float]] = {
    Phase.DENOISE: (0.0, 0.9),
    Phase.DECODE: (0.9, 1.0),
    Phase.HAND_OFF: (1.0, 1.0),
}
"""The same of a generator's phases, on the way from 0 to 1; those before them are its beginning."""
_DAY_S = 86_400
_MEBIBYTE = 1024 * 1024


class VideoError(BaseModel):
    """Why a video failed."""

    code: str
    message: str


class Video(BaseModel):
    """A video, as OpenAI's SDKs read it, and what vgen knows besides."""

    id: str
    object: str = "video"
    model: str = Field(description="The preset.")
    status: str = Field(description="queued, in_progress, completed or failed.")
    progress: int = Field(description="0 to 100.")
    created_at: int = Field(description="Seconds since 1970.")
    completed_at: int | None = None
    expires_at: int | None = Field(None, description="When its files are removed, where the server's settings say so.")
    prompt: str | None = Field(None, description="As it was submitted.")
    seconds: str = Field(description="The clip's length.")
    size: str
    remixed_from_video_id: str | None = None
    error: VideoError | None = Field(None, description="Set exactly where the status is failed.")
    enhanced_prompt: str | None = Field(None, description="The prompt that the model was given, once it was.")
    seed: int
    n: int = Field(description="How many videos were asked for together.")
    group_id: str = Field(description="What the videos that were asked for together have in common: their batch.")
    vgen_job: str = Field(description="The job's id.")
    queue_position: int | None = Field(
        None,
        description="Videos to be made before it; of many, as it was up to three seconds ago. Null once it has ended.",
    )
    eta_seconds: float | None = Field(None, description="An estimate; null where nothing is known.")
    scores: dict[str, float | None] | None = Field(None, description="By metric, where it was scored.")
    cost: float | None = Field(
        None, description="Of its GPU time, once it has ended; null where the server has no prices."
    )
    inference_time_s: float | None = Field(None, description="GPU time of its generation, once it has ended.")
    stage_durations: dict[str, float] | None = Field(None, description="Seconds of each stage, once it has ended.")
    peak_memory_mb: float | None = None
    media_type: str | None = None
    file_name: str | None = None
    notices: list[str] | None = Field(
        None, description="On a new video: what of the request has no effect, and why no live worker can make it."
    )
    group: list[str] | None = Field(None, description="On a new video: the ids of all that were asked for.")


class VideoList(BaseModel):
    """A page of videos."""

    object: str = "list"
    data: list[Video]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedVideo(BaseModel):
    """What is left of a deleted video."""

    id: str
    object: str = "video.deleted"
    deleted: bool = True


@dataclass
class JobRows:
    """The rows of one job."""

    job: Job
    batch: Batch
    steps: list[Step] = field(default_factory=list)
    """Of the current roll."""
    runs: list[StageRun] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    files: Mapping[str, ArtifactRow] = field(default_factory=dict)


def video(rows: JobRows, prices: Mapping[str, float], kept_days: float | None) -> Video:
    """The state of a job as a video."""
    job, spec = rows.job, JobSpec.model_validate(rows.job.spec)
    completed_at = None if job.finished_at is None else job.finished_at // 1000
    durations = _durations(rows.runs)
    generated = next((step.output for step in rows.steps if step.stage is Stage.GENERATE and step.output), None) or {}
    peak = generated.get("peak_memory_bytes")
    file = rows.files.get("video")
    return Video(
        id=video_id(job.id),
        model=spec.preset,
        status=status_of(job, rows.steps),
        progress=_progress(job, rows.steps),
        created_at=job.created_at // 1000,
        completed_at=completed_at,
        expires_at=None if completed_at is None or kept_days is None else completed_at + int(kept_days * _DAY_S),
        prompt=spec.prompt,
        seconds=_seconds(spec.clip_frames / spec.fps),
        size=f"{spec.width}x{spec.height}",
        remixed_from_video_id=None if job.remixed_from is None else video_id(job.remixed_from),
        error=_error(job),
        enhanced_prompt=generated.get("prompt") if spec.enhance else None,
        seed=roll_seed(spec.seed, job.roll),
        n=rows.batch.total,
        group_id=job.batch_id,
        vgen_job=job.id,
        scores={row.metric: row.score for row in rows.scores} or None,
        cost=_cost(rows, prices),
        inference_time_s=durations.get(Stage.GENERATE.value),
        stage_durations=durations or None,
        peak_memory_mb=None if peak is None else round(peak / _MEBIBYTE, 1),
        media_type=None if file is None else file.media_type,
        file_name=None if file is None else f"{job.id}.mp4",
    )


def status_of(job: Job, steps: Sequence[Step]) -> str:
    """Return one of the four statuses that clients know; their pollers stop at any other."""
    if job.state in _STATUS:
        return _STATUS[job.state]
    begun = (StepState.RUNNING, StepState.DONE)
    return "in_progress" if any(step.stage is Stage.GENERATE and step.state in begun for step in steps) else "queued"


def _progress(job: Job, steps: Sequence[Step]) -> int:
    if job.state is JobState.SUCCEEDED:
        return 100
    segments = max(1, int(job.spec.get("segments", 1)))
    reached = [_reached(step) for step in steps]
    generated = [step for step in steps if step.stage is Stage.GENERATE]
    if segments > 1 and generated:  # each segment has its part of the way
        begin, end = _SHARE[Stage.GENERATE]
        share = sum(max(0, _reached(step) - begin) / (end - begin) for step in generated) / segments
        if share < 1:
            return begin + int((end - begin) * max(0.0, share))
    return max(reached, default=0)


def _reached(step: Step) -> int:
    begin, end = _SHARE.get(step.stage, _SHARE[Stage.PUBLISH])
    if step.state in (StepState.DONE, StepState.SKIPPED):
        return end
    return begin + int((end - begin) * share_done(step)) if step.state is StepState.RUNNING else 0


def share_done(step: Step) -> float:
    """How much of a running step is done, 0 to 1; what a generator counts anew in each phase never goes back."""
    share = min(1.0, step.progress_step / step.progress_total) if step.progress_total else 0.0
    if step.stage is not Stage.GENERATE:
        return share
    begin, end = _SHARE_OF_PHASE.get(step.progress_phase or "", (0.0, 0.0))
    return begin + (end - begin) * share


def _error(job: Job) -> VideoError | None:
    if job.state not in (JobState.FAILED, *_ERROR_OF):
        return None
    code, message = _ERROR_OF.get(job.state, (job.error_code or "failed", "the job failed"))
    return VideoError(code=code, message=job.error or message)


def _durations(runs: Sequence[StageRun]) -> dict[str, float]:
    """Seconds of the attempts that did their work, by stage."""
    milliseconds: dict[str, int] = {}
    for run in runs:
        if run.outcome is AttemptOutcome.DONE:
            milliseconds[run.stage.value] = milliseconds.get(run.stage.value, 0) + run.ended_at - run.started_at
    return {stage: duration / 1000 for stage, duration in milliseconds.items()}


def _cost(rows: JobRows, prices: Mapping[str, float]) -> float | None:
    """What all attempts at generating cost, whatever their outcome."""
    generating = [run for run in rows.runs if run.stage is Stage.GENERATE]
    costs = [(price_of(run.queue, rows.batch.prices or prices), run.ended_at - run.started_at) for run in generating]
    priced = [price * milliseconds / HOUR_MS for price, milliseconds in costs if price is not None]
    return round(sum(priced), 6) if priced and len(priced) == len(costs) else None


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}".rstrip("0").rstrip(".")
