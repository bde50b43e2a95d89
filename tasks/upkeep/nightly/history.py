"""The nights that a night is compared with, and what they were repeated with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from db.evals import runs
from db.evals.clips import REFERENCE
from db.models import EvalRun
from pipeline.errors import InputError
from pipeline.scoring.compare import SpeedSample, State
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


def nights_otherwise(session: Session, run: EvalRun) -> list[str]:
    """Say which judged nights of this night's suite and preset have other options, a sentence for each difference."""
    suite = run.suite or {}
    by_difference: dict[tuple[str, ...], list[str]] = {}
    for other in runs.runs(session, kind=KIND, limit=_MOST_RUNS):
        before = other.suite or {}
        of_this_suite = all(before.get(name) == suite.get(name) for name in ("sha256", "preset"))
        if of_this_suite and before.get("identity") != suite.get("identity") and verdict_of_run(other):
            by_difference.setdefault(tuple(_differences(other, run)), []).append(other.id)
    return [_otherwise(differences, ids) for differences, ids in by_difference.items()]


def _differences(other: EvalRun, run: EvalRun) -> list[str]:
    """The options of another night that are not this one's: ``num_inference_steps is 12 there and 6 here``."""
    there, here = (
        {**(one.suite or {}).get("fields", {}), "metrics": ",".join((one.suite or {}).get("metrics", one.metrics))}
        for one in (other, run)
    )
    names = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    return [f"{name} is {there.get(name, 'not given')} there and {here.get(name, 'not given')} here" for name in names]


def _otherwise(differences: Sequence[str], ids: Sequence[str]) -> str:
    count = "One night" if len(ids) == 1 else f"{len(ids)} nights"
    more = ", …" if len(ids) > MEDIAN_OF else ""
    sentence = (
        f"{count} of this suite and preset had other options ({'; '.join(differences)}): "
        f"{', '.join(ids[:MEDIAN_OF])}{more}."
    )
    if any(difference.startswith("seed") for difference in differences):
        return f"{sentence} Clips of other seeds cannot be compared in pairs."
    return f"{sentence} `--baseline {ids[0]}` compares with the newest of them."


def nights_before(session: Session, run: EvalRun) -> list[EvalRun]:
    """The nights alike that have a verdict, oldest first, without this one.

    An id holds the time at which its run began, by a clock that may have been set back since: so a night with a larger
    id counts too, as long as it was judged before this one.
    """
    alike = nights_alike(session, (run.suite or {}).get("identity", ""))
    return [other for other in reversed(alike) if other.id != run.id and verdict_of_run(other)]


def nights_to_calibrate(session: Session, preset: str | None, most: int) -> list[EvalRun]:
    """The last complete nights of a preset (None: of any), all with the same suite and options, oldest first.

    Of several options those that had two nights most recently count. Nights that regressed are left out, unless a
    person accepted them; then all that came before is left out.

    Raises:
        InputError: no two nights are alike; the message says which nights there are.
    """
    complete = [run for run in runs.runs(session, kind=KIND, limit=_MOST_RUNS) if run.state is EvalState.COMPLETE]
    sound = [run for run in complete if verdict_of_run(run).get("state") != State.REGRESSED.value or _accepted(run)]
    of_preset = [run for run in sound if preset is None or (run.suite or {}).get("preset") == preset]
    alike: dict[str, list[EvalRun]] = {}
    for run in of_preset:
        nights = alike.setdefault((run.suite or {}).get("identity", ""), [])
        if any(_accepted(later) for later in nights):
            continue
        nights.append(run)
        if len(nights) == most:
            break
    for nights in alike.values():
        if len(nights) > 1:
            return nights[::-1]
    wanted = "" if preset is None else f" of preset {preset!r}"
    others = sorted({str((run.suite or {}).get("preset")) for run in sound})
    there = "; ".join(_described(run) for run in of_preset[:MEDIAN_OF]) or (
        f"nights are there of {', '.join(others)}" if others else "no night is there"
    )
    raise InputError(
        f"two complete nights{wanted} with the same suite and options are needed, which did not regress: {there}. Make "
        "another night, or give two runs of a suite with other seeds: `vgen eval suite --own --preset NAME "
        "--seeds 1-2`, then `--seeds 3-4`, then `vgen eval calibrate RUN RUN`"
    )


def _described(run: EvalRun) -> str:
    suite = run.suite or {}
    fields = ", ".join(f"{name} {value}" for name, value in sorted(suite.get("fields", {}).items()))
    return f"{run.id} is of suite {Path(str(suite.get('suite_path', ''))).name} with {fields or 'no options'}"


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
        accepted = _accepted(other)
        counts = accepted or verdict.get("passed") or verdict.get("first")
        if counts and runs.has_every_clip(session, other):
            passed.append(other)
        if accepted or len(passed) == MEDIAN_OF:
            break
    return passed[::-1]


def verdict_of_run(run: EvalRun) -> dict[str, Any]:
    """The verdict that was written down for a night; empty where there is none yet."""
    return dict((run.summary or {}).get(runs.VERDICT) or {})


def _accepted(run: EvalRun) -> bool:
    return runs.ACCEPTED in verdict_of_run(run)


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
