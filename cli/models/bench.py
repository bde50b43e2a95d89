"""`vgen bench preset`: compares the accelerations that this machine supports."""

import tempfile
from collections.abc import Mapping
from difflib import get_close_matches
from json import dumps as json_text
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import output
from cli.context import settings_of
from cli.options import Json
from pipeline import extras, preset_benchmark
from pipeline.acceleration import Acceleration
from pipeline.errors import InputError, Problem
from pipeline.generators.probe_request import PROMPT, probe_request
from pipeline.generators.process.handle import GeneratorProcess
from pipeline.models.gpus import find_gpus
from pipeline.preset_benchmark import Measured, unsteady
from pipeline.presets import load_library, measured
from pipeline.settings import Settings
from pipeline.spec import JobSpec
from service.views.models import MeasuredWayView, PresetBenchView

app = typer.Typer(help="Benchmarks on this machine.", no_args_is_help=True)
_MIB = 1024 * 1024


@app.callback()
def _group() -> None:
    """Keep `preset` a subcommand, although it is the only one."""


@app.command("preset")
def preset(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A preset whose model is on this machine.")],
    only: Annotated[
        str | None,
        typer.Option("--only", metavar="WAYS", help="Names of accelerations, separated by commas; default: all."),
    ] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, max=100, help="Clips to measure for each acceleration.")
    ] = 1,
    steps: Annotated[int | None, typer.Option("--steps", min=2, max=1000, help="Default: the preset's.")] = None,
    width: Annotated[int | None, typer.Option("--width", help="Default: the preset's.")] = None,
    height: Annotated[int | None, typer.Option("--height", help="Default: the preset's.")] = None,
    num_frames: Annotated[int | None, typer.Option("--num-frames", help="Default: the preset's.")] = None,
    image: Annotated[Path | None, typer.Option("--image", help="First frame, if the preset needs one.")] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="Prompt of the measured clip.")] = None,
    prompts: Annotated[
        int,
        typer.Option(
            "--prompts",
            min=0,
            max=36,
            help="Number of test prompts per acceleration, for presets that "
            "know only one world, to count what their clips show.",
        ),
    ] = 12,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the measured clip.")] = 0,
    least_ssim: Annotated[
        float, typer.Option("--least-ssim", min=-1, max=1, help="Lowest SSIM to the unaccelerated clip.")
    ] = 0.9,
    least_psnr: Annotated[
        float, typer.Option("--least-psnr", min=0, max=100, help="Lowest PSNR to the unaccelerated clip, in dB.")
    ] = 25.0,
    json: Json = False,
) -> int:
    """Benchmark a preset's accelerations, and propose the fastest that changes the clip little enough."""
    settings = settings_of(ctx)
    extras.require(extras.GENERATE, purpose="what makes clips")
    library = load_library(settings.effective_presets_dir)
    asked = preset_benchmark.prompts_of_world(library, name, prompts)
    with tempfile.TemporaryDirectory(prefix="vgen-bench-") as folder, GeneratorProcess(settings) as process:
        request = probe_request(
            library,
            name,
            Path(folder),
            prompt=prompt or next(iter(asked), PROMPT),
            seed=seed,
            image=image,
            num_inference_steps=steps,
            width=width,
            height=height,
            num_frames=num_frames,
        )
        wanted = _chosen(preset_benchmark.candidates(library, name), only)
        done = preset_benchmark.measure(
            process,
            request,
            wanted.items(),
            repeats=repeats,
            prompts=asked,
            on_progress=lambda way: None if json else output.notice(f"measuring {way}"),
        )
    comparable = unsteady(done) is None
    if comparable:
        _keep(settings, name, request.spec, done)
    best = preset_benchmark.proposed(done, least_ssim=least_ssim, least_psnr=least_psnr) if comparable else None
    view = _view(name, done, best, least_ssim, least_psnr)
    if json:
        output.as_json(view)
    else:
        _show(view)
    return 0


def _keep(settings: Settings, name: str, spec: JobSpec, done: list[Measured]) -> None:
    """Keep the plain clip's time: `vgen plan` scales it where no clip was made yet."""
    if not done or not done[0].seconds:
        return
    gpu = find_gpus(settings.gpu_type, 1)[0]
    clip = measured.PlainClip(
        gpu_type=gpu.type,
        width=spec.width,
        height=spec.height,
        num_frames=spec.num_frames,
        steps=spec.num_inference_steps,
        seconds=done[0].seconds,
    )
    measured.write(settings.effective_presets_dir, name, clip)


def _chosen(ways: dict[str, Acceleration], only: str | None) -> dict[str, Acceleration]:
    if only is None:
        return ways
    names = [part.strip() for part in only.split(",") if part.strip()]
    for name in names:
        if name not in ways:
            near = get_close_matches(name, ways, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(
                [Problem(f"{name!r} is not one of the ways: {hint}choose from {', '.join(ways)}", field="--only")]
            )
    return {name: ways[name] for name in names}


def _view(
    name: str, done: list[Measured], best: Measured | None, least_ssim: float, least_psnr: float
) -> PresetBenchView:
    plain, shown = done[0].seconds or 0.0, done[0].followed
    return PresetBenchView(
        preset=name,
        ways=[
            MeasuredWayView.of(
                row,
                acceleration=row.acceleration.given(),
                speed=plain / row.seconds if row.seconds else None,
                peak_memory_bytes=row.peak_bytes,
                followed_loss=None if shown is None or row.followed is None else shown - row.followed,
            )
            for row in done
        ],
        least_ssim=least_ssim,
        least_psnr=least_psnr,
        proposed=best.name if best else None,
        unsteady=unsteady(done),
        numerics=done[0].numerics or {},
    )


def _show(view: PresetBenchView) -> None:
    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    followed = view.ways[0].followed is not None
    shares = ("followed", "loss") if followed else ()
    output.table(
        ("way", "seconds", "speed", "peak MiB", "PSNR dB", "SSIM", *shares, "problem"),
        [
            (
                way.name,
                number(way.seconds, ".2f"),
                number(way.speed, ".2f"),
                "" if way.peak_memory_bytes is None else str(way.peak_memory_bytes // _MIB),
                number(way.psnr, ".1f"),
                number(way.ssim, ".3f"),
                *([number(way.followed, ".3f"), number(way.followed_loss, "+.3f")] if followed else []),
                (way.problem or "")[:100],
            )
            for way in view.ways
        ],
    )
    if view.unsteady is not None:
        output.line(f"no acceleration is proposed: {view.unsteady}; try again when nothing else runs on this machine")
        return
    bound = f"SSIM of {view.least_ssim:g} and PSNR of {view.least_psnr:g} dB at least, against the plain clip"
    if view.proposed is None:
        output.line(f"nothing to propose with {bound}")
        return
    acceleration = next(way.acceleration for way in view.ways if way.name == view.proposed)
    output.line(f"proposed, with {bound}: {view.proposed}")
    for text in adoption(view.preset, acceleration):
        output.line(text)


def adoption(preset: str, acceleration: Mapping[str, Any]) -> list[str]:
    """Return how the proposed options come into use: in a prompt file, or in a preset of one's own."""
    if not acceleration:
        return [f"nothing is to be done: it is how {preset} is made without options"]
    line = json_text({"prompt": "…", "preset": preset, "acceleration": acceleration}, ensure_ascii=False)
    return [f"to adopt it, in a line of a .jsonl prompt file, or in its defaults: {line}"]
