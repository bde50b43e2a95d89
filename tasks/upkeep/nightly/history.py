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


_MOST_RUNS = 500
"""Runs of a kind that are looked at, newest first: more than a year of nights."""


def nights_alike(session: Session, identity: str) -> list[EvalRun]:
    """Nightly runs of the same suite, preset, seeds and metrics, newest first."""
    return [
        run for run in runs.runs(session, kind=KIND, limit=_MOST_RUNS) if (run.suite or {}).get("identity") == identity
    ]


def nights_before(session: Session, run: EvalRun) -> list[EvalRun]:
    """The nights alike that have a verdict, oldest first, without this one.

    An id holds the time at which its run began, by a clock that may have been set back since: so a night with a larger
    id counts too, as long as it was judged before this one.
    """
    alike = nights_alike(session, (run.suite or {}).get("identity", ""))
    return [other for other in reversed(alike) if other.id != run.id and verdict_of_run(other)]


def passed_nights(session: Session, before: Sequence[EvalRun], pinned: str | None) -> list[EvalRun]:
    """The runs that a night is compared with, oldest first: the pinned one, or the last ``MEDIAN_OF`` that passed.

    The first night of a history counts as one that passed. So does a night that a person accepted, and a new history
    begins with it: the nights before it were made by what was changed. A run of which a clip was deleted does not
    count: there would be nothing to compare that clip with, in this night or in any later one.

    Raises:
        NotFoundError: no run has the pinned id.
    """
    if pinned is not None:
        return [runs.get_run(session, pinned)]
    passed: list[EvalRun] = []
    for other in reversed(before):
        verdict = verdict_of_run(other)
        accepted = runs.ACCEPTED in verdict
        counts = accepted or verdict.get("passed") or verdict.get("first")
        if counts and runs.has_every_clip(session, other):
            passed.append(other)
        if accepted or len(passed) == MEDIAN_OF:
            break
    return passed[::-1]


def verdict_of_run(run: EvalRun) -> dict[str, Any]:
    """The verdict that was written down for a night; empty where there is none yet."""
    return dict((run.summary or {}).get(runs.VERDICT) or {})


def past_speeds(before: Sequence[EvalRun]) -> list[SpeedSample]:
    """The speeds that earlier nights' verdicts hold, oldest first."""
    return [SpeedSample(**sample) for other in before for sample in verdict_of_run(other).get("speed", [])]


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
    """The complete repeats of the nights before and of this night."""
    repeats = _all_repeats(session)
    if run.id in repeats and repeats[run.id].state is EvalState.INCOMPLETE:
        return Repeats([], None)  # the verdict is that of the first seeds
    complete = complete_repeats(session)
    of_baseline = [complete[other.id] for other in dict.fromkeys(before) if other.id in complete]
    wanted = (run.suite or {}).get("repeat_seeds")
    own = complete.get(run.id)
    return Repeats(
        [(other.id, runs.records_of(session, other.batch_id)) for other in of_baseline] if wanted else [],
        None if own is None else runs.records_of(session, own.batch_id),
    )


def complete_repeats(session: Session) -> dict[str | None, EvalRun]:
    """The complete runs with second seeds, by the run that they repeat."""
    return {of: other for of, other in _all_repeats(session).items() if other.state is EvalState.COMPLETE}


def _all_repeats(session: Session) -> dict[str | None, EvalRun]:
    """Runs with second seeds, by the run that they repeat."""
    return {(other.suite or {}).get("of"): other for other in runs.runs(session, kind=REPEAT, limit=_MOST_RUNS)}
