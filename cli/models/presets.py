"""`vgen models`: lists presets, and whether their models are on this machine."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cli import output
from cli.context import open_history, settings_of
from cli.models.add import add
from cli.models.calibrate import calibrate
from cli.options import Json
from pipeline.errors import ServiceUnavailableError, SettingsError
from pipeline.models import hub
from pipeline.models.gpus import Gpu, find_gpus
from pipeline.policy.routes import fits
from pipeline.presets import Library, Preset, load_library
from pipeline.settings import Settings
from service.exit_codes import ExitCode
from service.measured_clips import measured_clips
from service.views.models import MeasuredClipView, ModelChecksView, ModelCheckView, ModelListView, ModelView

app = typer.Typer(help="List, show, add, pull, check and calibrate presets and their models.", no_args_is_help=True)
app.command("calibrate")(calibrate)
app.command("add")(add)
Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]...", help="Names of presets; default: all that are on this machine."),
]


@app.command("list")
def list_(
    ctx: typer.Context,
    hidden: Annotated[bool, typer.Option("--all", help="Also show presets for benchmarks and tests.")] = False,
    json: Json = False,
) -> int:
    """List the presets."""
    settings = settings_of(ctx)
    library = _library(settings)
    device = _device(settings)
    shown = [preset for preset in library.presets.values() if hidden or not preset.hidden]
    with open_history(settings) as session:
        known = measured_clips(session, [preset.name for preset in shown], settings)
    models = [_view(preset, library, settings, device, known[preset.name]) for preset in shown]
    problems = [str(problem) for of_preset in library.problems.values() for problem in of_preset]
    damaged = [model.name for model in models if model.status == "damaged"]
    problems += [f"preset {name!r}: its model is damaged: `vgen models check {name}` says where" for name in damaged]
    if json:
        output.as_json(ModelListView(models=models, problems=problems))
        return 0
    output.table(
        ("preset", "model", "takes", "memory", "fits here", "a clip here", "a clip elsewhere", "licence", "source"),
        [
            (
                model.name,
                model.status,
                model.preset["workload"],
                "unknown" if model.preset["memory_gib"] is None else f"{model.preset['memory_gib']:g} GiB",
                model.fits,
                _seconds_here(model),
                _seconds_published(library.get(model.name)),
                model.preset["licence"] or "unknown",
                model.source,
            )
            for model in models
        ],
    )
    for problem in problems:
        output.notice(problem)
    return 0


def _seconds_here(model: ModelView) -> str:
    if not model.measured:
        return "not made yet"
    first = model.measured[0]
    return f"{first.p50_seconds:.3g} s (n {first.n})"


def _seconds_published(preset: Preset) -> str:
    """The first published time, where one is."""
    seconds = next(((item.seconds, item.gpu) for item in preset.published if item.seconds is not None), None)
    return "unknown" if seconds is None else f"{seconds[0]:g} s ({seconds[1] or 'an unnamed GPU'})"


@app.command("show")
def show(
    ctx: typer.Context, name: Annotated[str, typer.Argument(metavar="NAME", help="A preset.")], json: Json = False
) -> int:
    """Show a preset: model, rules, defaults."""
    settings = settings_of(ctx)
    library = _library(settings)
    preset = library.get(name)
    with open_history(settings) as session:
        known = measured_clips(session, [name], settings)[name]
    view = _view(preset, library, settings, _device(settings), known)
    if json:
        output.as_json(view)
        return 0
    output.facts((("source", view.source), ("model", view.status), ("commit", view.commit), ("fits here", view.fits)))
    flat: list[tuple[str, object]] = []
    flat += [("measured", str(item)) for item in view.measured]
    flat += [("published", str(item)) for item in preset.published]
    for key, value in view.preset.items():
        if key == "published":
            continue
        if isinstance(value, dict):
            flat += [(f"{key}.{inner}", content) for inner, content in value.items()]
        else:
            flat.append((key, value))
    output.facts([(key, "unknown" if value is None and key == "memory_gib" else value) for key, value in flat])
    return 0


@app.command("pull")
def pull(ctx: typer.Context, names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Presets.")]) -> int:
    """Download models and pin their commits; no other command downloads them. Exits with 3 if one is incomplete."""
    settings = settings_of(ctx)
    library = _library(settings)
    code = ExitCode.DONE
    for preset in [library.get(name) for name in names]:
        if hub.model_status(preset, settings.effective_cache_dir) is hub.ModelStatus.BUILT_IN:
            output.line(f"{preset.name}: built in, nothing to download")
        else:

            def tell(sentence: str, name: str = preset.name) -> None:
                output.notice(f"{name}: {sentence}")

            output.line(f"{preset.name}: {hub.pull(preset, settings.effective_cache_dir, tell)}")
            for problem in hub.examine(preset, settings.effective_cache_dir).problems:
                output.notice(f"{preset.name}: {problem}")
                code = ExitCode.INCOMPLETE
    return code


@app.command("check")
def check(ctx: typer.Context, names: Names = None, json: Json = False) -> int:
    """Check presets and their models; without NAME, your own and those on this machine. Exits with 3 on a problem."""
    settings = settings_of(ctx)
    library = _library(settings)
    cache = settings.effective_cache_dir
    wrong = (
        library.problems if not names else {name: library.problems[name] for name in names if name in library.problems}
    )
    chosen = [library.get(name) for name in names or () if name not in wrong]
    if not names:
        chosen = [preset for preset in library.presets.values() if _worth_checking(preset, library, cache)]
    results = [
        ModelCheckView(
            name=name,
            source=problems[0].file or "",
            status="wrong",
            folder=None,
            problems=[str(replace(problem, file=None)) for problem in problems],
        )
        for name, problems in wrong.items()
    ]
    for preset in chosen:
        result = hub.check(preset, cache)
        folder = None if result.folder is None else str(result.folder)
        results.append(
            ModelCheckView(
                name=preset.name,
                source=library.source(preset.name),
                status=result.status.value,
                folder=folder,
                problems=list(result.problems),
            )
        )
    if json:
        output.as_json(ModelChecksView(models=results))
    else:
        rows = [(model.name, model.status, "; ".join(model.problems) or "ok", model.source) for model in results]
        output.table(("preset", "model", "result", "source"), rows)
    return ExitCode.INCOMPLETE if any(model.problems for model in results) else ExitCode.DONE


def _library(settings: Settings) -> Library:
    return load_library(settings.effective_presets_dir)


def _worth_checking(preset: Preset, library: Library, cache: Path) -> bool:
    if preset.name in library.files:
        return True
    return not preset.hidden and hub.model_status(preset, cache) is not hub.ModelStatus.MISSING


def _device(settings: Settings) -> Gpu | None:
    """This machine's first GPU, or its CPU; None where nobody can tell."""
    try:
        return find_gpus(settings.gpu_type, 1, settings.gpus_per_worker)[0]
    except (ServiceUnavailableError, SettingsError):
        return None


def _fits(preset: Preset, device: Gpu | None) -> str:
    """Whether this machine can run it: what is unknown is said to be, since jobs are tried all the same."""
    if device is None:
        return "unknown"
    if preset.memory_gib is None:
        return "unknown" if device.uuid else "no GPU"
    memory = device.memory_bytes if device.uuid else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return "yes" if fits(preset, memory) else f"no: {memory / 2**30:.0f} GiB here"


def _view(
    preset: Preset, library: Library, settings: Settings, device: Gpu | None, measured: list[MeasuredClipView]
) -> ModelView:
    cache = settings.effective_cache_dir
    return ModelView(
        name=preset.name,
        source=library.source(preset.name),
        status=hub.model_status(preset, cache).value,
        fits=_fits(preset, device),
        measured=measured,
        preset=preset.model_dump(mode="json"),
        commit=hub.pins(cache).get(f"{preset.repo}@{preset.revision}"),
    )
