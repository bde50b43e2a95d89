"""Views of jobs: in a list, and in detail with steps, attempts, rolls, scores and files."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from db.models import Job, Score, ScoreRun, Segment, StageRun, Step
from pipeline.digests import joined_digest
from pipeline.generators.base import phase_in_words
from pipeline.ids import task_id
from pipeline.outputs import GenerateOutput, ScoreOutput
from pipeline.presets import all_presets
from pipeline.seeds import roll_seed
from pipeline.spec import JobSpec
from pipeline.states import Stage, StepState
from service.views.base import View, when, when_if_set
from service.views.clips import FileView
from service.views.events import EventView
from service.views.waiting import ReasonView


class JobView(View):
    """One job."""

    id: str
    batch_id: str
    line: int = Field(description="Line of the prompt file.")
    variant: int = Field(description="Which of the line's jobs, from 0.")
    state: str
    prompt: str
    seed: int = Field(description="The seed of the current roll.")
    roll: int = Field(description="Which try at a clip that the gate accepts, from 1.")
    preset: str
    custom_id: str | None
    labels: dict[str, str]
    priority: int
    random_weights: bool = Field(description="True when the model's weights are random: no picture of anything.")
    error_code: str | None
    error: str | None
    reason: ReasonView | None = Field(
        default=None, description="Why it waits or is tried again, in `list`, `show` and `status`; null while it runs."
    )
    created_at: str = Field(description="ISO 8601, UTC.")
    finished_at: str | None


class RunningView(View):
    """A step that a worker holds now."""

    job_id: str
    stage: str
    segment: int = Field(description="Which of the clip's segments, from 0.")
    segments: int = Field(description="How many the clip has.")
    worker: str | None
    phase: str | None = Field(description="The phase of the step, such as denoise.")
    doing: str | None = Field(description="The phase in words, such as loading the model.")
    started_at: str | None = Field(description="When this attempt began: ISO 8601, UTC.")
    step: int = Field(description="Progress within the phase, of `steps`.")
    steps: int

    @property
    def part(self) -> str:
        """The part of the clip, in words; empty for a clip of one segment."""
        return part_of(self.segment, self.segments)


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
    output: dict[str, Any] | None = Field(description="The output that the stage recorded.")


class AttemptView(View):
    """One attempt at a step that ended."""

    stage: str
    segment: int | None = Field(
        description="Number of the segment, from 0; null for a score step of an evaluation run: it is of several clips."
    )
    attempt: int
    task: str | None = Field(description="Id of its task in Flower; null for a step of an evaluation run.")
    task_url: str | None = Field(description="The task's page in Flower, where the setting serve.flower_url says.")
    outcome: str
    worker: str | None
    queue: str | None
    started_at: str
    ended_at: str
    error_code: str | None
    error: str | None


class SegmentView(View):
    """One stretch of a job's clip, of the current roll."""

    segment: int = Field(description="Number of the segment, from 0.")
    prompt: str = Field(description="After enhancement once it was generated, as submitted before.")
    generate: str | None = Field(description="State of its generate step; null while its turn has not come.")
    encode: str | None = Field(description="The same of its encode step.")
    num_frames: int | None = Field(description="Frames that it adds to the clip; null before it was generated.")
    frames_sha256: str | None = Field(description="The digest of these frames, raw.")


class ScoreView(View):
    """One metric's score of a clip."""

    roll: int
    metric: str
    score: float | None = Field(description="null: not scored.")
    reason: str | None = Field(description="Why it was not scored.")
    passed: bool | None = Field(description="The verdict of a check; null for a metric that is not a check.")
    details: dict[str, Any]
    scorer: dict[str, Any] = Field(description="The fingerprint of what decides the number besides the clip.")
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
    url: str | None = Field(description="The job's page, where the setting serve.public_url says.")
    task_url: str | None = Field(description="The page of its newest task in Flower, where serve.flower_url says.")
    spec: dict[str, Any] = Field(description="The specification as submitted, with the first roll's seed.")
    rolls: list[RollView]
    scores: list[ScoreView] = Field(description="The scores of every roll; of each metric the newest scorer's.")
    prompt_used: str | None = Field(description="The prompt after enhancement; null before frames were made.")
    segments: list[SegmentView]
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


def job_view(job: Job, *, reason: ReasonView | None = None) -> JobView:
    return JobView.of(
        job,
        reason=reason,
        state=job.state.value,
        prompt=job.spec["prompt"],
        seed=roll_seed(job.spec["seed"], job.roll),
        preset=job.spec["preset"],
        labels=job.spec.get("labels", {}),
        random_weights=has_random_weights(job.spec),
        created_at=when(job.created_at),
        finished_at=when_if_set(job.finished_at),
    )


def has_random_weights(spec: Mapping[str, Any]) -> bool:
    """Return whether the preset of a stored specification has random weights; a user's own preset is marked in it."""
    preset = all_presets().get(spec["preset"])
    return bool(spec.get("random_weights")) or (preset is not None and preset.random_weights)


