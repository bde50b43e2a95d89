"""`vgen submit` and `vgen run`: store a prompt file as a batch; `run` also makes its clips in solo mode."""

from typing import Annotated

import typer

from cli import output
from cli.batches import batch_table, broker, dry_run, forecast, gallery, next_step, prompt_file, waiting, work
from cli.context import open_database, settings_of
from cli.options import BatchChoices, FieldOptions, Json, PromptsArgument, Wait, takes
from db.clips import batches
from db.session import Database
from pipeline import extras
from pipeline.errors import InputError, Problem
from pipeline.settings import Settings
from service import advice, submission
from service.forecast import of_batch
from service.views.batches import BatchView
from service.views.submissions import SubmittedView

DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the jobs and what they need; store nothing.")]
All = Annotated[bool, typer.Option("--all", help="With --dry-run: show every job, not only the first ones.")]


@takes(fields=FieldOptions, choices=BatchChoices)
def submit(
    ctx: typer.Context,
    file: PromptsArgument,
    fields: FieldOptions,
    choices: BatchChoices,
    plan_only: DryRun = False,
    all_jobs: All = False,
    wait: Wait = False,
    json: Json = False,
) -> int:
    """Store a prompt file as a batch; repeating it adds nothing."""
    settings = settings_of(ctx)
    dry_run.require(plan_only, all_jobs)
    prepared = prompt_file.prepare(file, fields, choices, settings)
    if plan_only:
        return dry_run.show(prepared, settings, all_jobs=all_jobs, json=json)
    with open_database(settings, upgrade=True) as database:
        stored = submission.submit(prepared, settings=settings, database=database, name=prompt_file.name_of(file))
        notices = [*_outlook(stored.batch, settings, database), *stored.notices]
        for text in notices:
            output.notice(text)
        if wait:
            return waiting.until_done(database, settings, [stored.batch.id], json=json)
        if json:
            output.as_json(stored.model_copy(update={"notices": notices}))
        else:
            output.line(_sentence(stored))
            output.line(next_step.line(database, settings, stored.batch.id))
    return 0


@takes(fields=FieldOptions, choices=BatchChoices)
def run(
    ctx: typer.Context,
    fields: FieldOptions,
    choices: BatchChoices,
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]",
            help="A prompt file; - for standard input; or one prompt, "
            "quoted. Without it, only the jobs that wait are processed.",
        ),
    ] = None,
    plan_only: DryRun = False,
    all_jobs: All = False,
) -> int:
    """Make the clips of FILE on this machine, and of everything else that waits."""
    settings = settings_of(ctx)
    if not settings.solo:
        raise InputError(
            [Problem("`vgen run` works in solo mode only, and VGEN_BROKER_URL is set: use `vgen submit FILE --wait`")]
        )
    dry_run.require(plan_only, all_jobs)
    if file is None and (fields.overrides() or choices != BatchChoices() or plan_only):
        raise InputError([Problem("options of jobs and batches need a FILE")])
    prepared = None if file is None else prompt_file.prepare(file, fields, choices, settings)
    if prepared is not None and plan_only:
        return dry_run.show(prepared, settings, all_jobs=all_jobs, json=False)
    extras.require(extras.GENERATE, purpose="what `vgen run` makes clips with")
    if prepared is not None:
        advice.refuse_without_models(submission.presets_of(prepared.jobs), settings)
    with open_database(settings, upgrade=True) as database:
        if prepared is None:
            return work.off(database, settings)
        assert file is not None
        stored = submission.submit(prepared, settings=settings, database=database, name=prompt_file.name_of(file))
        for text in (*stored.notices, _sentence(stored)):
            output.notice(text)
        batch_id = stored.batch.id
        if stored.batch.finished:
            output.notice("it is finished; `--again` makes a new batch of it")
            code = batch_table.show(database, settings, batch_id)
            gallery.show(database, settings, [batch_id])
            return code
        return work.off(database, settings, [batch_id])


def _sentence(stored: SubmittedView) -> str:
    jobs = output.jobs(stored.batch.total)
    if stored.created:
        return f"batch {stored.batch.id}: {jobs} stored"
    return f"batch {stored.batch.id}: submitted before with {jobs}; nothing was added"


def _outlook(batch: BatchView, settings: Settings, database: Database) -> list[str]:
    """What may keep a stored batch from going on, and its forecast: it is stored all the same."""
    notices = []
    if not settings.solo and (problem := broker.problem(settings)) is not None:
        notices.append(f"{problem}; the batch is stored and starts when the broker is back")
    with database.reading() as session:
        view = of_batch(session, batches.get(session, batch.id), settings)
    return notices + forecast.sentences(batch, view.model_copy(update={"stuck": []}))


@takes(fields=FieldOptions, choices=BatchChoices)
def plan(
    ctx: typer.Context,
    file: PromptsArgument,
    fields: FieldOptions,
    choices: BatchChoices,
    all_jobs: All = False,
    json: Json = False,
) -> int:
    """Show the jobs of a file, and estimate GPU hours, cost, bytes and finish time; store nothing."""
    settings = settings_of(ctx)
    prepared = prompt_file.prepare(file, fields, choices, settings)
    return dry_run.show(prepared, settings, all_jobs=all_jobs, json=json)
