"""``/jobs/ID``: all that is known of one clip, and what may be asked of it."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request, Response
from starlette.responses import RedirectResponse

from db.clips import batches
from db.clips.votes import Opinion, opinions
from pipeline.ids import job_id as id_of
from pipeline.states import TERMINAL_JOB_STATES
from server.auth import Caller, Visit, sending
from server.database import Line, ServedLine
from server.native import jobs as api
from server.native.bodies import Continuation
from server.native.lookup import visible_job
from server.pages import live
from server.pages.assets import Viewer
from server.pages.clips import cards
from server.pages.progress import job_now
from server.pages.rendering import page
from server.pages.route import PageRoute
from server.pages.timeline import difference, timeline
from service.keys import ADMIN
from service.status import job_detail
from service.views.jobs import text_sentences
from service.views.operations import ChangedView

router = APIRouter(prefix="/jobs/{job_id}", route_class=PageRoute, include_in_schema=False)
Writing = Annotated[Visit, Depends(sending("batches.write"))]
Judging = Annotated[Visit, Depends(sending(ADMIN))]
_DONE = {
    "cancel": "It was asked to stop.",
    "retry": "It is queued again, at the step where it ended.",
    "approve": "It was approved and continues.",
    "reject": "It was rejected.",
    "rate": "Your stars and note are stored.",
    "nothing": "Nothing was changed: meanwhile it was in another state.",
}


@router.get("")
def show_job(request: Request, job_id: str, line: ServedLine, visit: Viewer, did: str = "") -> Response:
    """Show a clip, how it was made, and what became of it."""
    with line.database.reading() as session:
        job = visible_job(session, visit.caller, job_id)
        detail = job_detail(session, job, line.settings)
        batch = batches.get(session, job.batch_id)
        values: dict[str, Any] = {
            "card": cards(session, [job], line.settings, large=True)[0],
            "opinion": (opinion := opinions(session, [job.id]).get(job.id, Opinion())),
            "own": opinion.of(visit.caller.owner),
            "now": job_now(session, job, line),
            "live": None if job.state in TERMINAL_JOB_STATES else live.mark(line, job.batch_id, job.id),
            "before": id_of(batch.id, job.seq - 1) if job.seq > 0 else None,
            "after": id_of(batch.id, job.seq + 1) if job.seq + 1 < batch.total else None,
        }
        values["deleted"] = job.deleted_at is not None
    used = detail.prompt_used
    return page(
        request,
        visit,
        "job.html",
        batch=batch,
        detail=detail,
        done=_DONE.get(did),
        entries=timeline(detail),
        changed=difference(detail.job.prompt, used) if used is not None and used != detail.job.prompt else None,
        notes=text_sentences(detail),
        sidecar=next((f"/media/{job_id}/sidecar" for file in detail.files if file.kind == "sidecar"), None),
        **values,
    )


@router.post("/cancel")
def cancel(job_id: str, line: ServedLine, visit: Writing) -> Response:
    """Stop the job."""
    return _changed(job_id, "cancel", api.cancel_job, line, visit)


@router.post("/retry")
def retry(job_id: str, line: ServedLine, visit: Writing) -> Response:
    """Queue it again."""
    return _changed(job_id, "retry", api.retry_job, line, visit)


@router.post("/approve")
def approve(job_id: str, line: ServedLine, visit: Judging, back: Annotated[str, Form()] = "") -> Response:
    """Let a held job go on."""
    return _changed(job_id, "approve", api.approve_job, line, visit, back=back)


@router.post("/reject")
def reject(job_id: str, line: ServedLine, visit: Judging, back: Annotated[str, Form()] = "") -> Response:
    """Block a held job."""
    return _changed(job_id, "reject", api.reject_job, line, visit, back=back)


@router.post("/rerun")
def rerun(job_id: str, line: ServedLine, visit: Writing) -> Response:
    """Make the clip once more."""
    return _to_first_job(api.rerun_job(job_id, line, visit.caller).batch.id)


@router.post("/extend")
def extend(job_id: str, line: ServedLine, visit: Writing, prompt: Annotated[str, Form()] = "") -> Response:
    """Make a clip that goes on where it ends."""
    body = Continuation(prompt=prompt.replace("\r\n", "\n").strip())
    return _to_first_job(api.extend_job(job_id, body, line, visit.caller).batch.id)


def _changed(
    job_id: str,
    verb: str,
    change: Callable[[str, Line, Caller], ChangedView],
    line: Line,
    visit: Visit,
    *,
    back: str = "",
) -> Response:
    done = verb if change(job_id, line, visit.caller).changed else "nothing"
    return RedirectResponse("/held" if back == "held" else f"/jobs/{job_id}?did={done}", 303)


def _to_first_job(batch_id: str) -> Response:
    return RedirectResponse(f"/jobs/{id_of(batch_id, 0)}", 303)
