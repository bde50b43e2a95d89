"""Makes one clip of a preset with several accelerations, and measures time, memory and difference."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.acceleration import ATTENTION_BACKENDS, PLAIN, Acceleration
from pipeline.errors import StageError
from pipeline.generators.base import GenerationRequest, GenerationResult
from pipeline.generators.process.handle import GeneratorProcess
from pipeline.presets import Library, Workload, abilities, calibration
from pipeline.scoring.clip import Clip
from pipeline.scoring.metric import Context
from pipeline.scoring.residency import Models
from pipeline.scoring.shapes.metric import follows_prompt
from pipeline.scoring.similarity import psnr, ssim
from pipeline.scoring.suite import SHAPES_SUITE, read_suite

PLAIN_NAME, AGAIN_NAME = "plain", "plain-again"
STEADY = 1.15
"""Two times of the same may differ by this factor."""
_NOT_OFFERED = frozenset({"_native_npu", "_native_xla", "aiter_fa2_hub"})
"""Backends for hardware that no worker has."""
_HUB = "_hub"
"""Ends the names of kernels that would be downloaded."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One way, and what came of it; ``problem`` says why it could not be measured, then the numbers are None."""

    name: str
    acceleration: Acceleration
    seconds: float | None = None
    """The clips' median time from prompt to decoded frames; without loading, compiling and handing over."""
    first_s: float | None = None
    """The time of the first clip after loading: it may include compiling."""
    peak_bytes: int | None = None
    psnr: float | None = None
    """dB, mean over frames, against the plain clip; 100 for equal ones."""
    ssim: float | None = None
    followed: float | None = None
    """The share of what the prompts of the preset's world ask for that its clips show."""
    numerics: dict[str, Any] | None = None
    problem: str | None = None


def candidates(library: Library, preset_name: str) -> dict[str, Acceleration]:
    """Return what is worth a try with the preset, by name, the plain way first; what can never work is left out."""
    preset = library.get(preset_name)
    options: dict[str, dict[str, Any]] = {PLAIN_NAME: {}}
    for threshold in (0.05, 0.1):
        options[f"first_block-{threshold:g}"] = {"step_cache": {"kind": "first_block", "threshold": threshold}}
    options["taylorseer"] = {"step_cache": {"kind": "taylorseer"}}
    options["taylorseer-lite"] = {"step_cache": {"kind": "taylorseer", "lite": True}}
    ratios = calibration.read(library.folder, preset)
    if not isinstance(ratios, str):
        options["mag_cache"] = {"step_cache": {"kind": "mag_cache", "ratios": ratios}}
    options["pyramid_attention"] = {"step_cache": {"kind": "pyramid_attention"}}
    for backend in ATTENTION_BACKENDS:
        if backend not in _NOT_OFFERED and not backend.endswith(_HUB) and backend != "native":
            options[f"attention-{backend.lstrip('_')}"] = {"attention": backend}
    options["compile"] = {"compile": True}
    options["compile+first_block-0.05"] = {"compile": True, "step_cache": {"kind": "first_block"}}
    options["vae_tiling"] = {"vae_tiling": True}
    options["layerwise_casting"] = {"layerwise_casting": "float8_e4m3fn"}
    for quantisation in ("torchao-int8", "torchao-float8", "bitsandbytes-nf4"):
        options[quantisation] = {"quantisation": quantisation}
    options["offload-group-stream"] = {"offload": "group-stream"}
    accelerations = {name: Acceleration.model_validate(values) for name, values in options.items()}
    return {
        name: acceleration
        for name, acceleration in accelerations.items()
        if not abilities.missing(preset, acceleration, ())
    }


