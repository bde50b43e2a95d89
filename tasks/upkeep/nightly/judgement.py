"""A night that has ended is compared with what passed before, and its verdict is written down once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from db.evals import runs
from db.evals.clips import REFERENCE
from db.models import EvalRun
from db.session import Database
from pipeline.errors import ConflictError
from pipeline.scoring import compare as comparing
from pipeline.scoring import registry
from pipeline.scoring.compare import Comparison, Run, SpeedSample, State, speed_verdicts
from pipeline.settings import Settings
from pipeline.states import EvalState
from pipeline.storage.base import Storage
from tasks.upkeep.nightly import rescoring
from tasks.upkeep.nightly.history import (
    KIND,
    MEDIAN_OF,
    Repeats,
    nights_before,
    passed_nights,
    past_speeds,
    reference_records,
    repeats_of,
)
from tasks.upkeep.nightly.reports import missing_margins, sample_as_json, stored_report, verdict_of
from tasks.upkeep.nightly.stored_pairs import StoredPairs
from tasks.upkeep.nightly.submission import submit_repeat, submit_rescores

_URL_S = 7 * 86_400
"""The seconds that a report's links to clips work, where the store is S3: it allows no longer."""


def judge(database: Database, storage: Storage, run_id: str, site: str | None = None) -> dict[str, Any]:
    """Compare a run that has ended with its baseline, store the report, and return the verdict.

    Where a regression is to be repeated first, nothing is: the answer has ``repeat``, and ``submit_repeat`` is due. Nor
    is it where what it is compared with was scored otherwise: the answer has ``rescore``, ``submit_rescores`` is due.

    The verdict has ``state``, ``meaning``, ``advice``, ``passed``, ``baseline``, ``reports`` (keys in the store) and
    ``speed``.

    Raises:
        ConflictError: the run is still open.
        NotFoundError: no such run, or no such baseline.
    """
    with database.reading() as session:
        run = runs.get_run(session, run_id)
        if run.state is EvalState.OPEN:
            raise ConflictError(f"evaluation run {run_id} is still open: its batch {run.batch_id} has not ended")
        recorded = (run.summary or {}).get(runs.VERDICT)
        if recorded is not None:
            return dict(recorded)
        description = run.suite or {}
        before = nights_before(session, run)
        records = runs.records_of(session, run.batch_id)
        passed = passed_nights(before, description.get("baseline"), session)
        earlier = [(other.id, runs.records_of(session, other.batch_id)) for other in passed]
        samples = [SpeedSample(*values) for values in runs.speeds(session, run.batch_id)]
        repeats = repeats_of(session, [*passed, *before], run)
        rescores = rescoring.of_night(session, run_id)
        reference = reference_records(session, description)
    if run.state is EvalState.COMPLETE and _to_be_rescored(records, earlier, repeats, rescores):
        waiting = verdict_of(State.OTHER_FINGERPRINT, "Its baselines are to be scored again first.", ())
        return {**waiting, "rescore": True}
    gone = rescoring.lost(rescores, records, [*earlier, *repeats.baseline])
    repeats = replace(repeats, baseline=[(name, values) for name, values in repeats.baseline if name not in gone])
    history = [_run(name, values, storage, site) for name, values in earlier if values and name not in gone]
    speed = speed_verdicts(past_speeds(before), samples)
    verdict: dict[str, Any] = {"speed": [sample_as_json(sample) for sample in samples], "baseline": None, "reports": {}}
    if run.state is EvalState.INCOMPLETE or not records:
        verdict |= verdict_of(State.INCOMPLETE, "Clips are missing or unscored: nothing was compared.", speed)
    elif not history:
        before_it = " ".join(rescoring.remarks(rescores, gone)) if gone else "No run passed before."
        meaning = f"{before_it} This one is what the next is compared with."
        verdict |= verdict_of(State.NO_CALIBRATION, meaning, speed)
        verdict["advice"] = missing_margins(description, 1)
        verdict["first"] = True
        verdict["rescored"] = rescoring.as_json(rescores, records, gone)
    else:
        candidate = _run(run_id, records, storage, site)
        comparison = _comparison(candidate, history, description)
        if comparison.state is State.REGRESSED and repeats.baseline:
            if repeats.candidate is None:
                return {**verdict, **verdict_of(comparison.state, "It is to be repeated first.", speed), "repeat": True}
            comparison = _repeated(comparison, candidate, history, description, repeats, storage)
        verdict["rescored"] = rescoring.as_json(rescores, records, gone)
        pairs = StoredPairs(storage, [*reference, *_all(repeats.baseline)], [*records, *(repeats.candidate or [])])
        if comparison.state is State.NO_CALIBRATION and comparison.advice is None:
            comparison = replace(comparison, advice=missing_margins(description, len(history) + 1))
        both, remarks = (_baseline(history, description), candidate), rescoring.remarks(rescores, gone)
        verdict |= stored_report(run_id, comparison, both, records, history, speed, storage, pairs, remarks)
    with database.transaction() as session:
        runs.add_verdict(session, run_id, verdict)
        return dict((runs.get_run(session, run_id).summary or {})[runs.VERDICT])


