"""Views of batches: in a list, with their status, with their jobs or results."""

from collections.abc import Mapping

from pydantic import Field

from db.models import Batch
from pipeline.states import TERMINAL_JOB_STATES, JobState
from service.exit_codes import of_counts
from service.views.base import View, when, when_if_set
from service.views.jobs import JobView, ResultView, RunningView
from service.views.waiting import ReasonView, WaitView
from service.views.workers import WorkerView


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
    reason: ReasonView | None = Field(
        default=None, description="Why its jobs wait, the foremost reason, in `list` and `status`."
    )
    finished: bool = Field(description="Whether every job has ended.")
    exit_code: int | None = Field(description="The exit code of `vgen watch`; null until the batch is finished.")


class BatchListView(View):
    """Batches, newest first."""

    batches: list[BatchView]
    has_more: bool = Field(default=False, description="Whether there are more after the last of these.")


class JobListView(View):
    """Jobs of a batch, in the order of its file."""

    batch: BatchView
    jobs: list[JobView]
    has_more: bool = Field(default=False, description="Whether there are more after the last of these.")


class ResultsView(View):
    """A batch's jobs with their files."""

    batch: BatchView
    folder: str | None = Field(description="The folder of the files, when the store is a folder.")
    results: list[ResultView]


class StuckView(View):
    """Jobs that wait for capacity that does not exist."""

    jobs: int
    stage: str
    gpu: list[str] = Field(description="GPU types that they accept; empty for any, or for a stage without a GPU.")
    reason: str


class OutlookView(View):
    """What is to be expected of a batch."""

    stopped: str | None = Field(description="Why nothing more of it is dispatched until a person says so.")
    stuck: list[StuckView] = Field(description="Jobs that no live worker can ever run.")
    segments_left: int = Field(description="Segments still to be generated; a clip of one segment counts as one.")
    expected_at: str | None = Field(description="When its last clip will be generated, by the last segments' times.")
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
    cost: float | None = Field(description="Cost of that time; null when a GPU type that was used has no price.")
    paused_queues: list[str] = Field(description="Names that were paused; * is everything.")
    running: list[RunningView]
    waiting: list[WaitView] = Field(
        description="Why its other jobs wait or are tried again, what needs a person first."
    )
    rolls: dict[int, int] = Field(description="Jobs by their roll; more than 1 where the gate turned clips down.")
    scores: dict[str, ScoreSummaryView] = Field(description="Scores of the current rolls, by metric.")
    errors: dict[str, int] = Field(description="Error codes of failed and blocked jobs, with their number.")
    failed: list[JobView] = Field(description="The first ten failed or blocked jobs.")
    workers: list[WorkerView]


def batch_view(batch: Batch, counts: Mapping[JobState, int], *, reason: ReasonView | None = None) -> BatchView:
    finished = sum(counts[state] for state in TERMINAL_JOB_STATES) == batch.total
    return BatchView.of(
        batch,
        source=batch.source_name,
        reason=reason,
        created_at=when(batch.created_at),
        counts={state.value: counts[state] for state in JobState},
        deadline_at=when_if_set(batch.deadline_at),
        max_gpu_hours=None if batch.max_gpu_ms is None else batch.max_gpu_ms / 3_600_000,
        finished=finished,
        exit_code=int(of_counts(counts)) if finished else None,
    )
