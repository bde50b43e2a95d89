"""`vgen submit` and `vgen run`: a prompt file becomes a batch, and in solo mode the batch becomes clips."""

from typing import Annotated

import typer

from cli import output
from cli.batches import batch_table, broker, dry_run, forecast, gallery, next_step, prompt_file, reusing, waiting, work
from cli.context import open_database, settings_of
from cli.options import BatchChoices, FieldOptions, Json, PromptsArgument, Wait, takes
from db.clips import batches
from db.clips.batches import Limits, Submitted
from db.session import Database
from pipeline import extras
from pipeline.errors import InputError, Problem
from pipeline.prompts import Submission
from pipeline.settings import Settings
from pipeline.spec import BatchOptions
from service import advice, submission
from service.forecast import of_batch
from service.limits import limits_of
from service.views.batches import BatchView, batch_view
from service.views.submissions import SubmittedView

DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be made and what it needs; store nothing.")]
All = Annotated[bool, typer.Option("--all", help="With --dry-run: every job, not the first ones.")]


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
    parsed = prompt_file.read(file, fields, choices, settings)
    options = submission.batch_options(choices, settings, parsed.scoring)
    limited = limits_of(choices, settings, (job.spec.gpu for job in parsed.jobs))
    dry_run.require(plan_only, all_jobs)
    if plan_only:
        return dry_run.show(parsed, settings, all_jobs=all_jobs, json=json)
    with open_database(settings, upgrade=True) as database:
        wanted = reusing.only_new(parsed, options, choices, settings, database)
        stored = _store(file, wanted, options, choices, limited, settings, database)
        batch = _batch(database, stored.batch_id)
        notices = [
            *_unchanged_limits(choices, stored.created),
            *_notices(batch, settings, database),
            *submission.notices(parsed, options, settings),
        ]
        for text in notices:
            output.notice(text)
        if wait:
            return waiting.until_done(database, settings, [stored.batch_id], json=json)
        if json:
            output.as_json(SubmittedView(batch=batch, created=stored.created, notices=notices))
        else:
            _say_stored(batch, stored.created)
            output.line(next_step.line(database, settings, batch.id))
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
            help="A prompt file; - for standard input; or one prompt, quoted. Without it, what waits is worked off.",
        ),
    ] = None,
    plan_only: DryRun = False,
    all_jobs: All = False,
) -> int:
    """Solo mode: store FILE, then work off all that waits; so it also resumes."""
    settings = settings_of(ctx)
    if not settings.solo:
        raise InputError(
            [Problem("`vgen run` works in solo mode only, and VGEN_BROKER_URL is set: use `vgen submit FILE --wait`")]
        )
    parsed = None if file is None else prompt_file.read(file, fields, choices, settings)
    if parsed is None and (fields.overrides() or choices != BatchChoices() or plan_only):
        raise InputError([Problem("options of jobs and batches need a FILE")])
    options = submission.batch_options(choices, settings, parsed.scoring if parsed else None)
    dry_run.require(plan_only, all_jobs)
    if parsed is not None and plan_only:
        return dry_run.show(parsed, settings, all_jobs=all_jobs, json=False)
    extras.require(extras.GENERATE, purpose="what `vgen run` makes clips with")
    if parsed is not None:
        advice.refuse_without_models(submission.presets_of(parsed), settings)
    limited = limits_of(choices, settings, (job.spec.gpu for job in parsed.jobs) if parsed else ())
    with open_database(settings, upgrade=True) as database:
        batch_id = None
        if parsed is not None:
            assert file is not None
            wanted = reusing.only_new(parsed, options, choices, settings, database)
            stored = _store(file, wanted, options, choices, limited, settings, database)
            batch_id = stored.batch_id
            batch = _batch(database, batch_id)
            notices = submission.notices(parsed, options, settings)
            for text in (*_unchanged_limits(choices, stored.created), *notices):
                output.notice(text)
            _say_stored(batch, stored.created, to_stderr=True)
            if batch.finished:
                output.notice("it is finished; `--again` makes a new batch of it")
                code = batch_table.show(database, settings, batch_id)
                gallery.show(database, settings, [batch_id])
                return code
        return work.off(database, settings, [batch_id] if batch_id else [])


def _store(
    file: str,
    wanted: Submission | str,
    options: BatchOptions,
    choices: BatchChoices,
    limited: Limits,
    settings: Settings,
    database: Database,
) -> Submitted:
    """Store the submission; of an id, where everything is in that batch already, say what it is."""
    if isinstance(wanted, str):
        return Submitted(wanted, _batch(database, wanted).total, created=False)
    return submission.store(
        wanted,
        options,
        settings=settings,
        database=database,
        name=choices.name or prompt_file.name_of(file),
        owner=choices.owner,
        key=choices.key,
        again=choices.again,
        limits=limited,
        estimated=True,
    )


def _batch(database: Database, batch_id: str) -> BatchView:
    with database.reading() as session:
        row = batches.get(session, batch_id)
        return batch_view(row, batches.counts(session, [row.id])[row.id])


def _say_stored(batch: BatchView, created: bool, *, to_stderr: bool = False) -> None:
    say = output.notice if to_stderr else output.line
    if created:
        say(f"batch {batch.id}: {batch.total} jobs stored")
    else:
        say(f"batch {batch.id}: submitted before with {batch.total} jobs; nothing was added")


def _unchanged_limits(choices: BatchChoices, created: bool) -> list[str]:
    options = (choices.by, choices.max_gpu_hours, choices.max_cost)
    if created or options == (None, None, None):
        return []
    return ["submitted before: its deadline and budget stay as they were; `vgen budget` changes them"]


def _notices(batch: BatchView, settings: Settings, database: Database) -> list[str]:
    """Print what keeps a stored batch from going on, and its forecast: it is stored all the same."""
    notices = []
    if not settings.solo and (problem := broker.problem(settings)) is not None:
        notices.append(f"{problem}; the batch is stored and starts when the broker is back")
    with database.reading() as session:
        view = of_batch(session, batches.get(session, batch.id), settings)
    return notices + forecast.sentences(batch, view)


@takes(fields=FieldOptions, choices=BatchChoices)
def plan(
    ctx: typer.Context,
    file: PromptsArgument,
    fields: FieldOptions,
    choices: BatchChoices,
    all_jobs: All = False,
    json: Json = False,
) -> int:
    """Show what a file would make, and what it would take: GPU hours, cost, bytes, when it would be done."""
    settings = settings_of(ctx)
    return dry_run.show(prompt_file.read(file, fields, choices, settings), settings, all_jobs=all_jobs, json=json)
