"""`vgen delete`: deletes a batch that has ended, with its clips and rows."""

import sys
from typing import Annotated

import typer

from cli import output
from cli.context import open_database, settings_of
from cli.options import BatchArgument, Json
from db.clips import batches
from pipeline.errors import ConflictError, InputError, Problem
from pipeline.states import JobState
from pipeline.wiring import make_storage
from service.changes import batch_deletion
from service.views.batches import BatchView, batch_view


def delete(
    ctx: typer.Context,
    batch: BatchArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    json: Json = False,
) -> int:
    """Delete a batch that has ended, with its clips and rows. This cannot be undone."""
    settings = settings_of(ctx)
    with open_database(settings) as database:
        with database.reading() as session:
            row = batches.get(session, batch)
            view = batch_view(row, batches.counts(session, [row.id])[row.id])
        if not view.finished:
            raise ConflictError(f"batch {view.id} has not ended: `vgen cancel {view.id}` first, or wait for it")
        if not yes and not _confirmed(view):
            output.notice("nothing was deleted")
            return 0
        deleted = batch_deletion.delete(database, make_storage(settings), view.id, by=settings.owner)
    if json:
        output.as_json(deleted)
    else:
        output.line(f"batch {deleted.batch_id}: {deleted.jobs} jobs and {deleted.files} files deleted")
        output.line(f"{deleted.bytes} bytes are free")
    return 0


def _confirmed(view: BatchView) -> bool:
    """Ask the person. Raises InputError where nobody can answer."""
    clips = view.counts[JobState.SUCCEEDED]
    question = f"delete batch {view.id} ({view.name}) with {view.total} jobs and {clips} clips?"
    if not sys.stdin.isatty():
        raise InputError([Problem(f"is needed where nobody can answer: {question}", field="--yes")])
    return typer.confirm(output.clean(question), err=True)
