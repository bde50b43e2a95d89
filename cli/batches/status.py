"""`vgen status`, `vgen list` and `vgen show`: where batches and jobs stand."""

from typing import Annotated

import typer
from sqlalchemy.orm import Session

from cli import output
from cli.batches import batch_table, forecast
from cli.context import open_database, settings_of
from cli.options import BatchArgument, Json, checked_owner
from db import events, workers
from db.clips import batches, jobs, spending
from db.evals import runs
from db.queue import pauses
from db.reading import history
from db.scheduling import capacity
from db.session import Database
from pipeline.errors import InputError, NotFoundError, Problem
from pipeline.outputs import ScreenOutput
from pipeline.settings import Settings
from pipeline.spec import JobSpec
from pipeline.states import JobState, Stage
from service import input_notes
from service.views.base import when
from service.views.batches import BatchListView, JobListView, ScoreSummaryView, StatusView, batch_view
from service.views.clips import file_views
from service.views.events import event_view
from service.views.jobs import (
    JobDetailView,
    attempt_view,
    job_view,
    part_of,
    roll_views,
    running_view,
    score_view,
    segment_views,
    step_view,
    text_sentences,
)
from service.views.workers import WorkerView

_FAILED_SHOWN = 10


def status(ctx: typer.Context, batch: BatchArgument = "latest", json: Json = False) -> int:
    """Where a batch stands: jobs by state, what runs, what failed."""
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
            ("submitted", view.batch.created_at),
            ("workers", len(view.workers)),
            ("paused queues", ", ".join(view.paused_queues) or None),
            *limit_facts(view),
            ("exit code", view.batch.exit_code),
        )
    )
    for text in forecast.sentences(view.batch, view.outlook):
        output.line(text)
    if view.running:
        rows = [
            (step.job_id, step.stage, step.part, step.phase, f"{step.step}/{step.steps}", step.worker)
            for step in view.running
        ]
        output.table(("job", "stage", "segment", "phase", "step", "worker"), rows)
    show_scores(view)
    if view.failed:
        output.table(
            ("job", "line", "state", "error", "message"),
            [(job.id, job.line, job.state, job.error_code, job.error) for job in view.failed],
        )
    return 0


def show_scores(view: StatusView) -> None:
    """The batch's scores, where it has any, and how many clips were made again."""
    again = sum(jobs for roll, jobs in view.rolls.items() if roll > 1)
    if again:
        output.line(f"{again} clips were turned down by the gate and made again")
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
        ("deadline", batch.deadline_at),
        ("expected", view.outlook.expected_at),
    ]


def status_view(database: Database, settings: Settings, batch_id: str) -> StatusView:
    with database.reading() as session:
        batch = batches.get(session, batch_id)
        # A batch with a budget knows what it used; of the others the attempts are added up, at the prices of now.
        limited = batch.max_gpu_ms is not None or batch.max_cost is not None
        prices = (batch.prices or {}) if limited else settings.prices
        used = spending.usage(session, batch.id, prices)
        paused = pauses.paused_queues(session)
        failed = batches.job_rows(session, batch.id, states=(JobState.FAILED, JobState.BLOCKED), limit=_FAILED_SHOWN)
        return StatusView(
            batch=batch_view(batch, batches.counts(session, [batch.id])[batch.id]),
            outlook=forecast.of_batch(session, batch, settings),
            gpu_seconds=used.gpu_ms / 1000,
            cost=used.cost,
            paused_queues=list(paused),
            running=[running_view(*step) for step in batches.running_steps(session, batch.id)],
            rolls=runs.rolls_of_batch(session, batch.id),
            scores={
                metric: ScoreSummaryView(scored=scored, not_scored=missing, mean=mean, failed=failed)
                for metric, (scored, missing, mean, failed) in runs.means(session, batch.id).items()
            },
            errors=dict(history.failures(session, batch.id)),
            failed=[job_view(job) for job in failed],
            workers=worker_views(session),
        )


def worker_views(session: Session) -> list[WorkerView]:
    """Return every live worker."""
    paused, now = pauses.paused_queues(session), workers.now(session)
    return [
        WorkerView.of(
            worker,
            ready=not worker.draining and (worker.gpu_type is None or capacity.ready(worker, now)),
            paused_queues=[queue for queue in worker.queues if pauses.is_paused(queue, paused)],
            seen_at=when(worker.seen_at),
        )
        for worker in workers.alive(session)
    ]


