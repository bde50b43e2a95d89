"""`vgen eval compare`: says whether a run is worse than another."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from cli import output
from cli.context import settings_of
from cli.eval.likeness import ClipFiles, strips, with_likeness
from cli.eval.run_sources import read_run
from cli.eval.weights import WeightsOption, notices, weights_of
from cli.options import Json
from pipeline import extras
from pipeline.errors import InputError, Problem
from pipeline.files.drafts import draft_of
from pipeline.scoring import Models, registry
from pipeline.scoring import compare as comparing
from pipeline.scoring.compare import report as reports
from pipeline.scoring.compare.facts import as_text
from pipeline.scoring.compare.html import html as page_of
from pipeline.scoring.compare.report import Report
from pipeline.scoring.compare.runs import Run
from pipeline.scoring.metric import Metric
from service.exit_codes import ExitCode
from service.views import evals as views

MARGIN_HELP = (
    "Largest loss accepted, in the metric's units, or a bound on a likeness, such as common.ssim>=0.98. Gates it; "
    "repeatable."
)


def compare(
    ctx: typer.Context,
    baseline: Annotated[
        str, typer.Argument(metavar="BASELINE", help="The baseline run: a score file, a run's id, or latest.")
    ],
    candidate: Annotated[
        str, typer.Argument(metavar="CANDIDATE", help="The run to judge: a score file, a run's id, or latest.")
    ],
    metrics: Annotated[
        str | None,
        typer.Option("--metrics", help="Metrics and groups, separated by commas; default: all in the files."),
    ] = None,
    margin: Annotated[list[str] | None, typer.Option("--margin", metavar="NAME=VALUE", help=MARGIN_HELP)] = None,
    repeat: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--repeat",
            metavar="BASELINE CANDIDATE",
            help="The same two runs with other seeds; only a loss that both pairs show raises an alarm.",
        ),
    ] = None,
    history: Annotated[
        list[str] | None,
        typer.Option("--history", metavar="RUN", help="Earlier runs for the charts, oldest first; repeatable."),
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a report with charts.")] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write the report as Markdown.")
    ] = None,
    weights: WeightsOption = None,
    device: Annotated[
        str | None, typer.Option("--device", help="cpu, cuda, …; default: the setting eval.device.")
    ] = None,
    json: Json = False,
) -> int:
    """Compare two runs of a suite, prompt by prompt. Exits with 0 if the state is ok or identical, else with 3.

    How alike the clips are (--metrics common, --margin "common.ssim>=0.98") is computed now, from both runs' files.
    """
    settings = settings_of(ctx)
    _check_writable({"--html": html, "--markdown": markdown})
    margins = comparing.read_margins(margin or [], "--margin")
    before, after = read_run(baseline, settings), read_run(candidate, settings)
    if before.name == after.name and not Path(before.name).exists():
        raise InputError(f"BASELINE and CANDIDATE are both evaluation run {before.name}: give two different runs")
    chosen = _chosen(metrics, list(margins), before, after)
    models = Models(weights_of(settings, weights), device or settings.eval.device)
    chosen, alike = _ready(chosen, list(margins), models)
    with ClipFiles(settings) as files:

        def both(first: Run, second: Run) -> Run:
            if not alike or comparing.identical(first, second):
                return second
            return with_likeness(first, second, alike, models, files, settings.eval.clip_bytes)

        after = both(before, after)
        compared = comparing.compare(before, after, chosen, margins)
        if repeat is None:
            compared = comparing.with_repeat_option(compared, "`--repeat BASELINE CANDIDATE`")
        else:
            again = read_run(repeat[0], settings), read_run(repeat[1], settings)
            baselines = comparing.combined(before, again[0])
            candidates = comparing.combined(after, both(*again))
            compared = comparing.repeated(compared, comparing.compare(baselines, candidates, chosen, margins))
            before, after = baselines, candidates
        pictures = {} if html is None else strips(before, after, compared, files, settings.eval.clip_bytes)
    report = reports.Report(
        compared, [read_run(source, settings) for source in history or []], runs=(before, after), strips=pictures
    )
    for file, text in ((html, page_of), (markdown, reports.markdown)):
        if file is not None:
            with draft_of(file) as draft:
                draft.write_text(text(report), "utf-8")
    if json:
        output.as_json(views.EvalCompareView.model_validate(reports.as_json(report)))
    else:
        _show(report)
    return ExitCode.DONE if compared.state in comparing.PASSED else ExitCode.INCOMPLETE


def _check_writable(files: Mapping[str, Path | None]) -> None:
    """Raises InputError for files that cannot be written: comparing clips takes minutes, and this takes none."""
    problems = [
        Problem(f"{file} is a folder: name a file in it", field=option)
        if file.is_dir()
        else Problem(f"{file} cannot be written: its folder does not exist or is not writable", field=option)
        for option, file in files.items()
        if file is not None and (file.is_dir() or not os.access(file.absolute().parent, os.W_OK | os.X_OK))
    ]
    if problems:
        raise InputError(problems)


def _chosen(metrics: str | None, gated: list[str], before: Run, after: Run) -> list[Metric]:
    """Return the metrics to compare; a file's metric that this release does not know is named and left out."""
    present = dict.fromkeys(name for run in (before, after) for clip in run.clips.values() for name in clip.scores)
    for name in present:
        if name not in registry.METRICS:
            output.notice(f"left out: {name}: no metric of this release")
    if metrics is None:
        likenesses = [name for name in gated if registry.METRICS[name].perfect is not None]
        return [registry.METRICS[name] for name in dict.fromkeys([*present, *likenesses]) if name in registry.METRICS]
    names = [name.strip() for name in metrics.split(",") if name.strip()]
    return [
        metric
        for metric, named in registry.named([*names, *gated])
        if named or metric.name in present or metric.perfect is not None
    ]


def _ready(chosen: list[Metric], gated: list[str], models: Models) -> tuple[list[Metric], list[Metric]]:
    """The metrics without the likenesses that cannot be computed here, and the likenesses that can.

    Raises:
        InputError: a gated likeness cannot.
        NotInstalledError: there is one, and torch is not installed.
    """
    likenesses = [metric for metric in chosen if metric.perfect is not None]
    if not likenesses:
        return chosen, []
    extras.require(extras.EVAL, purpose="what compares clips")
    problems, ready, left_out = [], [], []
    for metric in likenesses:
        missing = "; ".join(models.weights.where(name) for name in registry.readiness(metric, models.weights).missing)
        if not missing:
            ready.append(metric)
        elif metric.name in gated:
            problems.append(Problem(f"{metric.name}: weights missing: {missing}", field="--margin"))
        else:
            left_out.append(f"left out: {metric.name}: weights missing: {missing}")
    notices(left_out)
    if problems:
        raise InputError(problems)
    return [metric for metric in chosen if metric.perfect is None or metric in ready], ready


def _show(report: Report) -> None:
    compared = report.comparison
    changes = "; ".join(as_text(change) for change in reports.changed(report.facts()) or ())
    output.facts(
        [
            *(("state", compared.state.value), ("meaning", report.meaning), ("next", compared.advice)),
            ("changed", changes or None),
        ]
    )
    if compared.metrics:
        output.table(reports.COLUMNS, reports.rows(compared.metrics))
        for note in reports.notes(compared):
            output.notice(note)
    elif scores := reports.score_rows(report):
        output.table(reports.SCORE_COLUMNS, scores)