def prompts_of_world(library: Library, preset_name: str, count: int) -> tuple[str, ...]:
    """As many prompts of the preset's world, spread over its suite; none where there is none or an image decides."""
    preset = library.get(preset_name)
    if preset.world is None or preset.workload is not Workload.T2V or count == 0:
        return ()
    prompts = [entry.prompt for entry in read_suite(SHAPES_SUITE).entries]
    return tuple(prompts[index * len(prompts) // count % len(prompts)] for index in range(count))


def measure(
    process: GeneratorProcess,
    request: GenerationRequest,
    accelerations: Iterable[tuple[str, Acceleration]],
    *,
    repeats: int,
    prompts: Sequence[str] = (),
    on_progress: Callable[[str], None],
) -> list[Measured]:
    """Every way in turn, after the plain one, which is made in any case, and once more at the end.

    Each way also makes a clip of each of ``prompts``, with seeds of their own, to count what is followed. A refused way
    is reported, not raised.

    Raises:
        StageError: the plain clip cannot be made.
    """
    on_progress(PLAIN_NAME)
    results, first_s = _clips(process, request, PLAIN, repeats)
    plain = _frames(request)
    row = _measured(PLAIN_NAME, PLAIN, results, first_s, plain, plain)
    results_so_far = [replace(row, followed=_followed(process, request, PLAIN, prompts))]
    for name, acceleration in accelerations:
        if acceleration == PLAIN:
            continue
        on_progress(name)
        try:
            results, first_s = _clips(process, request, acceleration, repeats)
            row = _measured(name, acceleration, results, first_s, _frames(request), plain)
            results_so_far.append(replace(row, followed=_followed(process, request, acceleration, prompts)))
        except StageError as error:
            results_so_far.append(Measured(name, acceleration, problem=f"{error.code}: {error}"[:500]))
    on_progress(AGAIN_NAME)
    results, first_s = _clips(process, request, PLAIN, repeats)
    row = _measured(AGAIN_NAME, PLAIN, results, first_s, _frames(request), plain)
    return [*results_so_far, replace(row, followed=results_so_far[0].followed)]


def unsteady(measured: list[Measured]) -> str | None:
    """The sentence on a machine whose plain clip took another time at the end than at the beginning."""
    first, last = measured[0].seconds or 0.0, measured[-1].seconds or 0.0
    if not first or not last or max(first, last) <= min(first, last) * STEADY:
        return None
    return (
        f"the plain clip took {first:.2f} s at the beginning and {last:.2f} s at the end: "
        "this machine was busy, and the times are not to be compared"
    )


def proposed(measured: Iterable[Measured], *, least_ssim: float, least_psnr: float) -> Measured | None:
    """The fastest whose clip is as near to the plain one as the bounds say; None when nothing was measured."""
    good = [
        way
        for way in measured
        if way.seconds is not None and (way.ssim is None or way.ssim >= least_ssim) and (way.psnr or 0) >= least_psnr
    ]
    return min(good, key=lambda way: way.seconds or 0.0, default=None)


def _clips(
    process: GeneratorProcess, request: GenerationRequest, acceleration: Acceleration, repeats: int
) -> tuple[list[GenerationResult], float]:
    """One clip that is not counted, then ``repeats`` of them."""
    accelerated = replace(request, acceleration=acceleration)
    results = [process.generate(accelerated, lambda progress: None) for _ in range(1 + repeats)]
    return results[1:], _seconds(results[0])


def _followed(
    process: GeneratorProcess, request: GenerationRequest, acceleration: Acceleration, prompts: Sequence[str]
) -> float | None:
    """The mean of ``shapes.follows_prompt`` over a clip of each prompt; None without prompts."""
    shares = []
    for seed, prompt in enumerate(prompts):
        spec = request.spec.model_copy(update={"prompt": prompt, "seed": seed})
        asked = replace(request, spec=spec, prompt=prompt, acceleration=acceleration)
        process.generate(asked, lambda progress: None)
        share = follows_prompt(_frames(asked), Context(models=Models(), prompt=prompt)).score
        if share is not None:
            shares.append(share)
    return statistics.fmean(shares) if shares else None


def _measured(
    name: str, acceleration: Acceleration, results: list[GenerationResult], first_s: float, frames: Clip, plain: Clip
) -> Measured:
    context = Context(models=Models(), reference=plain)
    return Measured(
        name,
        acceleration,
        seconds=statistics.median(map(_seconds, results)),
        first_s=first_s,
        peak_bytes=max(result.peak_memory_bytes or 0 for result in results) or None,
        psnr=psnr(frames, context).score,
        ssim=ssim(frames, context).score,
        numerics=results[-1].numerics,
    )


def _seconds(result: GenerationResult) -> float:
    return sum(seconds for phase, seconds in result.timings_s.items() if phase != "hand_off")


def _frames(request: GenerationRequest) -> Clip:
    spec = request.spec
    pixels = np.frombuffer(request.frames_path.read_bytes(), np.uint8)
    return Clip(Path(request.frames_path), pixels.reshape(-1, spec.height, spec.width, 3), None, has_audio=False)
