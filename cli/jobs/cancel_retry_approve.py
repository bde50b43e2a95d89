"""`vgen cancel`, `retry`, `approve` and `reject`."""

from typing import Annotated

import typer

from cli import completion, output
from cli.batches import next_step, waiting
from cli.context import open_database, settings_of
from cli.options import Json, Wait
from db.session import Database
from pipeline.settings import Settings
from service.changes import job_changes
from service.views.operations import ChangedView

Targets = Annotated[
    list[str],
    typer.Argument(
        metavar="ID...",
        help="Ids of jobs or batches; for a batch, all its held jobs.",
        autocompletion=completion.targets_here,
    ),
]
Chosen = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[ID...]",
        help="Ids of jobs or batches; for a batch, the jobs in a suitable state.",
        autocompletion=completion.targets_here,
    ),
]
Label = Annotated[
    str | None,
    typer.Option(
        "--label",
        metavar="NAME[=VALUE]",
        help="Only jobs with this label; without an ID, of every batch.",
        autocompletion=completion.labels_here,
    ),
]


def cancel(ctx: typer.Context, ids: Chosen = None, label: Label = None, json: Json = False) -> int:
    """Cancel jobs; a running one stops within a denoising step. Finished clips are kept."""
    settings = settings_of(ctx)
    with open_database(settings) as database:
        _show(database, job_changes.cancel(database, ids or [], label=label), "cancelled", settings, json)
        for batch_id in job_changes.whole_batches(database, ids or []) if label is None else ():
            if count := job_changes.cancel_scoring(database, batch_id):
                output.notice(f"batch {batch_id}: {count} score steps cancelled")
    return 0


def retry(
    ctx: typer.Context,
    ids: Chosen = None,
    label: Label = None,
    code: Annotated[
        str | None,
        typer.Option("--code", help="Only jobs that failed with this error code; without an ID, of every batch."),
    ] = None,
    wait: Wait = False,
    json: Json = False,
) -> int:
    """Queue failed or cancelled jobs again, at the step where they ended."""
    settings = settings_of(ctx)
    with open_database(settings) as database:
        changed = job_changes.retry(database, ids or [], label=label, code=code)
        batch_ids = list(dict.fromkeys(job_id.partition("-")[0] for job_id in changed.changed))
        if not wait or not batch_ids:
            _show(database, changed, "queued again", settings, json)
            return 0
        output.notice(f"{output.jobs(len(changed.changed))} queued again")
        return waiting.until_done(database, settings, batch_ids, json=json)


def approve(ctx: typer.Context, ids: Targets, json: Json = False) -> int:
    """Approve held jobs, which then continue."""
    settings = settings_of(ctx)
    with open_database(settings) as database:
        _show(database, job_changes.approve(database, ids, by=settings.owner), "approved", settings, json)
    return 0


def reject(ctx: typer.Context, ids: Targets, json: Json = False) -> int:
    """Reject held jobs, which are then blocked."""
    settings = settings_of(ctx)
    with open_database(settings) as database:
        _show(database, job_changes.reject(database, ids, by=settings.owner), "rejected", settings, json)
    return 0


def _show(database: Database, view: ChangedView, word: str, settings: Settings, json: bool) -> None:
    if json:
        output.as_json(view)
        return
    output.line(f"{output.jobs(len(view.changed))} {word}")
    if view.unchanged:
        said = [f"{job_id} ({reason})" for job_id, reason in view.reasons.items()]
        more = " …" if len(view.unchanged) > len(said) else ""
        output.notice(f"it does not apply to {', '.join(said)}{more}")
    if view.changed and word in ("queued again", "approved"):
        output.line(next_step.line(database, settings, view.changed[0].rpartition("-")[0]))
