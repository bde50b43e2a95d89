"""`vgen report BATCH`: where a batch's time went, as text, JSON or an HTML page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cli import output, times
from cli.batches import batch_table
from cli.context import open_database, settings_of
from cli.options import BatchArgument, Json
from db.clips import batches
from db.session import Database
from pipeline.errors import InputError, Problem
from pipeline.files.drafts import draft_of
from pipeline.settings import Settings
from pipeline.states import Stage
from pipeline.wiring import make_storage
from service.views.reports import ReportView, report_of

_BLOCKS = " ▁▂▃▄▅▆▇█"
_COLUMNS = 40
"""The width of a worker's timeline in text."""


def report(
    ctx: typer.Context,
    batch: BatchArgument = "latest",
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write the report as an HTML page: clips, failures, the timeline."),
    ] = None,
    json: Json = False,
) -> int:
    """Show where a batch's time went: each worker's timeline, GPU use, seconds and cost per clip."""
    settings = settings_of(ctx)
    with open_database(settings) as database:
        with database.reading() as session:
            row = batches.get(session, batch)
            limited = row.max_gpu_ms is not None or row.max_cost is not None
            view = report_of(session, row, (row.prices or {}) if limited else settings.prices)
        if html is not None:
            _write_page(html, view, database, settings)
    if json:
        output.as_json(view)
    else:
        _show(view)
    return 0


def _write_page(path: Path, view: ReportView, database: Database, settings: Settings) -> None:
    """Raises InputError."""
    from cli.results.report_page import contents, page

    text = page(view, contents(database, make_storage(settings), view.batch.id))
    try:
        with draft_of(path) as draft:
            draft.write_text(text, "utf-8")
    except OSError as error:
        raise InputError([Problem(f"{str(path)!r} cannot be written: {error.strerror}", field="--html")]) from None


def _show(view: ReportView) -> None:
    output.line(batch_table.summary(view.batch))
    output.facts(figures(view))
    if view.stages:
        output.table(
            ("stage", "attempts", "seconds", "mean", "continued", "lost attempts", "lost seconds"),
            [
                (
                    item.stage,
                    item.attempts,
                    item.seconds,
                    item.mean_seconds,
                    item.continued_attempts,
                    item.lost_attempts,
                    item.lost_seconds,
                )
                for item in view.stages
            ],
        )
        output.table(
            ("worker", "GPU", "busy", "others", "did", "timeline"),
            [
                (
                    item.worker,
                    item.gpu_type,
                    f"{item.busy_share:.0%} of {item.busy_of_seconds:.1f} s",
                    f"{item.other_share:.0%}" if item.gpu_type else None,
                    ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in item.seconds.items()),
                    sparkline(list(item.timeline.values())),
                )
                for item in view.workers
            ],
        )
    for note in view.notes:
        output.line(note)


def _against_truth(view: ReportView) -> str | None:
    """The estimate of the submission, and what was taken."""
    if view.estimated_gpu_seconds is None:
        return None
    taken = sum(stage.seconds for stage in view.stages if stage.stage == Stage.GENERATE)
    share = f", {taken / view.estimated_gpu_seconds:.2f} of it" if view.estimated_gpu_seconds else ""
    return f"{view.estimated_gpu_seconds:.1f}; taken so far: {taken:.1f}{share}"


def figures(view: ReportView) -> list[tuple[str, object]]:
    """Names and values, most wanted first."""
    share = "{:.1%}".format
    parts = {part.replace("_", " "): seconds for part, seconds in view.generating.items()}
    return [
        ("began", times.shown(view.began_at)),
        ("ended", times.shown(view.ended_at)),
        ("seconds", f"{view.seconds:.1f}" if view.began_at else None),
        ("clips", view.clips),
        ("estimated GPU seconds", _against_truth(view)),
        ("line efficiency", None if view.line_efficiency is None else share(view.line_efficiency)),
        ("GPUs busy", _busy(view)),
        ("GPU seconds per clip", _number(view.gpu_seconds_per_clip)),
        ("wall seconds per clip", _number(view.seconds_per_clip)),
        ("cost", _number(view.cost)),
        ("cost per clip", _number(view.cost_per_clip)),
        ("waiting per job", None if view.waiting_seconds_per_job is None else f"{view.waiting_seconds_per_job:.1f} s"),
        ("generating", ", ".join(f"{part} {seconds:.1f} s" for part, seconds in parts.items()) or None),
        ("events", ", ".join(f"{kind} {count}" for kind, count in view.events.items()) or None),
    ]


def _busy(view: ReportView) -> str | None:
    """Return the share of time in which GPUs generated, with what it is a share of."""
    if view.gpu_busy_share is None or view.gpu_busy_of_seconds is None:
        return None
    gpus = "1 GPU" if view.gpu_workers == 1 else f"{view.gpu_workers} GPUs"
    return f"{view.gpu_busy_share:.1%} of {gpus} for {view.gpu_busy_of_seconds:.1f} s"


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"


def sparkline(series: Sequence[Sequence[float]]) -> str:
    """Draw how busy a worker was as a row of blocks; simultaneous work is added up, to a full block at most."""
    spans = [sum(values) for values in zip(*series, strict=True)]
    width = -(-len(spans) // _COLUMNS)
    means = [sum(spans[at : at + width]) / len(spans[at : at + width]) for at in range(0, len(spans), width)]
    # Whoever was at work at all is not shown as idle.
    return "".join(_BLOCKS[min(8, -int(-mean * 8 // 1))] for mean in means)
