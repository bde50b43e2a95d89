"""The results of `vgen submit` and its dry run."""

from typing import Any

from pydantic import Field

from service.views.base import View
from service.views.batches import BatchView
from service.views.estimates import CalibrationOfEstimatesView, EstimateView


class ReusedView(View):
    """Jobs of a file that are not made again."""

    batch_id: str = Field(description="The batch that has made them, or has yet to.")
    jobs: int


class SubmittedView(View):
    """What `submit` did."""

    batch: BatchView
    created: bool = Field(description="False when the same submission was stored before.")
    reused: list[ReusedView] = Field([], description="What earlier batches have of it, newest first; not made again.")
    notices: list[str] = Field(description="Notices, such as jobs that no live worker can run.")


class PlannedJobView(View):
    """One job of a dry run."""

    line: int
    variant: int
    spec: dict[str, Any] = Field(description="All fields of the job, with every default applied.")


class NeedView(View):
    """What the jobs of one preset need."""

    preset: str
    jobs: int
    segments: int = Field(description="Segments of all their clips, which are generated one at a time.")
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
    notices: list[str] = Field(
        description="Notices: parts of the inputs that the clips would not show, models that are not here, "
        "text without effect."
    )
    estimate: EstimateView
    calibration: CalibrationOfEstimatesView | None = Field(
        description="How near the estimates of earlier batches were; null where nothing was submitted yet."
    )
    jobs: list[PlannedJobView] = Field(description="Over HTTP the first thousand.")