def running_view(step: Step, segments: int) -> RunningView:
    return RunningView.of(
        step,
        stage=step.stage.value,
        segments=segments,
        phase=step.progress_phase,
        doing=phase_in_words(step.progress_phase),
        started_at=when_if_set(step.started_at),
        step=step.progress_step,
        steps=step.progress_total,
    )


def part_of(segment: int, segments: int) -> str:
    """Return which of how many segments it is, for people, who count from 1; empty for a clip of one."""
    return f"segment {segment + 1} of {segments}" if segments > 1 else ""


def text_sentences(view: JobDetailView) -> list[str]:
    """Return sentences on texts that the model did not read, as its newest generate steps recorded it."""
    sentences = []
    for step in view.steps:
        generated = GenerateOutput.from_row(step.output) if step.stage == Stage.GENERATE else None
        if generated is None:
            continue
        part = part_of(step.segment, len(view.segments))
        where = f"{part}: " if part else ""
        for field, count in generated.facts.tokens_read.items():
            sentences.append(f"{where}The text encoder read {count.read} of {count.of} tokens of the {field}.")
        if not generated.facts.negative_prompt_used:
            sentences.append(f"{where}The negative prompt had no effect at this guidance_scale.")
    return sentences


def step_view(step: Step) -> StepView:
    return StepView.of(step, stage=step.stage.value, state=step.state.value)


def task_url(flower: str | None, step: Step, attempt: int) -> str | None:
    """Return the page in Flower of the task of a step's attempt; None where there is no Flower."""
    task = task_id(step.job_id, step.roll, step.segment, step.stage.value, attempt)
    return None if flower is None else f"{flower}/task/{task}"


def newest_task_url(flower: str | None, steps: Sequence[Step]) -> str | None:
    """Return the page of the newest task among those of the steps that were sent, in the order of the line."""
    sent = [step for step in steps if step.attempt or step.state is StepState.DISPATCHED]
    if not sent:
        return None
    step = max(sent, key=lambda step: (step.state is StepState.RUNNING, step.roll, step.id))
    return task_url(flower, step, step.attempt + (step.state is StepState.DISPATCHED))


def attempt_view(run: StageRun | ScoreRun, step: Step | None, flower: str | None) -> AttemptView:
    """Return the view of an attempt at a job's step, or of an evaluation run's."""
    segment, task, page = None, None, None
    if step is not None:
        segment, page = step.segment, task_url(flower, step, run.attempt)
        task = task_id(step.job_id, step.roll, step.segment, step.stage.value, run.attempt)
    return AttemptView.of(
        run,
        task=task,
        task_url=page,
        stage=(run.stage if isinstance(run, StageRun) else Stage.SCORE).value,
        segment=segment,
        outcome=run.outcome.value,
        started_at=when(run.started_at),
        ended_at=when(run.ended_at),
    )


def score_view(row: Score) -> ScoreView:
    return ScoreView.of(row, scored_at=when(row.scored_at))


def segment_views(job: Job, spec: JobSpec, steps: Sequence[Step], generated: Sequence[Segment]) -> list[SegmentView]:
    """Return each segment's progress in the current roll; ``generated`` are the rows of those that were generated."""
    states = {(step.segment, step.stage): step.state.value for step in steps if step.roll == job.roll}
    rows = {row.segment: row for row in generated}
    return [
        SegmentView(
            segment=segment,
            prompt=spec.prompt_of(segment) if row is None else row.prompt,
            generate=states.get((segment, Stage.GENERATE)),
            encode=states.get((segment, Stage.ENCODE)),
            num_frames=None if row is None else row.num_frames,
            frames_sha256=None if row is None else row.frames_sha256,
        )
        for segment in range(spec.segments)
        for row in [rows.get(segment)]
    ]


def roll_views(job: Job, steps: Sequence[Step]) -> list[RollView]:
    """Return the outcome of each roll, from its steps."""
    scores = {step.roll: step for step in steps if step.stage is Stage.SCORE}
    frames: dict[int, dict[int, str]] = {}
    for step in steps:
        if step.stage is Stage.GENERATE and (generated := GenerateOutput.from_row(step.output)):
            frames.setdefault(step.roll, {})[step.segment] = generated.frames_sha256
    segments = job.spec.get("segments", 1)
    views = []
    for roll in range(1, job.roll + 1):
        scored, digests = scores.get(roll), frames.get(roll, {})
        verdict = ScoreOutput.from_row(scored.output) if scored else None
        views.append(
            RollView(
                roll=roll,
                seed=roll_seed(job.spec["seed"], roll),
                accepted=verdict and verdict.accepted,
                reason=verdict and verdict.reason,
                frames_sha256=joined_digest([digests[segment] for segment in range(segments)])
                if len(digests) == segments
                else None,
            )
        )
    return views
