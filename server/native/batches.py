"""``/batches``: prompt files in, where they stand, and what may be asked of all their jobs."""

from pathlib import PurePosixPath
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.datastructures import UploadFile

from db.clips import batches
from db.clips.batches import Submitted
from db.models import Batch, Job
from pipeline.errors import InputError, Problem
from pipeline.ids import is_batch_id
from pipeline.prompts.formats.lines import MAX_FILE_BYTES
from pipeline.prompts.parse import parse_upload
from pipeline.spec import BatchOptions as StoredOptions
from pipeline.states import JobState
from server.auth import Caller, owned
from server.database import Line, ServedLine
from server.errors import ApiError
from server.form_bodies import form_in_parts
from server.json_bodies import JsonRoute
from server.native.bodies import BatchOptions, Chosen, NewLimits, PromptText, ToRetry
from server.native.lookup import Admin, Reader, Writer, is_id, require_batch, visible_batch
from service import submission
from service.changes import job_changes
from service.changes.budgets import change_limits
from service.changes.pausing import set_paused
from service.choices import SubmissionChoices
from service.status import status_of
from service.views.batches import BatchListView, JobListView, StatusView, batch_view
from service.views.operations import ChangedView, PausedView
from service.views.reports import ReportView, report_of
from service.views.submissions import DryRunView, SubmittedView
from service.waiting import job_views, with_reasons

router = APIRouter(prefix="/batches", route_class=JsonRoute)
Limit = Annotated[int, Query(ge=1, le=1000, description="At most so many.")]
_PLANNED_SHOWN = 1000
_FILE = {"type": "string", "format": "binary", "description": "A .txt, .jsonl, .csv or .yaml prompt file."}
_UPLOAD = BatchOptions.model_json_schema()
_UPLOAD = {**_UPLOAD, "properties": {"file": _FILE, **_UPLOAD["properties"]}, "required": ["file"]}


@router.post("")
def submit_text(body: PromptText, line: ServedLine, caller: Writer) -> SubmittedView | DryRunView:
    """Store a prompt file that is given as text; repeating it adds nothing. A dry run stores nothing."""
    name = f"{body.name or 'prompts'}.{body.format}"
    return submit_upload(body.text.encode(), name, body, line, caller, has_name=body.name is not None)


@router.post(
    "/upload",
    openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _UPLOAD}}}},
)
async def submit_file(request: Request, line: ServedLine, caller: Writer) -> SubmittedView | DryRunView:
    """Store a prompt file that is uploaded as ``file``, its format by its name; otherwise as above."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise ApiError(400, "file: upload a prompt file under this name", code="invalid_value", param="file")
    async with form_in_parts(request, max_files=1, max_fields=100) as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise ApiError(400, "file: upload a prompt file under this name", code="invalid_value", param="file")
        fields: dict[str, Any] = {name: form.get(name) for name in form if name not in ("file", "gate")}
        if "gate" in form:
            fields["gate"] = form.getlist("gate")
        try:
            options = BatchOptions.model_validate(fields)
        except ValidationError as error:
            raise RequestValidationError([{**item, "loc": ("body", *item["loc"])} for item in error.errors()]) from None
        data = await file.read(MAX_FILE_BYTES + 1)
        name = PurePosixPath((file.filename or "prompts").replace("\\", "/")).name
    return await run_in_threadpool(submit_upload, data, name, options, line, caller, has_name=True)


def submit_upload(
    data: bytes, name: str, options: BatchOptions, line: Line, caller: Caller, *, has_name: bool
) -> SubmittedView | DryRunView:
    """Store the jobs of a prompt file, or plan them; ``has_name`` as of ``Prepared``.

    Raises:
        InputError: with every mistake.
    """
    settings, choices = line.settings, options.choices(caller.owner)
    if options.safety_policy is not None and not caller.sees_all:
        raise ApiError(403, "only a key with the scope 'admin' chooses safety_policy", code="insufficient_scope")
    parsed = parse_upload(data, "".join(char if char.isprintable() else "_" for char in name), settings=settings)
    prepared = submission.prepare(parsed, choices, settings, has_name=has_name)
    if options.dry_run:
        with line.database.reading(one_instant=True) as session:
            return submission.dry_run(session, prepared, settings, most=_PLANNED_SHOWN)
    return submission.submit(prepared, settings=settings, database=line.database)


def submitted(line: Line, stored: Submitted, options: StoredOptions) -> SubmittedView:
    """What was stored, with sentences on what keeps it from going on."""
    with line.database.reading() as session:
        texts = submission.screening_notices(options, line.settings)
        return submission.view_of(session, stored, line.settings, texts)


@router.get("")
def list_batches(
    line: ServedLine,
    caller: Reader,
    after: Annotated[str | None, Query(description="The id of the last batch of the page before.")] = None,
    limit: Limit = 50,
) -> BatchListView:
    """List batches, newest first."""
    query = owned(select(Batch).order_by(Batch.id.desc()).limit(limit + 1), caller)
    if after is not None:
        if not is_batch_id(after):
            raise InputError([Problem(f"{after[:80]!r} is not the id of a batch", field="after")])
        query = query.where(Batch.id < after)
    with line.database.reading() as session:
        rows = session.scalars(query).all()
        counts = batches.counts(session, [row.id for row in rows[:limit]])
        views = [batch_view(row, counts[row.id]) for row in rows[:limit]]
        views = with_reasons(session, rows[:limit], views, line.settings)
    return BatchListView(batches=views, has_more=len(rows) > limit)


@router.get("/{batch_id}")
def show_batch(batch_id: str, line: ServedLine, caller: Reader) -> StatusView:
    """Return where a batch stands; its workers only to keys with the scope metrics.read."""
    with line.database.reading() as session:
        return _status(session, visible_batch(session, caller, batch_id), line, caller)


def _status(session: Session, batch: Batch, line: Line, caller: Caller) -> StatusView:
    return status_of(session, batch, line.settings, with_workers=caller.may("metrics.read"))


@router.get("/{batch_id}/jobs")
def list_jobs(
    batch_id: str,
    line: ServedLine,
    caller: Reader,
    state: Annotated[list[JobState] | None, Query(description="Only jobs in one of these states.")] = None,
    after: Annotated[str | None, Query(description="The id of the last job of the page before.")] = None,
    limit: Limit = 50,
) -> JobListView:
    """List a batch's jobs, in the order of its file."""
    with line.database.reading() as session:
        batch = visible_batch(session, caller, batch_id)
        after_seq = -1
        if after is not None:
            last = session.get(Job, after) if is_id(after) else None
            if last is None or last.batch_id != batch.id:
                raise InputError([Problem(f"{after[:80]!r} is not a job of this batch", field="after")])
            after_seq = last.seq
        rows = batches.job_rows(session, batch.id, states=state or (), after_seq=after_seq, limit=limit + 1)
        return JobListView(
            batch=batch_view(batch, batches.counts(session, [batch.id])[batch.id]),
            jobs=job_views(session, rows[:limit], line.settings),
            has_more=len(rows) > limit,
        )


