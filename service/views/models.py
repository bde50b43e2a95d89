"""Views of presets and their models: availability, speed, calibration."""

from typing import Any

from pydantic import Field

from service.views.base import View


class MeasuredClipView(View):
    """How long clips of one shape took on one type of GPU."""

    gpu_type: str
    width: int
    height: int
    num_frames: int
    num_inference_steps: int
    acceleration: str | None = Field(description="As JSON; null for the plain way.")
    basis: str = Field(description="measured: from the clips that were made; bench: by `vgen bench preset`.")
    n: int = Field(description="How many clips it rests on.")
    p50_seconds: float
    p90_seconds: float

    def __str__(self) -> str:
        size = f"{self.width}x{self.height}, {self.num_frames} frames, {self.num_inference_steps} steps"
        way = "" if self.acceleration is None else f", {self.acceleration}"
        return f"{self.p50_seconds:.3g} s a clip on {self.gpu_type}, n {self.n} ({size}{way})"


class ModelView(View):
    """A preset, and whether its model can be used here."""

    name: str
    source: str = Field(description="catalogue, or the file of one of your own presets.")
    status: str = Field(description="ready, damaged, missing or built in.")
    fits: str = Field(description="Whether this machine's memory is enough: yes, no and why, unknown, or no GPU.")
    measured: list[MeasuredClipView] = Field(
        description="What clips took here, of any machine whose rows these are; the most frequent kind first."
    )
    preset: dict[str, Any] = Field(description="The preset's fields, as in its file.")
    commit: str | None = Field(description="The commit that `vgen models pull` pinned.")


class ModelListView(View):
    models: list[ModelView]
    problems: list[str] = Field(description="Problems of files of your own presets, and of models.")


class ModelCheckView(View):
    """What `vgen models check` found."""

    name: str
    source: str
    status: str = Field(description="ready, damaged, missing, built in, or wrong for a file that is not a preset.")
    folder: str | None
    problems: list[str]


class ModelChecksView(View):
    models: list[ModelCheckView]


class MeasuredWayView(View):
    name: str
    acceleration: dict[str, Any] = Field(description="The options that are not the plain way's.")
    seconds: float | None = Field(description="Median seconds from prompt to decoded frames; null when not measured.")
    first_s: float | None = Field(description="Seconds of the first clip after loading, which may include compiling.")
    speed: float | None = Field(description="How many times the plain way's.")
    peak_memory_bytes: int | None
    psnr: float | None = Field(description="dB, against the plain clip; 100 for equal frames.")
    ssim: float | None
    followed: float | None = Field(
        description="Share of what the prompts ask for that its clips show; null for a preset without `world`."
    )
    followed_loss: float | None = Field(description="The plain way's share less its own.")
    problem: str | None = Field(description="Why it could not be measured.")


class PresetBenchView(View):
    preset: str
    ways: list[MeasuredWayView] = Field(description="The plain way first, and once more at the end.")
    least_ssim: float
    least_psnr: float
    proposed: str | None = Field(description="The fastest way within the bounds.")
    unsteady: str | None = Field(description="Why the times are not to be compared, where they are not.")
    numerics: dict[str, Any] = Field(description="Numerics of the plain clip: device, libraries, …")


class CalibrationView(View):
    preset: str
    file: str = Field(description="The file in which the ratios are kept.")
    ratios: list[float] = Field(description="One a denoising step.")


class ModelAddedView(View):
    """What `models add` wrote."""

    preset: str
    file: str
    clip: str | None = Field(description="The clip that was made with it; null with --no-clip, or after a problem.")
    problems: list[str] = Field(description="What is wrong with the model's files.")
