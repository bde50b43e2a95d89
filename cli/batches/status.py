"""`vgen status`, `vgen list` and `vgen show`: the progress of batches and jobs."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from cli import completion, output, times
from cli.batches import batch_table, follow, forecast, reasons
from cli.context import open_database, settings_of, where
from cli.options import BatchArgument, Json, checked_owner
from db.clips import batches, jobs, lookup
from db.reading.reasons import Needs
from db.session import Database
from pipeline.errors import InputError, NotFoundError, Problem
from pipeline.outputs import ScreenOutput
from pipeline.settings import Settings
from pipeline.states import JobState, Stage
from service import input_notes
from service.status import job_detail, status_of
from service.views.batches import BatchListView, BatchView, JobListView, StatusView, batch_view
from service.views.jobs import JobDetailView, JobView, part_of, text_sentences
from service.waiting import job_views, with_reasons


def status(ctx: typer.Context, batch: BatchArgument = "latest", json: Json = False) -> int:
    """Show a batch's progress: jobs by state, what runs, what failed."""
    settings = settings_of(ctx)
    with open_database(settings) as database:
        view = status_view(database, settings, batch)
    if json:
        output.as_json(view)
        return 0
    output.line(batch_table.summary(view.batch))
    output.facts(
        (
            ("file", view.batch.source),
            ("owner", view.batch.owner),
            ("submitted", times.shown(view.batch.created_at)),
            ("workers", len(view.workers)),
            ("paused queues", ", ".join(view.paused_queues) or None),
            *limit_facts(view),
            ("exit code", view.batch.exit_code),
        )
    )
    for text in (*reasons.of_waits(view.waiting), *forecast.sentences(view.batch, view.outlook, view.waiting)):
        output.line(text)
    if view.running:
        rows = [
            (step.job_id, step.stage, step.part, follow.doing(step), f"{step.step}/{step.steps}", step.worker)
            for step in view.running
        ]
        output.table(("job", "stage", "segment", "phase", "step", "worker"), rows)
    show_scores(view)
    if view.failed:
        output.table(
            ("job", "line", "state", "error", "message"),
            [(job.id, job.line, job.state, job.error_code, job.error) for job in view.failed],
        )
    if view.batch.counts[JobState.FAILED]:
        output.line(f"after you have removed the cause: `vgen retry {view.batch.id}`")
    return 0


def show_scores(view: StatusView) -> None:
    """The batch's scores, where it has any, and how many clips were made again."""
    clips = sum(jobs for roll, jobs in view.rolls.items() if roll > 1)
    more = sum((roll - 1) * jobs for roll, jobs in view.rolls.items())
    if clips:
        output.line(f"the gate rejected {clips} clips, for which {more} more rolls were started")
    if view.scores:
        output.table(
            ("metric", "scored", "not scored", "mean", "failed"),
            [
                (
                    name,
                    score.scored,
                    score.not_scored,
                    None if score.mean is None else f"{score.mean:.6g}",
                    score.failed,
                )
                for name, score in view.scores.items()
            ],
        )


def limit_facts(view: StatusView) -> list[tuple[str, object]]:
    """Return the GPU time used, and the batch's limits."""
    batch = view.batch
    hours = "" if batch.max_gpu_hours is None else f" of {batch.max_gpu_hours * 3600:g}"
    most = "" if batch.max_cost is None else f" of {batch.max_cost:g}"
    return [
        ("GPU seconds", f"{view.gpu_seconds:.1f}{hours}"),
        ("cost", None if view.cost is None else f"{view.cost:.4g}{most}"),
        ("segments to generate", view.outlook.segments_left or None),
        ("deadline", times.shown(batch.deadline_at)),
        ("expected", None if (end := view.outlook.expected_at) is None or _is_blocked(view) else times.left(end)),
    ]


def _is_blocked(view: StatusView) -> bool:
    """Return whether something has to happen first: then nobody knows when it ends."""
    return any(wait.reason.needs != Needs.NOTHING for wait in view.waiting)


def status_view(database: Database, settings: Settings, batch_id: str) -> StatusView:
    with database.reading() as session:
        return status_of(session, batches.get(session, batch_id), settings)


