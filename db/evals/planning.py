"""Creates an evaluation run: its row, and a step for each slice of its clips."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from db.clips import batches
from db.evals import runs
from db.evals.clips import REFERENCE
from db.evals.making import VERSION
from db.evals.software import software_version
from db.models import ScoreStep
from pipeline.policy.routes import ScorePart
from pipeline.scoring import families, gate
from pipeline.states import StepState


def start_run(
    session: Session, batch_id: str, *, kind: str, metrics: Sequence[str], suite: Mapping[str, Any] | None = None
) -> str:
    """Begin an evaluation run over a batch: its row and those of its steps; the run's id.

    Where ``suite`` names a ``reference``, a run of the same suite, each clip is also compared with that run's.

    Raises:
        InputError: a metric is unknown, is scored by another program, or needs a reference that the run does not have.
    """
    chosen = gate.check_metrics(metrics, reference=bool((suite or {}).get(REFERENCE)))
    described = None if suite is None else {**suite, VERSION: software_version()}
    run_id = runs.open_run(session, batch_id, kind=kind, metrics=metrics, suite=described)
    jobs = [(job.seq, job.spec.get("labels", {})) for job in batches.job_rows(session, batch_id)]
    plan(session, run_id, batch_id, list(families.parts(jobs, chosen)))
    return run_id


def plan(session: Session, run_id: str, batch_id: str, parts: Sequence[ScorePart]) -> None:
    """Make the rows of a new run, in the order in which they are to be scored."""
    rows = [
        {
            "run_id": run_id,
            "batch_id": batch_id,
            "family": part.family,
            "first_seq": part.first_seq,
            "last_seq": part.last_seq,
            "state": StepState.PENDING,
        }
        for part in parts
    ]
    if rows:
        session.execute(insert(ScoreStep), rows)
