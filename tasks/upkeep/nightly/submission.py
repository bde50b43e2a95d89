"""A night begins: its suite becomes a batch under a key, and a run over it.

Each part may be asked for by anybody, any number of times: what is there already is gone on with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from db.clips import batches
from db.evals import runs
from db.evals.clips import REFERENCE
from db.evals.planning import start_run
from db.evals.runs import DETECTABLE
from db.session import Database
from pipeline.errors import ConflictError, InputError, Problem
from pipeline.prompts import Submission
from pipeline.scoring.suite import located
from pipeline.settings import Settings
from pipeline.spec import BatchOptions, EncodeOptions
from tasks.upkeep.nightly import rescoring
from tasks.upkeep.nightly.history import (
    KIND,
    REPEAT,
    complete_repeats,
    nights_alike,
    nights_before,
    nights_otherwise,
    nights_to_calibrate,
    passed_nights,
    repeats_of,
    verdict_of_run,
)
from tasks.upkeep.nightly.plan import Plan, before_the_night, check_margins, identity_of, scored_metrics, suite_of


def submit(database: Database, settings: Settings, plan: Plan, *, night: str | None = None) -> tuple[str, str]:
    """Store the suite as a batch, and open its run; (run, batch).

    With ``night`` there is one of that name, however often it is asked for. Without, the newest run of this plan that
    has no verdict yet is continued, with the margins and the second seeds of this plan; else a new one begins.

    Raises:
        InputError: a mistake in the plan or its suite, or a baseline that the night cannot be compared with.
        NotFoundError: no run has the baseline's id.
    """
    check_margins(plan)
    parsed, description = suite_of(plan, settings)
    identity = identity_of(plan, description)
    chosen = {"margins": dict(plan.margins), "repeat_seeds": plan.repeat_seeds}
    chosen[DETECTABLE] = before_the_night(plan, settings)
    description |= {
        "identity": identity,
        "metrics": plan.metrics,
        "baseline": plan.baseline,
        "suite_path": str(located(plan.suite)),
        **chosen,
    }
    with database.transaction() as session:
        earlier = nights_alike(session, identity)
        if night is None:
            for run in earlier:
                if not verdict_of_run(run) and (run.suite or {}).get("baseline") == plan.baseline:
                    run.suite = {**(run.suite or {}), **chosen}
                    return run.id, run.batch_id
        if plan.baseline is not None:
            _check_baseline(session, plan.baseline, description["sha256"])
        passed = passed_nights(session, list(reversed(earlier)), plan.baseline)
        description[REFERENCE] = passed[-1].id if passed else None
        key = None if night is None else f"{KIND}:{night}:{identity[:16]}"
        return _store(session, parsed, settings, KIND, plan.metrics, description, key)


def _check_baseline(session: Session, run_id: str, sha256: str) -> None:
    """Raises InputError, NotFoundError: a pinned run that a night of this suite cannot be compared with."""
    run = runs.get_run(session, run_id)
    suite = (run.suite or {}).get("sha256")
    if suite is None:
        problem = f"evaluation run {run_id} is not of a suite, so that its clips have no partners in a night"
    elif suite != sha256:
        problem = f"evaluation run {run_id} is of another suite than this night: entries would not be the same prompts"
    elif not runs.records_of(session, run.batch_id):
        problem = f"evaluation run {run_id} has no published clips any more: they failed or were deleted"
    else:
        return
    raise InputError([Problem(problem, field="baseline")])


def submit_repeat(database: Database, settings: Settings, run_id: str) -> tuple[str, str]:
    """The same night with its second set of seeds; (run, batch). Asked for again, it adds nothing."""
    with database.reading() as session:
        night = runs.get_run(session, run_id)
        suite, metrics = dict(night.suite or {}), tuple(night.metrics)
    fields = {**suite["fields"], "seeds": suite["repeat_seeds"]}
    fields.pop("seed", None)
    parsed, description = suite_of(Plan(suite=Path(suite["suite_path"]), metrics=metrics, fields=fields), settings)
    if description["sha256"] != suite["sha256"]:
        raise ConflictError(
            f"{suite['suite_path']} has changed since evaluation run {run_id} began: that cannot be repeated"
        )
    with database.transaction() as session:
        repeats = complete_repeats(session)
        reference = repeats.get(suite.get(REFERENCE))
        description |= {"of": run_id, REFERENCE: None if reference is None else reference.id}
        return _store(session, parsed, settings, REPEAT, metrics, description, f"{REPEAT}:{run_id}")


def submit_rescores(database: Database, run_id: str) -> list[tuple[str, str]]:
    """Have what a night is compared with scored again by its scorer; (run, batch) of each. It may be asked again."""
    with database.transaction() as session:
        run = runs.get_run(session, run_id)
        description = run.suite or {}
        before = nights_before(session, run)
        passed = passed_nights(session, before, description.get("baseline"))
        baselines = [(other.id, runs.records_of(session, other.batch_id)) for other in passed]
        baselines += repeats_of(session, [*passed, *before], run).baseline
        found = rescoring.stale(runs.records_of(session, run.batch_id), baselines)
        return [(begun.id, begun.batch_id) for begun in rescoring.start(session, run_id, found)]


def past_nights(database: Database, preset: str | None, most: int) -> list[tuple[str, list[dict[str, Any]]]]:
    """The records of ``history.nights_to_calibrate``, by run. Raises InputError as that does."""
    with database.reading() as session:
        nights = nights_to_calibrate(session, preset, most)
        return [(run.id, runs.records_of(session, run.batch_id)) for run in nights]


def other_options(database: Database, run_id: str) -> list[str]:
    """Say which nights of this run's suite and preset had other options, so that it is not compared with them."""
    with database.reading() as session:
        return nights_otherwise(session, runs.get_run(session, run_id))


def has_baseline(database: Database, run_id: str) -> bool:
    """Return whether there is a run that this one's clips are compared with: the first night has none."""
    with database.reading() as session:
        return bool((runs.get_run(session, run_id).suite or {}).get(REFERENCE))


def _store(
    session: Session,
    parsed: Submission,
    settings: Settings,
    kind: str,
    metrics: Sequence[str],
    description: Mapping[str, Any],
    key: str | None,
) -> tuple[str, str]:
    """The batch under its key, or a new one without, and its run; (run, batch)."""
    encode = {name: getattr(settings.encode, name) for name in EncodeOptions.model_fields}
    options = BatchOptions(safety_policy=settings.safety.policy, encode=EncodeOptions.model_validate(encode))
    stored = batches.submit(
        session, parsed, name=kind, owner=settings.owner, options=options, key=key, again=key is None
    )
    for run in runs.runs(session, batch_id=stored.batch_id, kind=kind):
        return run.id, run.batch_id
    scored = scored_metrics(metrics, description.get(REFERENCE))
    return start_run(session, stored.batch_id, kind=kind, metrics=scored, suite=description), stored.batch_id
