"""`vgen models`: the presets, and whether their models are on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli import output
from cli.context import settings_of
from cli.exit_codes import ExitCode
from cli.options import Json

if TYPE_CHECKING:
    from cli import views
    from pipeline.presets import Preset
    from pipeline.settings import Settings

app = typer.Typer(help="The presets and their models.", no_args_is_help=True)
Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Presets; all that are here by default.")]


@app.command("list")
def list_(
    ctx: typer.Context,
    hidden: Annotated[bool, typer.Option("--all", help="Also presets for benches and tests.")] = False,
    json: Json = False,
) -> int:
    """List the presets."""
    from cli import views
    from pipeline.presets import all_presets

    settings = settings_of(ctx)
    models = [_view(preset, settings) for preset in all_presets().values() if hidden or not preset.hidden]
    if json:
        output.as_json(views.ModelListView(models=models))
        return 0
    output.table(
        ("preset", "model", "takes", "memory", "licence"),
        [
            (
                model.name,
                model.status,
                model.preset["workload"],
                "unknown" if model.preset["memory_gib"] is None else f"{model.preset['memory_gib']:g} GiB",
                model.preset["licence"] or "unknown",
            )
            for model in models
        ],
    )
    return 0


@app.command("show")
def show(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A preset.")],
    json: Json = False,
) -> int:
    """Show a preset: model, rules, defaults."""
    from pipeline.presets import get_preset

    view = _view(get_preset(name), settings_of(ctx))
    if json:
        output.as_json(view)
        return 0
    output.facts((("model", view.status), ("commit", view.commit)))
    flat: list[tuple[str, object]] = []
    for key, value in view.preset.items():
        if isinstance(value, dict):
            flat += [(f"{key}.{inner}", content) for inner, content in value.items()]
        else:
            flat.append((key, value))
    output.facts([(key, "unknown" if value is None and key == "memory_gib" else value) for key, value in flat])
    return 0


@app.command("pull")
def pull(ctx: typer.Context, names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Presets.")]) -> int:
    """Download models and pin their commits; nothing else downloads."""
    from pipeline.generators import hub
    from pipeline.presets import get_preset

    settings = settings_of(ctx)
    for preset in [get_preset(name) for name in names]:
        if hub.model_status(preset, settings.effective_cache_dir) is hub.ModelStatus.BUILT_IN:
            output.line(f"{preset.name}: built in, nothing to download")
        else:
            output.line(f"{preset.name}: {hub.pull(preset, settings.effective_cache_dir)}")
    return 0


@app.command("check")
def check(ctx: typer.Context, names: Names = None, json: Json = False) -> int:
    """Check that models can be loaded; without NAME, those that are on this machine. Ends with 3 on a problem."""
    from cli import views
    from pipeline.generators import hub
    from pipeline.presets import all_presets, get_preset

    settings = settings_of(ctx)
    cache = settings.effective_cache_dir
    chosen = [get_preset(name) for name in names or ()] or [
        preset
        for preset in all_presets().values()
        if not preset.hidden and hub.model_status(preset, cache) is not hub.ModelStatus.MISSING
    ]
    found = []
    for preset in chosen:
        result = hub.check(preset, cache)
        folder = None if result.folder is None else str(result.folder)
        found.append(
            views.ModelCheckView(
                name=preset.name, status=result.status.value, folder=folder, problems=list(result.problems)
            )
        )
    if json:
        output.as_json(views.ModelChecksView(models=found))
    else:
        rows = [(model.name, model.status, "; ".join(model.problems) or "ok") for model in found]
        output.table(("preset", "model", "result"), rows)
    return ExitCode.INCOMPLETE if any(model.problems for model in found) else ExitCode.DONE


def _view(preset: Preset, settings: Settings) -> views.ModelView:
    from cli import views
    from pipeline.generators import hub

    cache = settings.effective_cache_dir
    return views.ModelView(
        name=preset.name,
        status=hub.model_status(preset, cache).value,
        preset=preset.model_dump(mode="json"),
        commit=hub.pins(cache).get(f"{preset.repo}@{preset.revision}"),
    )