@router.get("/{batch_id}/report")
def report(batch_id: str, line: ServedLine, caller: Reader) -> ReportView:
    """Return where a batch's time went: who did what when, how busy the GPUs were, seconds and money per clip."""
    with line.database.reading() as session:
        batch = visible_batch(session, caller, batch_id)
        limited = batch.max_gpu_ms is not None or batch.max_cost is not None
        return report_of(session, batch, (batch.prices or {}) if limited else line.settings.prices)


@router.patch("/{batch_id}/budget")
def change_budget(batch_id: str, body: NewLimits, line: ServedLine, caller: Writer) -> StatusView:
    """Change a batch's budget or deadline."""
    require_batch(line, caller, batch_id)
    choices = SubmissionChoices(**body.model_dump())
    change_limits(line.database, line.settings, batch_id, choices, given=body.model_fields_set, by=caller.owner)
    with line.database.reading() as session:
        return _status(session, visible_batch(session, caller, batch_id), line, caller)


@router.post("/{batch_id}/pause")
def pause_batch(batch_id: str, line: ServedLine, caller: Writer) -> PausedView:
    """Begin nothing more of a batch; what runs is given back, with a checkpoint where it can."""
    require_batch(line, caller, batch_id)
    return set_paused(line.database, [batch_id], (), paused=True, by=caller.owner)


@router.post("/{batch_id}/resume")
def resume_batch(batch_id: str, line: ServedLine, caller: Writer) -> PausedView:
    """Undo a pause; a batch also waits while its queue or everything is paused."""
    require_batch(line, caller, batch_id)
    return set_paused(line.database, [batch_id], (), paused=False, by=caller.owner)


@router.post("/{batch_id}/cancel")
def cancel_batch(batch_id: str, line: ServedLine, caller: Writer, body: Chosen | None = None) -> ChangedView:
    """Stop a batch's jobs; running ones stop within a step. What has succeeded stays."""
    require_batch(line, caller, batch_id)
    label = None if body is None else body.label
    changed = job_changes.cancel(line.database, [batch_id], label=label)
    if label is None:
        job_changes.cancel_scoring(line.database, batch_id)
    return changed


@router.post("/{batch_id}/retry")
def retry_batch(batch_id: str, line: ServedLine, caller: Writer, body: ToRetry | None = None) -> ChangedView:
    """Queue failed or cancelled jobs again, at the step where they ended."""
    require_batch(line, caller, batch_id)
    chosen = body or ToRetry()
    return job_changes.retry(line.database, [batch_id], label=chosen.label, code=chosen.code)


@router.post("/{batch_id}/approve")
def approve_batch(batch_id: str, line: ServedLine, caller: Admin) -> ChangedView:
    """Let a batch's held jobs go on."""
    require_batch(line, caller, batch_id)
    return job_changes.approve(line.database, [batch_id], by=caller.owner)


@router.post("/{batch_id}/reject")
def reject_batch(batch_id: str, line: ServedLine, caller: Admin) -> ChangedView:
    """Block a batch's held jobs."""
    require_batch(line, caller, batch_id)
    return job_changes.reject(line.database, [batch_id], by=caller.owner)
