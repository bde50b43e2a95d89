"""A trial clip that is known to work: the preset's defaults, two steps, no text, LoRA or input of a user."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from pipeline.encoding.ffmpeg import encode
from pipeline.generators.base import GenerationRequest
from pipeline.generators.frames_file import frames_size
from pipeline.presets import Preset, Workload, load_library
from pipeline.spec import EncodeOptions, JobSpec

if TYPE_CHECKING:
    from tasks.worker.context import WorkerContext

_STEPS = 2
_ENCODE_S = 60.0


def make_trial_clip(runtime: WorkerContext, preset_name: str, check: Callable[[], None]) -> None:
    """Make the preset's shortest clip at its default size, and throw it away.

    Raises:
        StageError: as ``GeneratorProcess.generate``; CrashError and FatalError say that the worker cannot make it.
    """
    if runtime.generator is None:
        return
    library = load_library(runtime.settings.effective_presets_dir)
    preset = library.pinned(preset_name, None)
    with tempfile.TemporaryDirectory(prefix="vgen-trial-") as folder:
        spec = _spec(preset, library.digest(preset_name))
        frames = Path(folder) / "frames.rgb"
        with frames.open("wb") as file:
            file.truncate(frames_size(spec))
        inputs = _blank_inputs(preset, spec, frames, check)
        request = GenerationRequest(spec=spec, prompt=spec.prompt, frames_path=frames, **inputs)
        runtime.generator.generate(request, lambda _: check())


def _spec(preset: Preset, digest: str | None) -> JobSpec:
    defaults = preset.defaults
    return JobSpec(
        prompt="a lighthouse at dusk",
        seed=0,
        preset=preset.name,
        preset_digest=digest,
        random_weights=preset.random_weights,
        width=defaults.width,
        height=defaults.height,
        num_frames=preset.frames.at_least(1),
        fps=defaults.fps,
        num_inference_steps=_STEPS,
        guidance_scale=defaults.guidance_scale,
        guidance_scale_2=defaults.guidance_scale_2,
        acceleration=preset.acceleration,
    )


def _blank_inputs(preset: Preset, spec: JobSpec, frames: Path, check: Callable[[], None]) -> dict[str, Any]:
    """Black pictures, and a black video, where the preset cannot do without."""
    picture = frames.with_name("blank.png")
    Image.new("RGB", (spec.width, spec.height)).save(picture)
    inputs: dict[str, Any] = {}
    if preset.workload is Workload.I2V:
        inputs["image"] = picture
    if "last_image" in preset.required_inputs:
        inputs["last_image"] = picture
    if "reference_images" in preset.required_inputs:
        inputs["reference_images"] = (picture,)
    if preset.workload is Workload.V2V or "video" in preset.required_inputs:
        inputs["video"] = frames.with_name("blank.mp4")
        encode(
            frames,
            inputs["video"],
            width=spec.width,
            height=spec.height,
            num_frames=spec.num_frames,
            fps=spec.fps,
            options=EncodeOptions(preset="ultrafast"),
            metadata={},
            check=check,
            timeout_s=_ENCODE_S,
        )
    return inputs
