"""`vgen eval weights`: lists, downloads and verifies the weight files of evaluation models."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from cli import output
from cli.context import settings_of
from cli.options import Json
from pipeline.errors import InputError, Problem
from pipeline.scoring.registry import METRICS
from pipeline.scoring.weight_files import WEIGHT_FILES
from pipeline.scoring.weights import NO_DIRECTORY, Weights
from pipeline.settings import Settings
from service.exit_codes import ExitCode
from service.views import evals as views

app = typer.Typer(help="List, pull and check the weight files of evaluation models.", no_args_is_help=True)
WeightsOption = Annotated[
    Path | None, typer.Option("--weights", metavar="DIR", help="Weights directory; default: VGEN_EVAL_WEIGHTS_DIR.")
]
Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Weight files; all by default.")]


def weights_of(settings: Settings, directory: Path | None) -> Weights:
    """Return the folders that are searched for weights. Raises InputError for a directory that is not there."""
    chosen = directory or settings.eval.weights_dir
    if directory is not None and not directory.is_dir():
        raise InputError([Problem(f"{directory} is not a folder", field="--weights")])
    return Weights(chosen, settings.effective_cache_dir / "eval" / "digests.json")


def notices(texts: Iterable[str]) -> None:
    """Print each text about missing weights. If no weights directory is set, one line before them says so."""
    all_texts = list(texts)
    if any(NO_DIRECTORY in text for text in all_texts):
        output.notice(NO_DIRECTORY)
    for text in all_texts:
        output.notice(text.replace(f"{NO_DIRECTORY}; ", ""))


@app.command("list")
def list_(ctx: typer.Context, weights: WeightsOption = None, json: Json = False) -> int:
    """List the weight files: whether they are on this machine, their size, licence and use."""
    store = weights_of(settings_of(ctx), weights)
    rows = []
    for name in WEIGHT_FILES:
        path = store.find(name)
        status = "missing" if path is None else "found"
        rows.append(_view(name, status, path.path if path else None, None, None if path else store.where(name)))
    return _print(rows, store, json)


@app.command("check")
def check(ctx: typer.Context, names: Names = None, weights: WeightsOption = None, json: Json = False) -> int:
    """Verify the weight files against the official digests. Exits with 3 if one is missing or different."""
    store = weights_of(settings_of(ctx), weights)
    checks = [store.check(name) for name in _known(names)]
    rows = [_view(item.file.name, item.status.value, item.path, item.sha256, item.problem) for item in checks]
    _print(rows, store, json)
    return ExitCode.INCOMPLETE if any(item.problem for item in rows) else ExitCode.DONE


@app.command("pull")
def pull(ctx: typer.Context, names: Names = None, weights: WeightsOption = None) -> int:
    """Download weight files, and hub folders, into the weights directory, and verify the files."""
    settings = settings_of(ctx)
    if weights is not None:
        weights.mkdir(parents=True, exist_ok=True)
    store = weights_of(settings, weights)
    for name in _known(names):
        if names or WEIGHT_FILES[name].sha256 or WEIGHT_FILES[name].is_folder:
            output.line(f"{name}\t{store.pull(name, output.notice)}")
        else:
            output.notice(f"left out: {name}: {store.where(name)}")
    return 0


def _known(names: list[str] | None) -> list[str]:
    unknown = [name for name in names or () if name not in WEIGHT_FILES]
    if unknown:
        known = ", ".join(WEIGHT_FILES)
        raise InputError(
            [Problem(f"{name!r} is not a weight file: choose from {known}", field="NAME") for name in unknown]
        )
    return names or list(WEIGHT_FILES)


def _view(name: str, status: str, path: Path | None, sha256: str | None, problem: str | None) -> views.WeightFileView:
    file = WEIGHT_FILES[name]
    return views.WeightFileView.of(
        file,
        status=status,
        path=None if path is None else str(path),
        sha256=sha256,
        used_by=[metric.name for metric in METRICS.values() if name in metric.weights],
        problem=problem,
    )


def _print(rows: list[views.WeightFileView], store: Weights, json: bool) -> int:
    if json:
        directory = None if store.directory is None else str(store.directory)
        output.as_json(views.EvalWeightsView(directory=directory, files=rows))
        return 0
    output.table(
        ("file", "status", "MB", "licence", "used by"),
        [(f.name, f.status, f"{f.size / 1e6:.1f}", f.licence, " ".join(f.used_by)) for f in rows],
    )
    notices(f"{file.name}: {file.problem}" for file in rows if file.problem)
    return 0