def _to_be_rescored(
    records: list[dict[str, Any]],
    earlier: Sequence[tuple[str, list[dict[str, Any]]]],
    repeats: Repeats,
    rescores: Sequence[EvalRun],
) -> bool:
    """Return whether a baseline was scored otherwise than the night, and nobody has scored it again yet.

    A night that is identical to the last needs no scores.
    """
    last = earlier[-1][1] if earlier else []
    if records and last and comparing.identical(comparing.run_of(last, "last"), comparing.run_of(records, "night")):
        return False
    done = {(run.suite or {})["rescored"] for run in rescores}
    found = [one for one in rescoring.stale(records, [*earlier, *repeats.baseline]) if one.run_id not in done]
    return bool(found or rescoring.unfinished(rescores))


def _baseline(history: Sequence[Run], description: Mapping[str, Any]) -> Run:
    """The run that scores are compared with; its videos are those that the night's clips were compared with."""
    baseline = history[0] if description.get("baseline") else comparing.median_run(history)
    shown = next((run.clips for run in history if run.name == description.get(REFERENCE)), baseline.clips)
    clips = {
        key: replace(clip, video=shown[key].video if key in shown else clip.video)
        for key, clip in baseline.clips.items()
    }
    return replace(baseline, clips=clips)


def _run(name: str, records: Sequence[Mapping[str, Any]], storage: Storage, site: str | None = None) -> Run:
    """Return the run with URLs in place of keys, so that a report can show the clips; pages are those of ``site``."""
    return comparing.run_of(comparing.playable(records, partial(storage.url, expires_s=_URL_S), site), name)


def _comparison(
    candidate: Run, history: Sequence[Run], description: Mapping[str, Any], before: Run | None = None
) -> Comparison:
    margins = dict(description.get("margins", {}))
    present = dict.fromkeys([*(name for clip in candidate.clips.values() for name in clip.scores), *margins])
    chosen = [registry.METRICS[name] for name in present if name in registry.METRICS]
    return comparing.compare(before or _baseline(history, description), candidate, chosen, margins)


def _repeated(
    first: Comparison,
    candidate: Run,
    history: Sequence[Run],
    description: Mapping[str, Any],
    repeats: Repeats,
    storage: Storage,
) -> Comparison:
    """Compare both seed sets together."""
    again = [_run(name, records, storage) for name, records in repeats.baseline if records]
    before = comparing.combined(_baseline(history, description), _baseline(again[-MEDIAN_OF:], description))
    after = comparing.combined(candidate, _run(f"{candidate.name} repeated", repeats.candidate or [], storage))
    return comparing.repeated(first, _comparison(after, history, description, before))


def _all(earlier: Sequence[tuple[str, list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    return [record for _, records in earlier for record in records]


def repeat_due(database: Database, run_id: str, verdict: Mapping[str, Any]) -> bool:
    """Return whether the night needs its second seeds: to confirm a regression, or for later comparisons."""
    if verdict.get("repeat"):
        return True
    with database.reading() as session:
        return bool(verdict.get("first") and (runs.get_run(session, run_id).suite or {}).get("repeat_seeds"))


def judge_ended(database: Database, storage: Storage, settings: Settings) -> list[str]:
    """Judge every nightly run that has ended and has no verdict, or do what is due first; their ids."""
    with database.transaction() as session:
        runs.settle(session)
        due = runs.unjudged(session, KIND)
    for run_id in due:
        verdict = judge(database, storage, run_id, settings.serve.public_url)
        if verdict.get("rescore"):
            submit_rescores(database, run_id)
        elif repeat_due(database, run_id, verdict):
            submit_repeat(database, settings, run_id)
    return due
