"""What `--json` prints and tables show: plain values made of rows. docs/json-output.md is generated from here."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from pipeline.keys import roll_seed
from pipeline.states import TERMINAL_JOB_STATES, JobState, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from db.history import Entry
    from db.models import ArtifactRow, Batch, Event, Job, Score, StageRun, Step


class View(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BatchView(View):
    """One batch."""

    id: str
    name: str
    owner: str
    source: str = Field(description="File name of the prompt file.")
    created_at: str = Field(description="ISO 8601, UTC.")
    total: int = Field(description="Jobs; always the sum of counts.")
    counts: dict[str, int] = Field(description="Jobs by state; every state is there.")
    paused: bool
    deadline_at: str | None = Field(description="When it should be done, if that was said.")
    max_gpu_hours: float | None = Field(description="Its budget of GPU time, if it has one.")
    max_cost: float | None = Field(description="Its budget of money, if it has one.")
    over_budget: bool = Field(description="Whether a budget is used up: nothing more is dispatched to GPUs.")
    finished: bool = Field(description="Whether every job has ended.")
    exit_code: int | None = Field(description="What `vgen watch` ends with; null until the batch is finished.")


class SubmittedView(View):
    """What `submit` did."""

    batch: BatchView
    created: bool = Field(description="False when the same submission was stored before.")
    notices: list[str] = Field(description="What a person should know, such as jobs that no live worker can run.")


class StateView(View):
    """What `state export` wrote."""

    job_id: str
    file: str
    kind: str
    version: int


class GeneratedView(View):
    """What `generate` made."""

    video: str = Field(description="Path of the MP4.")
    sidecar: str = Field(description="Path of its sidecar.")
    prompt: str
    prompt_used: str = Field(description="The enhanced prompt, where enhancing was on.")
    seed: int
    preset: str
    width: int
    height: int
    num_frames: int
    fps: float
    frames_sha256: str = Field(description="Of the raw frames: the clip's identity.")
    model_revision: str
    timings_s: dict[str, float] = Field(description="Seconds of each phase of the generation.")
    generation_time_s: float = Field(description="Seconds from the request to the frames, without loading the model.")
    peak_memory_bytes: int | None


class PlannedJobView(View):
    """One job of a dry run."""

    line: int
    variant: int
    spec: dict[str, Any] = Field(description="All fields of the job, with every default applied.")


class NeedView(View):
    """What the jobs of one preset need."""

    preset: str
    jobs: int
    seconds: float = Field(description="Seconds of video.")
    gpu: list[str] = Field(description="GPU types that may make them; empty means any that the preset fits.")
    memory_gib: float | None = Field(description="GPU memory at the preset's defaults; null is unknown.")
    random_weights: bool = Field(description="True for a model whose weights are made, not trained.")


class DryRunView(View):
    """What a submission would store."""

    source: str
    fingerprint: str
    total: int
    needs: list[NeedView]
    inputs: int = Field(description="Input files that would be stored.")
    jobs: list[PlannedJobView]


class RunningView(View):
    """A step that a worker holds now."""

    job_id: str
    stage: str
    worker: str | None
    phase: str | None = Field(description="What the step is doing, such as denoise.")
    step: int = Field(description="Progress within the phase, of `steps`.")
    steps: int


class JobView(View):
    """One job."""

    id: str
    batch_id: str
    line: int = Field(description="Line of the prompt file.")
    variant: int = Field(description="Which of the line's jobs, from 0.")
    state: str
    prompt: str
    seed: int = Field(description="Of the current roll.")
    roll: int = Field(description="Which try at a clip that the gate accepts, from 1.")
    preset: str
    custom_id: str | None
    labels: dict[str, str]
    priority: int
    random_weights: bool = Field(description="True when the model's weights are random: no picture of anything.")
    error_code: str | None
    error: str | None
    created_at: str = Field(description="ISO 8601, UTC.")
    finished_at: str | None


class WorkerView(View):
    """A worker, or a dispatcher without queues, that was seen within the last 30 seconds."""

    name: str
    host: str
    pid: int
    queues: list[str]
    slots: int
    gpu_type: str | None
    memory_bytes: int | None
    lane: str | None = Field(description="Preset that it is to hold; none while nothing waits for it.")
    loaded: str | None = Field(description="Preset whose model it holds.")
    ready: bool = Field(description="Whether it takes its lane's clips now, or, without a GPU, anything.")
    draining: bool
    drain_reason: str | None = Field(description="Why it takes no more work although nobody told it to stop.")
    paused_queues: list[str] = Field(description="Those of its queues that are paused.")
    seen_at: str


class StuckView(View):
    """Jobs that wait for capacity that does not exist."""

    jobs: int
    stage: str
    gpu: list[str] = Field(description="GPU types that they accept; empty for any, or for a stage without a GPU.")
    reason: str


class OutlookView(View):
    """What is to be expected of a batch."""

    stopped: str | None = Field(description="Why nothing more of it is dispatched until a person says so.")
    stuck: list[StuckView] = Field(description="What no live worker can ever run.")
    expected_at: str | None = Field(description="When its last clip will be generated, by the last clips' times.")
    no_estimate: str | None = Field(description="Why that is not known.")
    deadline_at_risk: bool | None = Field(description="Null without a deadline, or while nobody can say.")


class ScoreSummaryView(View):
    """One metric over a batch's clips."""

    scored: int
    not_scored: int
    mean: float | None
    failed: int = Field(description="Clips that failed it, where it is a check.")


