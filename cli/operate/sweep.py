"""`vgen sweep`: deletes unused files."""

from typing import Annotated

import typer

from cli import output
from cli.context import open_database, settings_of
from cli.options import Json
from pipeline.wiring import make_storage
from service.views.operations import RemovedView, SweptView
from tasks.upkeep.sweeper import Report, sweep_once

_TABLE_ROWS = 50


def sweep(
    ctx: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")] = False,
    json: Json = False,
) -> int:
    """Delete orphans, old checkpoints and what has passed its retention; never a file that a row refers to."""
    settings = settings_of(ctx)
    with open_database(settings) as database:
        report = sweep_once(database, make_storage(settings), settings, dry_run=dry_run)
    if json:
        output.as_json(_view(report))
        return 0
    if report.first:
        output.table(
            ("what", "bytes", "name"), [(item.kind, item.size, item.name) for item in report.first[:_TABLE_ROWS]]
        )
    counts = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in report.counts.items() if count)
    verb = "would be removed" if dry_run else "removed"
    output.line(f"{counts or 'nothing'} {verb}, {report.size} bytes")
    return 0


def _view(report: Report) -> SweptView:
    return SweptView(
        dry_run=report.dry_run,
        counts=report.counts,
        bytes=report.size,
        removed=[RemovedView(kind=item.kind, name=item.name, bytes=item.size) for item in report.first],
    )