def list_(
    ctx: typer.Context,
    batch: Annotated[
        str | None, typer.Argument(metavar="[BATCH]", help="List this batch's jobs; without it, the batches.")
    ] = None,
    state: Annotated[list[str] | None, typer.Option("--state", help="Only jobs in this state; repeatable.")] = None,
    owner: Annotated[
        str | None, typer.Option("--owner", callback=checked_owner, help="Only this owner's batches.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The most to show.")] = 50,
    json: Json = False,
) -> int:
    """List batches, newest first; or the jobs of one."""
    settings = settings_of(ctx)
    if batch is None and state:
        raise InputError([Problem("needs a BATCH: batches have no state", field="--state")])
    if batch is not None and owner:
        raise InputError([Problem("lists batches, not the jobs of one", field="--owner")])
    if batch is not None:
        return _list_jobs(settings, batch, states_of(state or []), limit, json)
    return _list_batches(settings, owner, limit, json)


def states_of(names: list[str]) -> list[JobState]:
    """Return the states of these names. Raises InputError for a name that is not a state."""
    states = [state.value for state in JobState]
    wrong = [name for name in names if name not in states]
    if wrong:
        raise InputError(
            [Problem(f"{name!r} is not a state; known: {', '.join(states)}", field="--state") for name in wrong]
        )
    return [JobState(name) for name in names]


def _list_batches(settings: Settings, owner: str | None, limit: int, json: bool) -> int:
    try:
        with open_database(settings) as database, database.reading() as session:
            rows = batches.recent(session, limit=limit + 1, owner=owner)
            counts = batches.counts(session, [row.id for row in rows])
            views = [batch_view(row, counts[row.id]) for row in rows[:limit]]
            shown = with_reasons(session, rows[:limit], views, settings)
    except NotFoundError:  # a home without a database has no batches, and that is no error
        rows, shown = [], []
    view = BatchListView(batches=shown, has_more=len(rows) > limit)
    if json:
        output.as_json(view)
        return 0
    if not view.batches:
        output.notice(f"no batches{f' of {owner}' if owner else ''} (looked in {where(settings)})")
        return 0
    output.table(
        ("batch", "name", "owner", "jobs", "done", "failed", "held", "cancelled", "submitted", "note"),
        [
            (
                row.id,
                row.name,
                row.owner,
                row.total,
                row.counts["succeeded"],
                row.counts["failed"] + row.counts["blocked"],
                row.counts["held"],
                row.counts["cancelled"],
                times.shown(row.created_at),
                _note(row),
            )
            for row in view.batches
        ],
    )
    return 0


def _note(batch: BatchView) -> str:
    """Return what stops the batch, or what most of its jobs wait for."""
    if batch.reason is not None and batch.reason.needs != Needs.NOTHING:
        return reasons.sentence(batch.reason)
    return ", ".join(batch_table.notes(batch)) or ("" if batch.reason is None else reasons.sentence(batch.reason))


def _list_jobs(settings: Settings, batch_id: str, states: list[JobState], limit: int, json: bool) -> int:
    with open_database(settings) as database, database.reading() as session:
        batch = batches.get(session, batch_id)
        rows = batches.job_rows(session, batch.id, states=states, limit=limit + 1)
        view = JobListView(
            batch=batch_view(batch, batches.counts(session, [batch.id])[batch.id]),
            jobs=job_views(session, rows[:limit], settings),
            has_more=len(rows) > limit,
        )
    if json:
        output.as_json(view)
        return 0
    output.table(
        ("job", "line", "seed", "state", "prompt", "reason"),
        [(job.id, job.line, job.seed, job.state, job.prompt, _reason(job)) for job in view.jobs],
    )
    if view.has_more:
        output.notice(f"at most {limit} jobs are shown; --limit shows more")
    return 0


def _reason(job: JobView) -> str:
    """Return why the job waits, or why it has ended without a clip."""
    if job.reason is not None:
        return reasons.sentence(job.reason)
    return f"{job.error_code}: {job.error or ''}" if job.error_code else ""


