"""The nights that a night is compared with, and what they were repeated with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from db.evals import runs
from db.evals.clips import REFERENCE
from db.models import EvalRun
from pipeline.scoring.compare import SpeedSample
from pipeline.states import EvalState

KIND = "nightly"
REPEAT = "nightly-repeat"
"""A night once more, with the second set of seeds."""
MEDIAN_OF = 5
"""The number of runs that passed last which make the baseline, where none is pinned."""


def nights_alike(session: Session, identity: str) -> list[EvalRun]:
    """Nightly runs of the same suite, preset, seeds and metrics, newest first."""
    return [
        run
        for run in runs.runs(session, limit=500)
        if run.kind == KIND and (run.suite or {}).get("identity") == identity
    ]


def nights_before(session: Session, run: EvalRun) -> list[EvalRun]:
    """The nights alike that were begun before this one, oldest first."""
    earlier = nights_alike(session, (run.suite or {}).get("identity", ""))
    return [other for other in reversed(earlier) if other.id < run.id]


def passed_nights(before: Sequence[EvalRun], pinned: str | None, session: Session) -> list[EvalRun]:
    """Runs to compare with, oldest first: the pinned one, or the last that passed or began the history."""
    if pinned is not None:
        return [runs.get_run(session, pinned)]
    verdicts = [(other, (other.summary or {}).get(runs.VERDICT, {})) for other in before]
    return [other for other, verdict in verdicts if verdict.get("passed") or verdict.get("first")][-MEDIAN_OF:]


def verdict_of_run(run: EvalRun) -> dict[str, Any]:
    return dict((run.summary or {}).get(runs.VERDICT) or {})


def past_speeds(before: Sequence[EvalRun]) -> list[SpeedSample]:
    samples_of_runs = [(other.summary or {}).get(runs.VERDICT, {}).get("speed", []) for other in before]
    return [SpeedSample(**sample) for samples in samples_of_runs for sample in samples]


def reference_records(session: Session, description: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The clips that the night's were compared with."""
    run_id = description.get(REFERENCE)
    return [] if run_id is None else runs.records_of(session, runs.get_run(session, run_id).batch_id)


@dataclass(frozen=True, slots=True)
class Repeats:
    """Records of second seed sets: of the runs to compare with, and of the night itself, once it has all of them."""

    baseline: list[tuple[str, list[dict[str, Any]]]]
    candidate: list[dict[str, Any]] | None


def repeats_of(session: Session, before: Sequence[EvalRun], run: EvalRun) -> Repeats:
    repeats = _all_repeats(session)
    if run.id in repeats and repeats[run.id].state is EvalState.INCOMPLETE:
        return Repeats([], None)  # what the first seeds say has to do
    complete = complete_repeats(session)
    of_baseline = [complete[other.id] for other in dict.fromkeys(before) if other.id in complete]
    wanted = (run.suite or {}).get("repeat_seeds")
    own = complete.get(run.id)
    return Repeats(
        [(other.id, runs.records_of(session, other.batch_id)) for other in of_baseline] if wanted else [],
        None if own is None else runs.records_of(session, own.batch_id),
    )


def complete_repeats(session: Session) -> dict[str | None, EvalRun]:
    return {of: other for of, other in _all_repeats(session).items() if other.state is EvalState.COMPLETE}


def _all_repeats(session: Session) -> dict[str | None, EvalRun]:
    """Runs with second seeds, by the run that they repeat."""
    return {(other.suite or {}).get("of"): other for other in runs.runs(session, limit=500) if other.kind == REPEAT}
