"""`vgen eval nightly` runs the nightly evaluation at once; `vgen eval accept` makes a night the baseline."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cli import output
from cli.context import open_database, settings_of
from cli.eval.compare import MARGIN_HELP
from cli.eval.suite import run_view, score_table, work_off
from cli.options import FieldOptions, Json, takes
from db.evals import runs
from db.session import Database
from pipeline.errors import ConflictError, InputError, Problem
from pipeline.prompts.scoring import split_names
from pipeline.scoring.compare import read_margins
from pipeline.settings import Settings
from pipeline.states import EvalState
from pipeline.storage.base import Storage
from pipeline.wiring import make_storage
from service.exit_codes import ExitCode
from tasks.upkeep import nightly as work

_LINK_S = 7 * 86_400


@takes(fields=FieldOptions)
def nightly(
    ctx: typer.Context,
    fields: FieldOptions,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE]", help="A suite; default: the setting nightly.suite, else vgen's own of eighty prompts."
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            "--metrics", help="Metrics and groups, separated by commas; default: the setting nightly.metrics."
        ),
    ] = None,
    margin: Annotated[list[str] | None, typer.Option("--margin", metavar="NAME=VALUE", help=MARGIN_HELP)] = None,
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", metavar="RUN", help="Compare with this run instead of the nights that passed."),
    ] = None,
    repeat_seeds: Annotated[
        str | None,
        typer.Option("--repeat-seeds", help="Seeds with which a regression is repeated before it raises an alarm."),
    ] = None,
    json: Json = False,
) -> int:
    """Make and score the nightly suite, and compare it with the nights that passed. Exits with 3 unless it passes."""
    settings = settings_of(ctx)
    overrides = fields.overrides()
    if "labels" in overrides:
        raise InputError([Problem("a suite's jobs have labels of their own", field="--label")])
    plan = work.with_options(
        work.Plan.of_settings(settings),
        suite=file,
        metrics=split_names(metrics) if metrics is not None else None,
        margins=read_margins(margin, "--margin") if margin else None,
        baseline=baseline,
        repeat_seeds=repeat_seeds,
        fields=overrides,
    )
    with open_database(settings, upgrade=True) as database:
        run_id, batch_id = work.submit(database, settings, plan)
        if not work.has_baseline(database, run_id):
            for sentence in work.other_options(database, run_id):
                output.notice(sentence)
            if sentences := work.before_the_night(plan, settings):
                output.notice("What this suite can detect:")
            for sentence in sentences:
                output.notice(f"- {sentence}")
        if (code := _to_the_end(database, settings, run_id, batch_id)) is not None:
            return code
        storage = make_storage(settings)

        def judged(**options: bool) -> dict[str, Any]:
            return work.judge(database, storage, run_id, settings.serve.public_url, **options)

        verdict = judged()
        if verdict.get("rescore"):
            if (code := _rescored(database, settings, run_id)) is not None:
                return code
            verdict = judged()
        if work.repeat_due(database, run_id, verdict):
            try:
                repeat_id, batch_id = work.submit_repeat(database, settings, run_id)
            except (ConflictError, InputError) as error:
                output.notice(f"the night is judged without its second seeds: {error}")
                verdict = judged(repeat=False)
            else:
                output.notice(f"second seeds: run {repeat_id}")
                if (code := _to_the_end(database, settings, repeat_id, batch_id)) is not None:
                    return code
                verdict = judged()
        _show(database, storage, run_id, json)
    return ExitCode.DONE if verdict["passed"] else ExitCode.INCOMPLETE


def accept(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="The night, as `vgen eval runs` lists it.")],
    reason: Annotated[str | None, typer.Option("--reason", help="Why; it is kept with the verdict.")] = None,
    json: Json = False,
) -> int:
    """Accept a night whose change was wanted: it becomes the baseline of later nights."""
    settings = settings_of(ctx)
    with open_database(settings) as database:
        changed = work.accept(database, run, by=settings.owner, reason=reason)
        with database.reading() as session:
            row = runs.get_run(session, run)
            view = run_view(row, runs.means(session, row.batch_id))
    if json:
        output.as_json(view)
    else:
        already = "" if changed else " already"
        output.line(f"later nights are{already} compared with {run}, not with the nights before it")
    return ExitCode.DONE


def _rescored(database: Database, settings: Settings, run_id: str) -> int | None:
    """Have the nights before scored again by this night's scorer; the exit code where that has not ended."""
    for rescore_id, batch_id in work.submit_rescores(database, run_id):
        output.notice(f"an earlier night was scored by another scorer: run {rescore_id} scores its clips again")
        if (code := _to_the_end(database, settings, rescore_id, batch_id)) is not None:
            return code
    return None


def _to_the_end(database: Database, settings: Settings, run_id: str, batch_id: str) -> int | None:
    """Work or watch until the run's batch has ended; the exit code where it has not, as somebody interrupted it."""
    code = work_off(database, settings, batch_id)
    with database.transaction() as session:
        runs.settle(session)
        state = runs.get_run(session, run_id).state
    if state is not EvalState.OPEN:
        return None
    output.notice(f"run {run_id} is still open: the same command goes on with it")
    return code or ExitCode.INCOMPLETE


def _show(database: Database, storage: Storage, run_id: str, json: bool) -> None:
    with database.reading() as session:
        run = runs.get_run(session, run_id)
        view = run_view(run, runs.means(session, run.batch_id))
    if json:
        output.as_json(view)
        return
    verdict = view.summary[runs.VERDICT]
    output.facts(
        [("run", view.id), ("batch", view.batch_id), ("clips", view.expected)]
        + [("compared with", verdict["baseline"])]
        + [(name, verdict[name]) for name in ("state", "meaning", "advice")]
        + [("changed", "; ".join(verdict.get("changed", ())) or None)]
        + [("slower", "; ".join(verdict["slower"]) or None)]
        + [("accepted by", verdict.get(runs.ACCEPTED, {}).get("by"))]
        + [("scored again", ", ".join(one["run"] for one in verdict.get("rescored", ())) or None)]
    )
    output.table(*score_table(view))
    for key in verdict["reports"].values():
        output.line(storage.url(key, expires_s=_LINK_S))
