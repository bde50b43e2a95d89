"""`vgen pause` and `vgen resume`, for batches, queues and everything."""

from collections.abc import Sequence
from typing import Annotated

import typer

from cli import completion, output
from cli.context import open_database, settings_of
from cli.options import Json
from db import workers
from db.clips import batches
from db.queue import pauses
from db.session import Database
from pipeline.errors import InputError, Problem
from pipeline.policy.routes import ALL_QUEUES
from service.changes.pausing import queue_names, set_paused
from service.views.operations import PausedView

Batches = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[BATCH...]",
        help="Ids of batches, the start of one, or 'latest'.",
        autocompletion=completion.batches_here,
    ),
]
Queues = Annotated[
    list[str] | None,
    typer.Option(
        "--queue", metavar="NAME", help="A queue, such as vgen.io, or a GPU type; vgen.gpu means all GPUs; repeatable."
    ),
]
All = Annotated[bool, typer.Option("--all", help="Everything: all batches and all queues.")]


def pause(
    ctx: typer.Context, batches: Batches = None, queue: Queues = None, everything: All = False, json: Json = False
) -> int:
    """Pause batches, queues or everything; running work is given back, with a checkpoint if the preset has them."""
    return _set(ctx, batches or [], queue or [], everything, pausing=True, json=json)


def resume(
    ctx: typer.Context, batches: Batches = None, queue: Queues = None, everything: All = False, json: Json = False
) -> int:
    """End the pause of the same name; a batch still waits while its queue or everything is paused."""
    return _set(ctx, batches or [], queue or [], everything, pausing=False, json=json)


def _set(
    ctx: typer.Context, ids: Sequence[str], names: Sequence[str], everything: bool, *, pausing: bool, json: bool
) -> int:
    if not (ids or names or everything):
        raise InputError([Problem("name what to pause: a BATCH, --queue NAME or --all")])
    queues = [*queue_names(names), *([ALL_QUEUES] if everything else [])]
    settings = settings_of(ctx)
    with open_database(settings) as database:
        view = set_paused(database, ids, queues, paused=pausing, by=settings.owner)
        for text in _notices(database, names, view):
            output.notice(text)
    if json:
        output.as_json(view)
        return 0
    for name in view.changed:
        output.line(f"{_shown(name)}: {'paused' if pausing else 'resumed'}")
    for name in view.unchanged:
        output.notice(f"{_shown(name)}: was {'paused already' if pausing else 'not paused'}")
    return 0


def _notices(database: Database, names: Sequence[str], view: PausedView) -> list[str]:
    if not view.paused:
        batch_ids = [name for name in (*view.changed, *view.unchanged) if "." not in name and name != ALL_QUEUES]
        notices = [f"{_shown(name)} is still paused" for name in view.queues if batch_ids]
        with database.reading() as session:
            over = [batch_id for batch_id in batch_ids if batches.get(session, batch_id).over_budget]
        return notices + [f"{batch_id}: its budget is used up; `vgen budget {batch_id}` raises it" for batch_id in over]
    with database.reading() as session:
        live = workers.capacity(session).slots
    return [
        f"no live worker serves {name}; it is paused all the same"
        for name in queue_names(names)
        if not any(pauses.is_paused(queue, [name]) for queue in live)
    ]


def _shown(name: str) -> str:
    return "everything" if name == ALL_QUEUES else name
