"""``/held``: jobs that wait for a person's word, and why."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from db.models import Batch, Job, Step
from pipeline.errors import InputError, Problem
from pipeline.outputs import ScreenOutput
from pipeline.states import JobState, Stage
from server.auth import Caller, owned
from server.database import ServedLine
from server.native.lookup import is_id
from server.pages.assets import Viewer
from server.pages.rendering import page
from server.pages.route import PageRoute
from service.views.jobs import job_view

router = APIRouter(route_class=PageRoute, include_in_schema=False)
_SHOWN = 100


@router.get("/held")
def show_held(
    request: Request, line: ServedLine, visit: Viewer, after: Annotated[str | None, Query()] = None
) -> Response:
    """Show the held jobs, oldest first."""
    if after and not is_id(after):
        raise InputError([Problem(f"{after[:80]!r} is not the id of a job", field="after")])
    with line.database.reading() as session:
        jobs = _held(session, visit.caller, after)
        reasons = _reasons(session, [job.id for job in jobs])
        rows = [(job_view(job), reasons.get(job.id)) for job in jobs[:_SHOWN]]
    more = f"/held?after={rows[-1][0].id}" if len(jobs) > _SHOWN else None
    return page(request, visit, "held.html", rows=rows, after=after, next_page=more)


def _held(session: Session, caller: Caller, after: str | None) -> list[Job]:
    query = select(Job).join(Batch, Batch.id == Job.batch_id).where(Batch.active, Job.state == JobState.HELD)
    query = owned(query, caller).order_by(Job.id).limit(_SHOWN + 1)
    return list(session.scalars(query.where(Job.id > after) if after else query))


def _reasons(session: Session, job_ids: list[str]) -> dict[str, ScreenOutput]:
    """What the screen stage said of each."""
    of_roll = (Job.id == Step.job_id) & (Job.roll == Step.roll)
    query = select(Step.job_id, Step.output).join(Job, of_roll)
    rows = session.execute(query.where(Step.job_id.in_(job_ids), Step.stage == Stage.SCREEN))
    return {job_id: screened for job_id, output in rows if (screened := ScreenOutput.from_row(output)) is not None}