class StatusView(View):
    """Where a batch stands."""

    batch: BatchView
    outlook: OutlookView
    gpu_seconds: float = Field(description="GPU time of every ended attempt at generating.")
    cost: float | None = Field(description="Of that time; null when a GPU type that was used has no price.")
    paused_queues: list[str] = Field(description="Names that were paused; * is everything.")
    running: list[RunningView]
    rolls: dict[int, int] = Field(description="Jobs by their roll; more than 1 where the gate turned clips down.")
    scores: dict[str, ScoreSummaryView] = Field(description="Of the current rolls, by metric.")
    errors: dict[str, int] = Field(description="Error codes of failed and blocked jobs, with their number.")
    failed: list[JobView] = Field(description="The first ten failed or blocked jobs.")
    workers: list[WorkerView]


class BatchListView(View):
    """Batches, newest first."""

    batches: list[BatchView]


class JobListView(View):
    """Jobs of a batch, in the order of its file."""

    batch: BatchView
    jobs: list[JobView]


class StepView(View):
    """One stage of one segment of one roll of a job."""

    stage: str
    roll: int
    segment: int
    state: str
    attempt: int
    queue: str | None
    worker: str | None
    error_code: str | None
    error: str | None
    output: dict[str, Any] | None = Field(description="What the stage recorded.")


class AttemptView(View):
    """One attempt at a step that ended."""

    stage: str
    attempt: int
    outcome: str
    worker: str | None
    queue: str | None
    started_at: str
    ended_at: str
    error_code: str | None
    error: str | None


class EventView(View):
    """Something that happened."""

    at: str
    kind: str
    data: dict[str, Any]


class EntryView(View):
    """One thing that happened to a batch or job; with `--jsonl` a line each."""

    at: str = Field(description="ISO 8601, UTC, by the database's clock; an attempt's end.")
    kind: str = Field(description="What happened; `attempt` is an attempt at a step that ended.")
    batch_id: str | None
    job_id: str | None = Field(description="null for what concerns the whole batch.")
    data: dict[str, Any] = Field(
        description="Of an attempt: stage, attempt, outcome, worker, queue, started_at, ended_at (milliseconds since "
        "1970), error_code, error."
    )


class EventsView(View):
    """What happened to a batch or job, in the order of time."""

    batch_id: str
    job_id: str | None = Field(description="null for the history of a whole batch.")
    entries: list[EntryView]


class RemovedView(View):
    """Something that a sweep removed."""

    kind: str = Field(
        description="orphan, checkpoint, media or history (by retention settings), unfinished (an upload), handoff or "
        "model_build."
    )
    name: str
    bytes: int


class SweptView(View):
    """What a sweep removed, or with `--dry-run` would remove."""

    dry_run: bool
    counts: dict[str, int] = Field(description="By kind; of history, rows.")
    bytes: int
    removed: list[RemovedView] = Field(description="The first thousand.")


class FileView(View):
    """A published object."""

    kind: str = Field(description="video, poster, strip or sidecar.")
    key: str
    sha256: str
    size: int = Field(description="Bytes.")
    media_type: str
    url: str | None = Field(description="With --urls, or file:// where the store is a folder.")


class ScoreView(View):
    """One metric's score of a clip."""

    roll: int
    metric: str
    score: float | None = Field(description="null: not scored.")
    reason: str | None = Field(description="Why it was not scored.")
    passed: bool | None = Field(description="The verdict of a check; null for what is no check.")
    details: dict[str, Any]
    scorer: dict[str, Any] = Field(description="What decides the number besides the clip.")
    scored_at: str


