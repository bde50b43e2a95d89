"""`vgen cancel`, `retry`, `approve`, `reject` and `rerun`: what a person may ask of jobs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import output
from cli.context import open_database, settings_of
from cli.options import Json, checked_owner

if TYPE_CHECKING:
    from db.session import Database
    from pipeline.prompts.stored_inputs import StoredInputs
    from pipeline.settings import Settings
    from pipeline.spec import BatchOptions, JobSpec
    from service.views.operations import ChangedView

Targets = Annotated[
    list[str], typer.Argument(metavar="ID...", help="Jobs, or batches: all of a batch's jobs to which it applies.")
]
Chosen = Annotated[
    list[str] | None,
    typer.Argument(metavar="[ID...]", help="Jobs, or batches: those of a batch's jobs to which it applies."),
]
Label = Annotated[
    str | None,
    typer.Option(
        "--label", metavar="NAME[=VALUE]", help="Only jobs with this label; without a batch, those of every batch."
    ),
]


def cancel(ctx: typer.Context, ids: Chosen = None, label: Label = None, json: Json = False) -> int:
    """Stop jobs; a running one stops within a step. What has succeeded stays."""
    from service import job_changes

    settings = settings_of(ctx)
    with open_database(settings) as database:
        _show(job_changes.cancel(database, ids or [], label=label), "cancelled", settings, json)
        for batch_id in [name for name in ids or [] if label is None and "-" not in name]:
            if count := job_changes.cancel_scoring(database, batch_id):
                output.notice(f"batch {batch_id}: {count} score steps cancelled")
    return 0


def retry(
    ctx: typer.Context,
    ids: Chosen = None,
    label: Label = None,
    code: Annotated[
        str | None,
        typer.Option("--code", help="Only jobs that failed with this error; without a batch, those of every batch."),
    ] = None,
    json: Json = False,
) -> int:
    """Queue failed or cancelled jobs again, at the step where they ended."""
    from service import job_changes

    settings = settings_of(ctx)
    with open_database(settings) as database:
        _show(job_changes.retry(database, ids or [], label=label, code=code), "queued again", settings, json)
    return 0


def approve(ctx: typer.Context, ids: Targets, json: Json = False) -> int:
    """Let held jobs go on."""
    from service import job_changes

    settings = settings_of(ctx)
    with open_database(settings) as database:
        _show(job_changes.approve(database, ids, by=settings.owner), "approved", settings, json)
    return 0


def reject(ctx: typer.Context, ids: Targets, json: Json = False) -> int:
    """Block held jobs."""
    from service import job_changes

    settings = settings_of(ctx)
    with open_database(settings) as database:
        _show(job_changes.reject(database, ids, by=settings.owner), "rejected", settings, json)
    return 0


def _show(view: ChangedView, word: str, settings: Settings, json: bool) -> None:
    if json:
        output.as_json(view)
        return
    output.line(f"{len(view.changed)} jobs {word}")
    if view.unchanged:
        more = " …" if len(view.unchanged) > 10 else ""
        output.notice(f"it does not apply to {', '.join(view.unchanged[:10])}{more}")
    if settings.solo and view.changed and word in ("queued again", "approved"):
        output.line("next: vgen run")


def rerun(
    ctx: typer.Context,
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="Job ids or sidecar files (.json) of clips.")
    ],
    name: Annotated[str | None, typer.Option("--name", help="Name of the new batch.")] = None,
    owner: Annotated[
        str | None, typer.Option("--owner", callback=checked_owner, help="The owner of the batch.")
    ] = None,
    json: Json = False,
) -> int:
    """Make clips once more, exactly as specified, as a new batch: same seed, enhanced prompt pinned."""
    from cli.batches.stored import print_stored
    from cli.jobs import imports
    from service.rerun import store_again

    settings = settings_of(ctx)
    with open_database(settings, upgrade=True) as database:
        inputs = imports.stored_inputs(settings)
        originals = [_source(database, settings, source, inputs) for source in sources]
        stored = store_again(
            [(_encodable(source), *original) for source, original in zip(sources, originals, strict=True)],
            settings=settings,
            database=database,
            inputs=inputs.stored,
            name=name or f"rerun-{_encodable(Path(sources[0]).stem[:40])}",
            owner=owner,
        )
        summary = f"{stored.total} jobs stored"
        print_stored(stored, summary, originals[0][1], settings=settings, database=database, json=json)
    return 0


def _encodable(text: str) -> str:
    """A file's name as UTF-8 has it."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _source(database: Database, settings: Settings, source: str, inputs: StoredInputs) -> tuple[JobSpec, BatchOptions]:
    if source.endswith(".json") or "/" in source:
        from cli.jobs import imports

        imported, options = imports.of_sidecar(Path(source), settings, inputs)
        return imported.spec, options
    from service.rerun import as_made

    return as_made(database, source)
