"""The line itself: its workers and its queues."""

from fastapi import APIRouter

from pipeline.errors import InputError, Problem
from pipeline.policy.routes import ALL_QUEUES
from server.auth import Caller
from server.database import Line, ServedLine
from server.json_bodies import JsonRoute
from server.native.bodies import Queues
from server.native.lookup import Admin, Observer
from service.changes.pausing import queue_names, set_paused
from service.status import worker_views
from service.views.operations import PausedView
from service.views.workers import WorkersView

router = APIRouter(route_class=JsonRoute)


@router.get("/workers")
def list_workers(line: ServedLine, caller: Observer) -> WorkersView:
    """List the live workers and the presets that they hold."""
    with line.database.reading() as session:
        return WorkersView(workers=worker_views(session))


@router.post("/queues/pause")
def pause_queues(body: Queues, line: ServedLine, caller: Admin) -> PausedView:
    """Begin nothing more on these queues; what runs is given back."""
    return _set(body, line, caller, paused=True)


@router.post("/queues/resume")
def resume_queues(body: Queues, line: ServedLine, caller: Admin) -> PausedView:
    """Undo a pause of the same name."""
    return _set(body, line, caller, paused=False)


def _set(body: Queues, line: Line, caller: Caller, *, paused: bool) -> PausedView:
    names = [*queue_names(body.queues), *([ALL_QUEUES] if body.everything else [])]
    if not names:
        raise InputError([Problem("name some, or give everything", field="queues")])
    return set_paused(line.database, (), names, paused=paused, by=caller.owner)
