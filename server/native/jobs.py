"""``/jobs``: all that is known of one, and what may be asked of it."""

from fastapi import APIRouter

from server.database import ServedLine
from server.json_bodies import JsonRoute
from server.native.batches import submitted
from server.native.bodies import Continuation
from server.native.lookup import Admin, Reader, Writer, require_job, visible_job
from service import extension, rerun
from service.changes import job_changes
from service.status import job_detail
from service.views.jobs import JobDetailView
from service.views.operations import ChangedView
from service.views.submissions import SubmittedView

router = APIRouter(prefix="/jobs/{job_id}", route_class=JsonRoute)


@router.get("")
def show_job(job_id: str, line: ServedLine, caller: Reader) -> JobDetailView:
    """Return all that is known of a job: specification, steps, attempts, files, events."""
    with line.database.reading() as session:
        return job_detail(session, visible_job(session, caller, job_id), line.settings)


@router.post("/cancel")
def cancel_job(job_id: str, line: ServedLine, caller: Writer) -> ChangedView:
    """Stop a job; a running one stops within a step."""
    require_job(line, caller, job_id)
    return job_changes.cancel(line.database, [job_id])


@router.post("/retry")
def retry_job(job_id: str, line: ServedLine, caller: Writer) -> ChangedView:
    """Queue a failed or cancelled job again, at the step where it ended."""
    require_job(line, caller, job_id)
    return job_changes.retry(line.database, [job_id])


@router.post("/approve")
def approve_job(job_id: str, line: ServedLine, caller: Admin) -> ChangedView:
    """Let a held job go on."""
    require_job(line, caller, job_id)
    return job_changes.approve(line.database, [job_id], by=caller.owner)


@router.post("/reject")
def reject_job(job_id: str, line: ServedLine, caller: Admin) -> ChangedView:
    """Block a held job."""
    require_job(line, caller, job_id)
    return job_changes.reject(line.database, [job_id], by=caller.owner)


@router.post("/rerun")
def rerun_job(job_id: str, line: ServedLine, caller: Writer) -> SubmittedView:
    """Make a clip once more, exactly as specified, as a new batch: same seed, the prompt that was used."""
    require_job(line, caller, job_id)
    spec, options = rerun.as_made(line.database, job_id)
    stored = rerun.store_again(
        [(job_id, spec, options)],
        settings=line.settings,
        database=line.database,
        name=f"rerun-{job_id}",
        owner=caller.owner,
    )
    return submitted(line, stored, options)


@router.post("/extend")
def extend_job(job_id: str, body: Continuation, line: ServedLine, caller: Writer) -> SubmittedView:
    """Make a new clip that goes on where a finished one ends."""
    require_job(line, caller, job_id)
    extended = extension.extend(
        line.database, line.settings, job_id, body.prompt, body.changes(), whole=body.whole, owner=caller.owner
    )
    return submitted(line, extended.stored, extended.options)
