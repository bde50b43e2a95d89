"""Pauses and resumes batches, queues and everything."""

from collections.abc import Sequence

from db.clips import batches
from db.queue import pauses
from db.session import Database
from pipeline.errors import InputError, Problem
from pipeline.policy.routes import queue_named
from service.views.operations import PausedView


def set_paused(database: Database, ids: Sequence[str], queues: Sequence[str], *, paused: bool, by: str) -> PausedView:
    """Pause or resume batches and queues; what was dispatched and not begun is taken back. Raises NotFoundError."""
    on_batch = pauses.pause_batch if paused else pauses.resume_batch
    on_queue = pauses.pause_queue if paused else pauses.resume_queue
    with database.transaction() as session:
        names = list(dict.fromkeys(batches.get(session, name).id for name in ids))
        changed = [name for name in names if on_batch(session, name, by=by)]
        changed += [name for name in queues if on_queue(session, name, by=by)]
        still = pauses.paused_queues(session)
    if paused:
        _withdraw(database)
    unchanged = [name for name in (*names, *queues) if name not in changed]
    return PausedView(paused=paused, changed=changed, unchanged=unchanged, queues=list(still))


def queue_names(names: Sequence[str]) -> list[str]:
    """Names of queues: a name without `vgen.` is a GPU type. Raises InputError."""
    queues, problems = [], []
    for name in names:
        try:
            queues.append(queue_named(name))
        except ValueError as error:
            problems.append(Problem(str(error), field="--queue"))
    if problems:
        raise InputError(problems)
    return list(dict.fromkeys(queues))


def _withdraw(database: Database) -> None:
    """Take back what was dispatched and not begun, a page at a time."""
    while True:
        with database.transaction() as session:
            if not pauses.withdraw(session):
                return