class RollView(View):
    """One try at a clip that the gate accepts."""

    roll: int
    seed: int
    accepted: bool | None = Field(description="null while it is being made, and where nothing is scored.")
    reason: str | None = Field(description="Why the gate turned it down.")
    frames_sha256: str | None


class JobDetailView(View):
    """All that is known of a job."""

    job: JobView
    spec: dict[str, Any] = Field(description="As it was submitted, with the first roll's seed.")
    rolls: list[RollView]
    scores: list[ScoreView] = Field(description="Of every roll; of each metric the newest scorer's.")
    prompt_used: str | None = Field(description="The prompt after enhancement; null before frames were made.")
    steps: list[StepView]
    attempts: list[AttemptView]
    files: list[FileView]
    events: list[EventView]


class ResultView(View):
    """A job and its files."""

    job: JobView
    prompt_used: str | None
    scores: dict[str, float | None] = Field(description="Of the current roll, by metric; null where not scored.")
    files: list[FileView]
    downloaded: str | None = Field(description="Path of the video, with --download.")


class ResultsView(View):
    """A batch's jobs with their files."""

    batch: BatchView
    folder: str | None = Field(description="Where the files lie, when the store is a folder.")
    results: list[ResultView]


class ChangedView(View):
    """What cancel, retry, approve or reject did."""

    changed: list[str] = Field(description="Ids of the jobs that changed.")
    unchanged: list[str] = Field(description="Ids of the jobs to which it did not apply.")


class PausedView(View):
    """What pause or resume did."""

    paused: bool = Field(description="True for pause, false for resume.")
    changed: list[str] = Field(description="Batches and queues that were not so before; * is everything.")
    unchanged: list[str]
    queues: list[str] = Field(description="All that is paused by name now.")


class ModelView(View):
    """A preset, and whether its model can be used here."""

    name: str
    source: str = Field(description="catalogue, or the file of one of your own presets.")
    status: str = Field(description="ready, missing or built in.")
    preset: dict[str, Any] = Field(description="The preset's fields, as in its file.")
    commit: str | None = Field(description="The commit that `vgen models pull` pinned.")


class ModelListView(View):
    models: list[ModelView]
    problems: list[str] = Field(description="What is wrong with files of your own presets.")


class ModelCheckView(View):
    """What `vgen models check` found."""

    name: str
    source: str
    status: str = Field(description="ready, missing, built in, or wrong for a file that is no preset.")
    folder: str | None
    problems: list[str]


class ModelChecksView(View):
    models: list[ModelCheckView]


class MeasuredWayView(View):
    name: str
    acceleration: dict[str, Any] = Field(description="The options that are not the plain way's.")
    seconds: float | None = Field(description="From prompt to decoded frames, the median; null when not measured.")
    first_s: float | None = Field(description="Of the first clip after loading, which may include compiling.")
    speed: float | None = Field(description="How many times the plain way's.")
    peak_memory_bytes: int | None
    psnr: float | None = Field(description="dB, against the plain clip; 100 for equal frames.")
    ssim: float | None
    problem: str | None = Field(description="Why it could not be measured.")


class PresetBenchView(View):
    preset: str
    ways: list[MeasuredWayView] = Field(description="The plain way first, and once more at the end.")
    least_ssim: float
    least_psnr: float
    proposed: str | None = Field(description="The fastest way within the bounds.")
    unsteady: str | None = Field(description="Why the times are not to be compared, where they are not.")
    numerics: dict[str, Any] = Field(description="Of the plain clip: device, libraries, …")


class CalibrationView(View):
    preset: str
    file: str = Field(description="Where the ratios are kept.")
    ratios: list[float] = Field(description="One a denoising step.")


class DatabaseCheckView(View):
    database: str = Field(description="URL without the password.")
    problems: list[str]


class CheckView(View):
    """One line of `vgen doctor`."""

    name: str
    result: str = Field(description="ok, warn or fail.")
    message: str
    mend: str | None = Field(description="How to mend it.")


class DoctorView(View):
    checks: list[CheckView]
    exit_code: int


class SettingView(View):
    """One setting in force."""

    name: str = Field(description="The environment variable.")
    value: Any = Field(description="Secrets are masked.")
    source: str = Field(description="argument, environment, .env, vgen.toml or default.")
    description: str


class ConfigView(View):
    mode: str = Field(description="solo or cluster.")
    settings: list[SettingView]


