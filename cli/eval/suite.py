"""`vgen eval suite`, `runs` and `scores`: submit a suite as a batch that is scored as its clips are made."""

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import output
from cli.batches import next_step, watch, work
from cli.context import open_database, settings_of
from cli.options import BatchChoices, FieldOptions, Json, takes
from db.evals import runs as evals
from db.evals import score_steps
from db.evals.clips import REFERENCE
from db.evals.planning import start_run
from db.models import EvalRun
from db.session import Database
from pipeline.errors import InputError, Problem
from pipeline.prompts import Submission
from pipeline.prompts.scoring import split_names
from pipeline.scoring import gate
from pipeline.scoring import suite as suites
from pipeline.scoring.score_file import write_scores
from pipeline.scoring.suite import Suite
from pipeline.scoring.suite_jobs import submission_of
from pipeline.scoring.vbench import DIMENSIONS
from pipeline.settings import Settings
from pipeline.states import EvalState
from service import submission
from service.exit_codes import ExitCode
from service.views import evals as views
from service.views.base import when, when_if_set

SEEDS = "1-5"
"""VBench's five clips a prompt."""
Own = Annotated[bool, typer.Option("--own", help="Use vgen's own suite of eighty prompts.")]
Metrics = Annotated[str, typer.Option("--metrics", help="Metrics and groups, separated by commas.")]
Dimensions = Annotated[
    list[str] | None, typer.Option("--dimension", help="Only entries of this VBench dimension; repeatable.")
]


@takes(fields=FieldOptions)
def suite(
    ctx: typer.Context,
    fields: FieldOptions,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="A suite in the format of VBench_full_info.json; default: VBench's own."),
    ] = None,
    own: Own = False,
    dimension: Dimensions = None,
    metrics: Metrics = "vbench",
    name: Annotated[str | None, typer.Option("--name", help="Name of the batch; default: the file's name.")] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Make the clips again even if the same suite was submitted before.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until all clips are scored; in solo mode, make and score them.")
    ] = False,
    write: Annotated[Path | None, typer.Option("--output", help="With --wait: write the scores to this file.")] = None,
    json: Json = False,
) -> int:
    """Submit a suite as a batch that is scored as its clips are made. With --wait, exit with 3 if one is missing."""
    settings = settings_of(ctx)
    parsed = read(file, own, dimension or [])
    with open_database(settings, upgrade=True) as database:
        run_id, batch_id = submit(
            parsed, fields, metrics, settings=settings, database=database, name=name, again=again, kind="suite"
        )
        if not wait:
            return _show_run(database, run_id, json, hint=next_step.line(database, settings, batch_id))
        code = work_off(database, settings, batch_id)
        if code not in (ExitCode.DONE, ExitCode.INCOMPLETE):
            return code
        return _finish(database, run_id, write, json)


def read(file: Path | None, own: bool, dimensions: list[str]) -> Suite:
    """The suite, or those of its entries that are for one of the dimensions. Raises InputError, NotFoundError."""
    if own and file is not None:
        raise InputError([Problem("goes with no FILE", field="--own")])
    unknown = [name for name in dimensions if name not in DIMENSIONS]
    if unknown:
        problem = f"{unknown[0]!r} is not a VBench dimension: choose from {', '.join(DIMENSIONS)}"
        raise InputError([Problem(problem, field="--dimension")])
    path = suites.OWN_SUITE if own else suites.find_suite(file)
    parsed = suites.read_suite(path)
    entries = tuple(entry for entry in parsed.entries if not dimensions or set(entry.dimensions) & set(dimensions))
    if not entries:
        raise InputError([Problem(f"{path} has no entry for {', '.join(dimensions)}", field="--dimension")])
    return dataclasses.replace(parsed, entries=entries)


def submit(
    suite: Suite,
    fields: FieldOptions,
    metrics: str,
    *,
    settings: Settings,
    database: Database,
    name: str | None,
    again: bool,
    kind: str,
    key: str | None = None,
) -> tuple[str, str]:
    """Store the suite as a batch, and an evaluation run over it: (run, batch). Repeated, it adds nothing."""
    names = split_names(metrics)
    gate.check_metrics(names, field="--metrics")
    choices = BatchChoices(again=again, key=key)
    parsed = _parsed(suite, fields, settings)
    options = submission.batch_options(choices, settings)
    stored = submission.store(
        parsed, options, settings=settings, database=database, name=name or kind, key=key, again=again
    )
    with database.transaction() as session:
        runs = evals.runs(session, batch_id=stored.batch_id, kind=kind)
        description = {"sha256": suite.sha256, "entries": len(suite.entries), "standard": suite.standard}
        run_id = (
            runs[0].id
            if runs and runs[0].state is not EvalState.INCOMPLETE  # else its clips may be made after a retry
            else start_run(session, stored.batch_id, kind=kind, metrics=names, suite=description)
        )
    return run_id, stored.batch_id


