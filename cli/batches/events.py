"""`vgen events`: the history of a batch or job, read from rows."""

from typing import Annotated

import typer

from cli import output
from cli.batches.patience import Patience, goes_on
from cli.context import open_database, settings_of
from cli.interrupt import Interrupt
from cli.options import Json
from db.clips import lookup
from db.reading import history
from db.reading.feed import Feed
from db.reading.history import Entry
from db.session import Database
from db.sessions import rows as sessions
from pipeline.errors import InputError, NoSuchRowError, Problem
from service.exit_codes import ExitCode
from service.views.events import EventsView, entry_view

POLL_S = 0.5


def events(
    ctx: typer.Context,
    of: Annotated[
        str, typer.Argument(metavar="ID", help="The id of a batch (or its start, or 'latest'), job or session.")
    ],
    follow: Annotated[
        bool, typer.Option("--follow", help="Wait for new events until the batch or job has ended.")
    ] = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Print one JSON object per line.")] = False,
    json: Json = False,
) -> int:
    """Show the history of a batch, job or session: its events, and its attempts as they ended."""
    if json and (follow or jsonl):
        raise InputError([Problem("prints one document; use --jsonl for lines", field="--json")])
    settings = settings_of(ctx)
    with open_database(settings) as database:
        batch_id, job_id = _whose(database, of)
        if follow:
            return _follow(Feed(database, batch_id, job_id), jsonl, Patience(goes_on([batch_id])))
        which = {"batch_id": batch_id} if job_id is None else {"job_id": job_id}
        with database.reading(one_instant=True) as session:
            entries = history.entries(session, **which)
            if json:
                views = [entry_view(entry) for entry in entries]
                output.as_json(EventsView(batch_id=batch_id, job_id=job_id, entries=views))
                return ExitCode.DONE
            for entry in entries:
                _show(entry, jsonl)
    return ExitCode.DONE


def _follow(feed: Feed, jsonl: bool, patience: Patience) -> int:
    with Interrupt("no longer following; the work continues") as interrupt:
        while True:
            news = patience.insist(feed.poll, interrupt.wait)
            if news is None:
                return ExitCode.INTERRUPTED
            for entry in news.entries:
                _show(entry, jsonl)
            output.flush()
            if news.finished:
                return ExitCode.DONE
            if interrupt.wait(0 if news.more else POLL_S):
                return ExitCode.INTERRUPTED


def _whose(database: Database, of: str) -> tuple[str, str | None]:
    """The ids of the batch, of a session its own, and, where one was named, of the job. Raises NotFoundError."""
    with database.reading() as session:
        try:
            target = lookup.target_named(session, of)
        except NoSuchRowError:
            if not sessions.is_named(session, of):
                raise
            return sessions.get(session, of).batch_id, None
        return target.batch_id, target.job_id


def _show(entry: Entry, jsonl: bool) -> None:
    view = entry_view(entry)
    if jsonl:
        output.raw_json(view.model_dump(mode="json"))
        return
    about = " ".join(f"{name}={value}" for name, value in view.data.items() if value not in (None, ""))
    output.line(f"{view.at}\t{view.job_id or view.batch_id}\t{view.kind}\t{about}")