def when(milliseconds: int) -> str:
    """Database milliseconds as ISO 8601 in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def batch_view(batch: Batch, counts: Mapping[JobState, int]) -> BatchView:
    from cli.exit_codes import of_counts

    finished = sum(counts[state] for state in TERMINAL_JOB_STATES) == batch.total
    return BatchView(
        id=batch.id,
        name=batch.name,
        owner=batch.owner,
        source=batch.source_name,
        created_at=when(batch.created_at),
        total=batch.total,
        counts={state.value: counts[state] for state in JobState},
        paused=batch.paused,
        deadline_at=None if batch.deadline_at is None else when(batch.deadline_at),
        max_gpu_hours=None if batch.max_gpu_ms is None else batch.max_gpu_ms / 3_600_000,
        max_cost=batch.max_cost,
        over_budget=batch.over_budget,
        finished=finished,
        exit_code=int(of_counts(counts)) if finished else None,
    )


def job_view(job: Job) -> JobView:
    return JobView(
        id=job.id,
        batch_id=job.batch_id,
        line=job.line,
        variant=job.variant,
        state=job.state.value,
        prompt=job.spec["prompt"],
        seed=roll_seed(job.spec["seed"], job.roll),
        roll=job.roll,
        preset=job.spec["preset"],
        custom_id=job.custom_id,
        labels=job.spec.get("labels", {}),
        priority=job.priority,
        random_weights=has_random_weights(job.spec),
        error_code=job.error_code,
        error=job.error,
        created_at=when(job.created_at),
        finished_at=None if job.finished_at is None else when(job.finished_at),
    )


def score_view(row: Score) -> ScoreView:
    names = ("roll", "metric", "score", "reason", "passed", "details", "scorer")
    return ScoreView(**{name: getattr(row, name) for name in names}, scored_at=when(row.scored_at))


def roll_views(job: Job, steps: Sequence[Step]) -> list[RollView]:
    """What became of each roll, by its steps."""
    made = {(step.roll, step.stage): step for step in steps}
    views = []
    for roll in range(1, job.roll + 1):
        generated, scored = made.get((roll, Stage.GENERATE)), made.get((roll, Stage.SCORE))
        verdict = (scored.output or {}) if scored is not None else {}
        views.append(
            RollView(
                roll=roll,
                seed=roll_seed(job.spec["seed"], roll),
                accepted=verdict.get("accepted"),
                reason=verdict.get("reason"),
                frames_sha256=(generated.output or {}).get("frames_sha256") if generated is not None else None,
            )
        )
    return views


def has_random_weights(spec: Mapping[str, Any]) -> bool:
    """Of a job's stored specification: a user's own preset is marked in it, the catalogue's are known."""
    from pipeline.presets import all_presets

    known = all_presets().get(spec["preset"])
    return bool(spec.get("random_weights")) or (known is not None and known.random_weights)


def running_view(step: Step) -> RunningView:
    return RunningView(
        job_id=step.job_id,
        stage=step.stage.value,
        worker=step.worker,
        phase=step.progress_phase,
        step=step.progress_step,
        steps=step.progress_total,
    )


def step_view(step: Step) -> StepView:
    names = ("roll", "segment", "attempt", "queue", "worker", "error_code", "error", "output")
    return StepView(stage=step.stage.value, state=step.state.value, **{name: getattr(step, name) for name in names})


def attempt_view(run: StageRun) -> AttemptView:
    return AttemptView(
        stage=run.stage.value,
        attempt=run.attempt,
        outcome=run.outcome.value,
        worker=run.worker,
        queue=run.queue,
        started_at=when(run.started_at),
        ended_at=when(run.ended_at),
        error_code=run.error_code,
        error=run.error,
    )


def entry_view(entry: Entry) -> EntryView:
    return EntryView(at=when(entry.at), kind=entry.kind, batch_id=entry.batch_id, job_id=entry.job_id, data=entry.data)


def event_view(event: Event) -> EventView:
    return EventView(at=when(event.at), kind=event.kind, data=event.data)


_KINDS = ("video", "poster", "strip", "sidecar")


def file_views(artifacts: Mapping[str, ArtifactRow], urls: Mapping[str, str]) -> list[FileView]:
    """A job's files, the video first; ``urls`` by key."""
    ordered: Sequence[str] = sorted(artifacts, key=lambda kind: (*_KINDS, kind).index(kind))
    return [
        FileView(
            kind=kind,
            key=artifacts[kind].key,
            sha256=artifacts[kind].sha256,
            size=artifacts[kind].size,
            media_type=artifacts[kind].media_type,
            url=urls.get(artifacts[kind].key),
        )
        for kind in ordered
    ]
