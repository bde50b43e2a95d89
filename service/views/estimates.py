"""Views of estimates, and of how accurate earlier ones were."""

from pydantic import Field

from service.views.base import View


class EstimatePartView(View):
    """Segments of one shape, and how long one takes."""

    preset: str
    width: int
    height: int
    num_frames: int
    num_inference_steps: int
    acceleration: str | None = Field(description="As JSON; null for the plain way.")
    gpu_type: str | None = Field(description="The fastest GPU type that may make them; null where none is known.")
    has_worker: bool = Field(description="Whether a live worker, or in solo mode this machine, has that type.")
    segments: int
    basis: str = Field(
        description="measured: clips of this shape; scaled: the nearest shape of the preset, by pixels, frames and "
        "steps; bench: scaled from `vgen bench preset`; unknown."
    )
    n: int = Field(description="Measurements.")
    mean_seconds: float | None = Field(description="Of one segment; likewise the next two.")
    p50_seconds: float | None
    p90_seconds: float | None


class EstimateView(View):
    """What a submission would take, as far as this database knows."""

    gpu_seconds: float | None
    gpu_seconds_p90: float | None = Field(description="If every segment took its 90th percentile.")
    cost: float | None = Field(description="By VGEN_PRICES; null without a price.")
    bytes: int | None = Field(description="Of the clips' files in the store; null where no such clip is kept.")
    seconds: float | None = Field(description="Until it would be done with the live workers, after what waits already.")
    finished_at: str | None = Field(description="When that would be; ISO 8601, UTC.")
    no_estimate: str | None = Field(description="Why something is not known.")
    parts: list[EstimatePartView]


class CalibrationOfEstimatesView(View):
    """The estimates of the last batches against the GPU time that they took."""

    batches: int = Field(description="Batches that have ended and had an estimate, at most 20.")
    near: int = Field(description="Those whose estimate was within 20 % of the truth.")
    median_ratio: float | None = Field(description="Truth over estimate.")