def _parsed(suite: Suite, fields: FieldOptions, settings: Settings) -> Submission:
    overrides: dict[str, Any] = fields.overrides()
    if "labels" in overrides:
        raise InputError([Problem("a suite's jobs have labels of their own", field="--label")])
    if "seed" not in overrides and "seeds" not in overrides:
        overrides["seeds"] = SEEDS
    return submission_of(suite, overrides, settings)


def work_off(database: Database, settings: Settings, batch_id: str) -> int:
    """Until the batch has ended: in solo mode by working, else by watching."""
    with contextlib.redirect_stdout(sys.stderr):  # the result is the run's, not the batch's
        if settings.solo:
            return work.off(database, settings, [batch_id])
        return watch.until_finished(database, settings, [batch_id], json=False)


def _finish(database: Database, run_id: str, write: Path | None, json: bool) -> int:
    with database.transaction() as session:
        evals.settle(session)  # whoever comes first: the dispatcher does it too
    with database.reading() as session:
        run = evals.get_run(session, run_id)
        if write is not None:
            write_scores(write, evals.records_of(session, run.batch_id))
    _show_run(database, run_id, json)
    return ExitCode.DONE if run.state is EvalState.COMPLETE else ExitCode.INCOMPLETE


def _show_run(database: Database, run_id: str, json: bool, *, hint: str | None = None) -> int:
    with database.reading() as session:
        run = evals.get_run(session, run_id)
        view = run_view(run, evals.means(session, run.batch_id), score_steps.progress(session, run_id))
    if json:
        output.as_json(view)
        return ExitCode.DONE
    output.facts(
        [("run", view.id), ("batch", view.batch_id), ("state", view.state), ("clips", view.expected)]
        + [(name.replace("_", " "), value) for name, value in view.summary.items() if isinstance(value, int | str)]
        + [(f"steps of {family}", _counted(states)) for family, states in view.steps.items()]
    )
    if view.scores:
        output.table(*score_table(view))
    verdict = view.summary.get(evals.VERDICT, {})
    output.facts([(f"verdict: {name}", verdict.get(name)) for name in ("state", "meaning", "advice") if verdict])
    if accepted := verdict.get(evals.ACCEPTED):
        output.facts([("accepted by", accepted["by"]), ("accepted because", accepted["reason"])])
    for sentence in (view.suite or {}).get(evals.DETECTABLE, ()):
        output.notice(sentence)
    if hint is not None:
        output.line(hint)
    return ExitCode.DONE


def score_table(view: views.EvalRunStateView) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """The columns and rows of a run's scores by metric."""
    rows = [(score.metric, score.scored, score.not_scored, score.mean, score.failed) for score in view.scores]
    return ("metric", "scored", "not scored", "mean", "failed"), rows


def _counted(states: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in states.items())


def run_view(
    run: EvalRun, means: dict[str, tuple[int, int, float | None, int]], steps: dict[str, dict[str, int]] | None = None
) -> views.EvalRunStateView:
    return views.EvalRunStateView.of(
        run,
        state=run.state.value,
        summary=run.summary or {},
        steps=steps or {},
        created_at=when(run.created_at),
        finished_at=when_if_set(run.finished_at),
        scores=[
            views.MeanView(metric=metric, scored=scored, not_scored=missing, mean=mean, failed=failed)
            for metric, (scored, missing, mean, failed) in means.items()
        ],
    )


def runs(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The most to show.")] = 20,
    json: Json = False,
) -> int:
    """List evaluation runs, newest first, with the verdicts of nightly ones.

    Where the newest nightly run is the first of its kind, what its suite can detect is said too.
    """
    with open_database(settings_of(ctx)) as database:
        with database.transaction() as session:
            evals.settle(session)
        with database.reading() as session:
            run_views = [run_view(run, {}) for run in evals.runs(session, limit=limit)]
    if json:
        output.as_json(views.EvalRunsView(runs=run_views))
        return ExitCode.DONE
    output.table(
        ("run", "batch", "kind", "state", "why", "verdict", "clips", "metrics", "started"),
        [
            (
                *(
                    view.id,
                    view.batch_id,
                    view.kind,
                    view.state,
                    ", ".join(evals.shortcomings(view.summary)),
                    view.summary.get(evals.VERDICT, {}).get("state"),
                ),
                *(view.expected, " ".join(view.metrics), view.created_at),
            )
            for view in run_views
        ],
    )
    first = next((view for view in run_views if evals.DETECTABLE in (view.suite or {})), None)
    if first is not None and not (first.suite or {}).get(REFERENCE):
        for sentence in (first.suite or {})[evals.DETECTABLE]:
            output.notice(f"{first.id}: {sentence}")
    return ExitCode.DONE


def scores(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="An evaluation run's id.")],
    write: Annotated[
        Path | None, typer.Option("--output", help="Write the scores to this file, as a JSON list.")
    ] = None,
    json: Json = False,
) -> int:
    """Show a run's scores, or write them as a score file. Exits with 3 unless the run is complete."""
    with open_database(settings_of(ctx)) as database:
        return _finish(database, run, write, json)
