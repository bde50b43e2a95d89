"""``/evals``: evaluation runs, and of each what it found, with ways to the best and worst clips."""

from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy import select

from db.evals import runs
from db.models import Batch, EvalRun
from pipeline.errors import NotFoundError
from server.auth import owned
from server.database import ServedLine
from server.native.lookup import is_id
from server.pages.assets import Viewer
from server.pages.rendering import page
from server.pages.route import PageRoute
from service.views.base import when, when_if_set

router = APIRouter(prefix="/evals", route_class=PageRoute, include_in_schema=False)
_SHOWN = 100
_LINK_S = 3600
"""The seconds that a link to a report works, where the store is S3."""


@router.get("")
def show_runs(request: Request, line: ServedLine, visit: Viewer) -> Response:
    """Show the evaluation runs, newest first."""
    query = select(EvalRun, Batch).join(Batch, Batch.id == EvalRun.batch_id).order_by(EvalRun.id.desc()).limit(_SHOWN)
    with line.database.reading() as session:
        rows = [
            (run, batch.name, when(run.created_at), when_if_set(run.finished_at), _verdict(run))
            for run, batch in session.execute(owned(query, visit.caller))
        ]
    return page(request, visit, "evals.html", rows=rows, most=_SHOWN)


@router.get("/{run_id}")
def show_run(request: Request, run_id: str, line: ServedLine, visit: Viewer) -> Response:
    """Show one run: its metrics over all clips, and its verdict."""
    query = select(EvalRun, Batch).join(Batch, Batch.id == EvalRun.batch_id).where(EvalRun.id == run_id)
    with line.database.reading() as session:
        found = session.execute(owned(query, visit.caller)).one_or_none() if is_id(run_id) else None
        if found is None:
            raise NotFoundError(f"evaluation run {run_id[:80]!r} does not exist")
        run, batch = found
        values: dict[str, Any] = {"means": runs.means(session, batch.id), "verdict": _verdict(run)}
        if key := (values["verdict"] or {}).get("reports", {}).get("html"):
            values["report"] = line.storage.url(key, expires_s=_LINK_S)
        summary = {name: value for name, value in (run.summary or {}).items() if name != runs.VERDICT}
    return page(
        request, visit, "eval.html", run=run, batch=batch, created_at=when(run.created_at),
        finished_at=when_if_set(run.finished_at), run_summary=summary, **values,
    )  # fmt: skip


def _verdict(run: EvalRun) -> dict[str, Any] | None:
    """What was written down for a night; None for other runs, and before it was judged."""
    return (run.summary or {}).get(runs.VERDICT)
