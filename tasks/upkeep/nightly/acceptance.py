"""A person accepts what a night changed: later nights are compared with that night, and not with those before it."""

from __future__ import annotations

from sqlalchemy.orm import Session

from db.evals import runs
from db.models import EvalRun
from db.session import Database
from pipeline.errors import ConflictError, InputError, Problem
from pipeline.states import EvalState
from tasks.upkeep.nightly.history import KIND, verdict_of_run


def accept(database: Database, run_id: str, *, by: str, reason: str | None = None) -> bool:
    """Make a judged night the baseline of later nights, whatever its verdict; False where it is that already.

    Raises:
        NotFoundError: the run does not exist.
        InputError: the run is no night.
        ConflictError: the night has no verdict yet, or lacks clips, so that later nights could not be compared with it.
    """
    with database.transaction() as session:
        run = runs.get_run(session, run_id)
        _check(session, run)
        return runs.accept(session, run_id, by=by, reason=reason)


def _check(session: Session, run: EvalRun) -> None:
    if run.kind != KIND:
        rule = "only a run of `vgen eval nightly` can be accepted as a baseline"
        raise InputError([Problem(f"evaluation run {run.id} is of the kind {run.kind}: {rule}", field="RUN")])
    if not verdict_of_run(run):
        raise ConflictError(f"evaluation run {run.id} has no verdict yet; accept it once it is judged")
    if run.state is not EvalState.COMPLETE or not runs.has_every_clip(session, run):
        raise ConflictError(
            f"evaluation run {run.id} lacks clips or scores, so later nights could not be compared with it; "
            f"`vgen eval scores {run.id}` says what is missing"
        )