def list_(
    ctx: typer.Context,
    batch: Annotated[
        str | None, typer.Argument(metavar="[BATCH]", help="List this batch's jobs; without it, the batches.")
    ] = None,
    state: Annotated[list[str] | None, typer.Option("--state", help="Only jobs in this state; repeatable.")] = None,
    owner: Annotated[
        str | None, typer.Option("--owner", callback=checked_owner, help="Only this owner's batches.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 50,
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
            rows = batches.recent(session, limit=limit, owner=owner)
            counts = batches.counts(session, [row.id for row in rows])
    except NotFoundError:  # a home without a database has no batches, and that is no error
        rows, counts = [], {}
    view = BatchListView(batches=[batch_view(row, counts[row.id]) for row in rows])
    if json:
        output.as_json(view)
        return 0
    if not view.batches:
        output.notice("no batches")
        return 0
    output.table(
        ("batch", "name", "owner", "jobs", "done", "failed", "submitted", "note"),
        [
            (
                row.id,
                row.name,
                row.owner,
                row.total,
                row.counts["succeeded"],
                row.counts["failed"] + row.counts["blocked"],
                row.created_at,
                ", ".join(batch_table.notes(row)),
            )
            for row in view.batches
        ],
    )
    return 0


def _list_jobs(settings: Settings, batch_id: str, states: list[JobState], limit: int, json: bool) -> int:
    with open_database(settings) as database, database.reading() as session:
        batch = batches.get(session, batch_id)
        rows = batches.job_rows(session, batch.id, states=states, limit=limit)
        view = JobListView(
            batch=batch_view(batch, batches.counts(session, [batch.id])[batch.id]), jobs=[job_view(row) for row in rows]
        )
    if json:
        output.as_json(view)
        return 0
    output.table(
        ("job", "line", "seed", "state", "prompt"),
        [(job.id, job.line, job.seed, job.state, job.prompt) for job in view.jobs],
    )
    if len(view.jobs) == limit < view.batch.total:
        output.notice(f"at most {limit} jobs are shown; --limit shows more")
    return 0


def show(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(metavar="ID", help="A job's id, or a batch's.")],
    json: Json = False,
) -> int:
    """All that is known of a job: specification, steps, attempts, files, events."""
    if "-" not in job:
        return status(ctx, job, json)
    settings = settings_of(ctx)
    with open_database(settings) as database, database.reading() as session:
        row = jobs.get(session, job)
        steps = history.steps_of_job(session, row.id)
        spec, segment_of = JobSpec.model_validate(row.spec), {step.id: step.segment for step in steps}
        view = JobDetailView(
            job=job_view(row),
            spec=spec.model_dump(mode="json"),
            prompt_used=history.prompts_used(session, [row.id]).get(row.id),
            rolls=roll_views(row, steps),
            scores=[score_view(score) for score in runs.of_jobs(session, [row.id]).get(row.id, [])],
            segments=segment_views(row, spec, steps, history.segments_of_job(session, row)),
            steps=[step_view(step) for step in steps],
            attempts=[
                *(attempt_view(run, segment_of[run.step_id]) for run in history.attempts_of_job(session, row.id)),
                *(attempt_view(run, None) for run in history.scoring_attempts(session, row)),
            ],
            files=file_views(jobs.artifacts(session, [row.id]).get(row.id, {}), {}),
            events=[event_view(event) for event in events.of_job(session, row.id)],
        )
    if json:
        output.as_json(view)
    else:
        _show_job(view)
    return 0


def _show_job(view: JobDetailView) -> None:
    output.facts((("job", view.job.id), ("state", view.job.state), ("line", view.job.line)))
    output.facts((("error", view.job.error_code), ("message", view.job.error), ("finished", view.job.finished_at)))
    output.facts([(name, value) for name, value in view.spec.items() if value not in (None, [], {})])
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
                (a.stage, part, a.attempt, a.outcome, a.worker, a.started_at, a.ended_at, a.error)
                for a, part in zip(view.attempts, parts, strict=True)
            ],
        )
    else:
        output.table(("stage", "state", "attempt"), [(step.stage, step.state, step.attempt) for step in view.steps])
    if view.files:
        output.table(("file", "bytes", "sha256", "key"), [(f.kind, f.size, f.sha256, f.key) for f in view.files])


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
