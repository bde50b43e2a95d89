"""Chooses the next command to suggest for a batch, with the options of this command line."""

import shlex

from db import workers
from db.clips import batches
from db.session import Database
from pipeline.settings import Settings, load_settings
from pipeline.states import JobState
from service.views.batches import BatchView, batch_view


def line(database: Database, settings: Settings, batch_id: str) -> str:
    """Return what to do next about a stored batch, as a line."""
    with database.reading() as session:
        row = batches.get(session, batch_id)
        view = batch_view(row, batches.counts(session, [row.id])[row.id])
        at_work = bool(workers.alive(session))
    return f"next: {command(settings)} {_verb(view, at_work or not settings.solo)}"


def _verb(batch: BatchView, somebody_works: bool) -> str:
    if batch.finished:
        return f"{'results' if batch.counts[JobState.SUCCEEDED] else 'status'} {batch.id}"
    if batch.paused:
        return f"resume {batch.id}"
    if batch.over_budget:
        return f"budget {batch.id}"
    return f"watch {batch.id}" if somebody_works else "run"


def command(settings: Settings) -> str:
    """Return `vgen`, with the home where it is not the one that a later command would find by itself."""
    home = settings.home.absolute()
    return "vgen" if load_settings().home.absolute() == home else f"vgen --home {shlex.quote(str(home))}"
