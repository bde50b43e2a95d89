"""`vgen watch`: follows a batch until it ends."""

from collections.abc import Sequence

import typer

from cli import output
from cli.batches import batch_table, forecast, status
from cli.batches.follow import display, follow, snapshot_of
from cli.batches.patience import Patience, goes_on
from cli.context import open_database, settings_of
from cli.interrupt import Interrupt
from cli.options import BatchArgument, Json
from db.clips import batches
from db.session import Database
from pipeline.settings import Settings
from service.exit_codes import ExitCode


def watch(ctx: typer.Context, batch: BatchArgument = "latest", json: Json = False) -> int:
    """Follow a batch until it ends, and exit with its exit code."""
    settings = settings_of(ctx)
    with open_database(settings) as database:
        with database.reading() as session:
            batch_id = batches.get(session, batch).id
        return until_finished(database, settings, [batch_id], json=json)


def until_finished(database: Database, settings: Settings, batch_ids: Sequence[str], *, json: bool) -> int:
    """Show the batches until each has ended or only a person can move it; then their tables, and the worst code."""
    patience = None if database.is_sqlite else Patience(goes_on(list(batch_ids)))
    with Interrupt("no longer watching; the batch continues") as interrupt:
        with display() as screen:
            news = forecast.News(database, settings)
            last = follow(
                lambda: news.report(snapshot_of(database, batch_ids)),
                screen,
                until=lambda snapshot: snapshot.finished or snapshot.needs_people,
                wait=interrupt.wait,
                patience=patience,
            )
        if last is None or (interrupt.stopped and not last.finished):
            return ExitCode.INTERRUPTED
        for reason in last.stopped:
            output.notice(f"no longer waiting: {reason}")
        codes = []
        for batch_id in batch_ids:

            def show(batch_id: str = batch_id) -> int:
                return show_ended(database, settings, batch_id, json=json)

            code = show() if patience is None else patience.insist(show, interrupt.wait)
            codes.append(ExitCode.INTERRUPTED if code is None else code)
    return int(max(codes))


def show_ended(database: Database, settings: Settings, batch_id: str, *, json: bool) -> int:
    """Print the batch's table, or its status as JSON; its exit code."""
    if not json:
        return batch_table.show(database, settings, batch_id)
    view = status.status_view(database, settings, batch_id)
    output.as_json(view)
    return ExitCode.INCOMPLETE if view.batch.exit_code is None else view.batch.exit_code