def show(
    ctx: typer.Context,
    job: Annotated[
        str,
        typer.Argument(
            metavar="ID", help="A job's id or custom_id, or a batch's id.", autocompletion=completion.targets_here
        ),
    ],
    json: Json = False,
) -> int:
    """Show everything about a job: specification, steps, attempts, files, events."""
    settings = settings_of(ctx)
    with open_database(settings) as database, database.reading() as session:
        target = lookup.target_named(session, job)
        view = None if target.job_id is None else job_detail(session, jobs.get(session, target.job_id), settings)
    if view is None:
        return status(ctx, target.batch_id, json)
    if json:
        output.as_json(view)
    else:
        _show_job(view)
    return 0


def _show_job(view: JobDetailView) -> None:
    output.facts((("job", view.job.id), ("state", view.job.state), ("line", view.job.line)))
    finished = times.shown(view.job.finished_at)
    output.facts((("page", view.url), ("in Flower", view.task_url)))
    output.facts((("error", view.job.error_code), ("message", view.job.error), ("finished", finished)))
    if view.job.reason is not None:
        output.line(reasons.sentence(view.job.reason))
    output.facts([(name, value) for name, value in flat(view.spec) if name != "random_weights"])
    for text in input_notes.of_spec(view.spec):
        output.line(text)
    if view.prompt_used not in (None, view.job.prompt):
        output.facts((("prompt used", view.prompt_used),))
    screened = (ScreenOutput.from_row(step.output) for step in view.steps if step.stage == Stage.SCREEN)
    if (screen := next(filter(None, screened), None)) is not None:
        verdict = screen.decision if screen.screened else "not screened"
        output.facts((("screening", f"{verdict}: {screen.reason}"),))
    for sentence in text_sentences(view):
        output.line(sentence)
    if view.job.random_weights:
        output.line("The weights of this preset are random: the clip is not a picture of anything.")
    if len(view.rolls) > 1:
        rows = [(roll.roll, roll.seed, roll.accepted, roll.reason) for roll in view.rolls]
        output.table(("roll", "seed", "accepted", "rejected for"), rows)
    if view.scores:
        output.table(
            ("roll", "metric", "score", "passed", "not scored for"),
            [(score.roll, score.metric, score.score, score.passed, score.reason) for score in view.scores],
        )
    _show_segments(view)
    if view.attempts:
        parts = [
            "" if attempt.segment is None else part_of(attempt.segment, len(view.segments)) for attempt in view.attempts
        ]
        output.table(
            ("stage", "segment", "attempt", "outcome", "worker", "started", "ended", "error"),
            [
                (
                    a.stage,
                    part,
                    a.attempt,
                    a.outcome,
                    a.worker,
                    times.shown(a.started_at),
                    times.shown(a.ended_at),
                    a.error,
                )
                for a, part in zip(view.attempts, parts, strict=True)
            ],
        )
    else:
        output.table(("stage", "state", "attempt"), [(step.stage, step.state, step.attempt) for step in view.steps])
    if view.files:
        output.table(("file", "bytes", "sha256", "key"), [(f.kind, f.size, f.sha256, f.key) for f in view.files])


def flat(fields: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, object]]:
    """Return the fields of a specification that say something, for a table: ``a.b`` for those within another."""
    for name, value in fields.items():
        path = f"{within}.{name}" if within else name
        if isinstance(value, Mapping):
            yield from flat(value, path)
        elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            for number, item in enumerate(value, start=1):
                yield from flat(item if isinstance(item, Mapping) else {"": item}, f"{path}[{number}]")
        elif value is not None and value is not False and value != []:
            yield path, ", ".join(map(str, value)) if isinstance(value, list) else value


def _show_segments(view: JobDetailView) -> None:
    """Print the progress of each segment of a clip that has several."""
    if len(view.segments) < 2:
        return
    generated = sum(segment.generate == "done" for segment in view.segments)
    output.line(f"{generated} of {len(view.segments)} segments generated")
    output.table(
        ("segment", "generate", "encode", "frames", "prompt"),
        [
            (segment.segment + 1, segment.generate, segment.encode, segment.num_frames, segment.prompt)
            for segment in view.segments
        ],
    )
