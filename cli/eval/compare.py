"""`vgen eval compare`: whether a run is worse than another."""

from pathlib import Path
from typing import Annotated

import typer

from cli import output
from cli.context import settings_of
from cli.eval.run_sources import read_run
from cli.options import Json
from pipeline.scoring import compare as comparing
from pipeline.scoring import registry
from pipeline.scoring.compare import MEANING
from pipeline.scoring.compare import report as reports
from pipeline.scoring.compare.html import html as page_of
from pipeline.scoring.compare.report import Report
from pipeline.scoring.compare.runs import Run
from pipeline.scoring.metric import Metric
from service.exit_codes import ExitCode
from service.views import evals as views


def compare(
    ctx: typer.Context,
    baseline: Annotated[
        str, typer.Argument(metavar="BASELINE", help="The run to be measured by: a score file, a run's id, or latest.")
    ],
    candidate: Annotated[str, typer.Argument(metavar="CANDIDATE", help="The run in question, by the same.")],
    metrics: Annotated[
        str | None,
        typer.Option("--metrics", help="Metrics and groups, separated by commas; default: all in the files."),
    ] = None,
    margin: Annotated[
        list[str] | None,
        typer.Option(
            "--margin", metavar="NAME=VALUE", help="Largest loss accepted, in the metric's units; gates it. Repeatable."
        ),
    ] = None,
    repeat: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--repeat", metavar="BASELINE CANDIDATE", help="Both with other seeds: only what they show together alarms."
        ),
    ] = None,
    history: Annotated[
        list[str] | None, typer.Option("--history", metavar="RUN", help="Earlier runs to draw, oldest first.")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a report with charts.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", metavar="FILE", help="Write it as Markdown.")] = None,
    json: Json = False,
) -> int:
    """Compare two runs of a suite, prompt by prompt. Ends with 0 when the state is ok or identical, else with 3."""
    settings = settings_of(ctx)
    margins = comparing.read_margins(margin or [], "--margin")
    before, after = read_run(baseline, settings), read_run(candidate, settings)
    chosen = _chosen(metrics, list(margins), before, after)
    compared = comparing.compare(before, after, chosen, margins)
    if repeat is not None:
        baselines = comparing.combined(before, read_run(repeat[0], settings))
        candidates = comparing.combined(after, read_run(repeat[1], settings))
        compared = comparing.repeated(compared, comparing.compare(baselines, candidates, chosen, margins))
    report = reports.Report(compared, [read_run(source, settings) for source in history or []])
    if html is not None:
        html.write_text(page_of(report), "utf-8")
    if markdown is not None:
        markdown.write_text(reports.markdown(report), "utf-8")
    if json:
        output.as_json(views.EvalCompareView.model_validate(reports.as_json(report)))
    else:
        _show(report)
    return ExitCode.DONE if compared.state in comparing.PASSED else ExitCode.INCOMPLETE


def _chosen(metrics: str | None, gated: list[str], before: Run, after: Run) -> list[Metric]:
    """Return the metrics to compare; a file's metric that this release does not know is named and left out."""
    present = dict.fromkeys(name for run in (before, after) for clip in run.clips.values() for name in clip.scores)
    for name in present:
        if name not in registry.METRICS:
            output.notice(f"left out: {name}: no metric of this release")
    if metrics is None:
        return [registry.METRICS[name] for name in present if name in registry.METRICS]
    names = [name.strip() for name in metrics.split(",") if name.strip()]
    return [metric for metric, named in registry.named([*names, *gated]) if named or metric.name in present]


def _show(report: Report) -> None:
    compared = report.comparison
    output.facts([("state", compared.state.value), ("meaning", MEANING[compared.state]), ("next", compared.advice)])
    if compared.metrics:
        output.table(reports.COLUMNS, reports.rows(compared))
        for note in reports.notes(compared):
            output.notice(note)
