"""`vgen models calibrate`: measures what MagCache needs to know of a model, over one clip."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from cli import output
from cli.context import settings_of
from cli.options import Json
from pipeline import extras
from pipeline.generators.probe_request import PROMPT, probe_request
from pipeline.generators.process.handle import GeneratorProcess
from pipeline.presets import calibration, load_library
from service.views.models import CalibrationView


def calibrate(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A preset whose model is on this machine.")],
    steps: Annotated[int | None, typer.Option("--steps", min=2, max=1000, help="Default: the preset's.")] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="Prompt of the measured clip.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the measured clip.")] = 0,
    image: Annotated[Path | None, typer.Option("--image", help="First frame, if the preset needs one.")] = None,
    json: Json = False,
) -> int:
    """Measure and store the ratios that step_cache=mag_cache needs for a preset."""
    settings = settings_of(ctx)
    extras.require(extras.GENERATE, purpose="what makes clips")
    library = load_library(settings.effective_presets_dir)
    text = prompt or PROMPT
    with tempfile.TemporaryDirectory(prefix="vgen-calibrate-") as folder, GeneratorProcess(settings) as process:
        request = probe_request(
            library, name, Path(folder), prompt=text, seed=seed, image=image, num_inference_steps=steps
        )
        ratios = process.calibrate(request, lambda progress: None)
    path = calibration.write(settings.effective_presets_dir, library.get(name), ratios, prompt=text, seed=seed)
    if json:
        output.as_json(CalibrationView(preset=name, file=str(path), ratios=ratios))
    else:
        output.line(f"{name}: {len(ratios)} ratios, {min(ratios):.3f} to {max(ratios):.3f}, kept in {path}")
        output.line("jobs use them with --acceleration step_cache=mag_cache")
    return 0
