"""A night that has ended is compared with what passed before, and its verdict is written down once."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from sqlalchemy.orm import Session

from db.evals import runs
from db.evals.clips import REFERENCE
from db.models import EvalRun
from db.session import Database
from pipeline.errors import ConflictError, InputError, NotFoundError, VgenError
from pipeline.scoring import compare as comparing
from pipeline.scoring import registry
from pipeline.scoring.compare import Comparison, Run, SpeedSample, State, speed_verdicts
from pipeline.scoring.compare.facts import as_text
from pipeline.scoring.compare.report import Report, changed
from pipeline.scoring.compare.strips import strips_of_worst
from pipeline.settings import Settings
from pipeline.states import EvalState
from pipeline.storage.base import Storage
from tasks.upkeep.nightly import rescoring
from tasks.upkeep.nightly.history import (
    KIND,
    MEDIAN_OF,
    Repeats,
    nights_before,
    nights_otherwise,
    passed_nights,
    past_speeds,
    reference_records,
    repeats_of,
    verdict_of_run,
)
from tasks.upkeep.nightly.reports import (
    if_wanted,
    missing_margins,
    nothing_compared,
    sample_as_json,
    shortfall,
    store_report,
    verdict_of,
)
from tasks.upkeep.nightly.stored_pairs import StoredPairs
from tasks.upkeep.nightly.submission import submit_repeat, submit_rescores

logger = logging.getLogger(__name__)

_SECOND_SEEDS = "`--repeat-seeds SEEDS`, from the first night of these options on"
_URL_S = 7 * 86_400
"""The seconds that a report's links to clips work, where the store is S3: it allows no longer."""


@dataclass(frozen=True, slots=True)
class _Night:
    """A night that has ended, as its rows and those before it say."""

    run: EvalRun
    records: list[dict[str, Any]]
    """Its published clips with their scores."""
    before: list[EvalRun]
    """The nights alike that were judged before it, oldest first."""
    earlier: list[tuple[str, list[dict[str, Any]]]]
    """The runs that it is compared with, with their records, oldest first."""
    samples: list[SpeedSample]
    repeats: Repeats
    rescores: list[EvalRun]
    otherwise: list[str]
    """Which nights of its suite and preset have other options, where it is compared with no night."""
    reference: list[dict[str, Any]]
    """Records of the run whose clips its own were compared with."""

    @property
    def description(self) -> dict[str, Any]:
        """What the run's row says of its suite and its plan."""
        return self.run.suite or {}

    @property
    def gone(self) -> set[str]:
        """The runs before it that could not be scored again as it was."""
        return rescoring.lost(self.rescores, self.records, [*self.earlier, *self.repeats.baseline])


def judge(
    database: Database, storage: Storage, run_id: str, site: str | None = None, *, repeat: bool = True
) -> dict[str, Any]:
    """Compare a run that has ended with its baseline, store the report, and return the verdict.

    Nothing is written down yet where a regression is to be repeated first (the answer has ``repeat``, and
    ``submit_repeat`` is due) or where the nights before are to be scored again (it has ``rescore``, and
    ``submit_rescores`` is due). ``repeat=False`` judges by the first seeds alone.

    The verdict has ``state``, ``meaning``, ``advice``, ``passed``, ``baseline``, ``reports`` (keys in the store) and
    ``speed``.

    Raises:
        ConflictError: the run is still open.
        InputError: the runs cannot be compared.
        NotFoundError: the run, or the baseline that is pinned, does not exist.
        StageError: the report cannot be stored.
    """
    with database.reading() as session:
        run = runs.get_run(session, run_id)
        if run.state is EvalState.OPEN:
            raise ConflictError(f"evaluation run {run_id} is still open: its batch {run.batch_id} has not ended")
        if recorded := verdict_of_run(run):
            return recorded
        night = _read(session, run)
    if not repeat:
        night = replace(night, repeats=Repeats([], None))
    if run.state is EvalState.COMPLETE and _to_be_rescored(night):
        reason = "The nights before are to be scored again by this night's scorer first."
        return {**verdict_of(State.OTHER_FINGERPRINT, reason, ()), "rescore": True}
    speed = speed_verdicts(past_speeds(night.before), night.samples)
    report = _report(night, storage, site)
    if report is None:
        reason = "The night is to be repeated with its second seeds first."
        return {**verdict_of(State.REGRESSED, reason, speed), "repeat": True}
    report = replace(report, speed=speed, detectable=night.description.get(runs.DETECTABLE, ()))
    verdict = verdict_of(report.comparison.state, report.meaning, speed)
    verdict |= {"speed": [sample_as_json(sample) for sample in night.samples], "advice": report.comparison.advice}
    compared = report.runs is not None and report.runs[0] is not None
    if compared or night.rescores:
        verdict["rescored"] = rescoring.as_json(night.rescores, night.records, night.gone)
    if not compared and report.comparison.state is State.NO_CALIBRATION:
        verdict["first"] = True
    verdict["baseline"] = report.comparison.baseline if compared else None
    verdict["changed"] = [as_text(change) for change in changed(report.facts()) or ()]
    verdict["reports"] = store_report(run_id, report, night.records, storage)
    return _written(database, run_id, verdict)


def _read(session: Session, run: EvalRun) -> _Night:
    before = nights_before(session, run)
    passed = passed_nights(session, before, (run.suite or {}).get("baseline"))
    return _Night(
        run=run,
        records=runs.records_of(session, run.batch_id),
        before=before,
        earlier=[(other.id, runs.records_of(session, other.batch_id)) for other in passed],
        samples=[SpeedSample(*values) for values in runs.speeds(session, run.batch_id)],
        repeats=repeats_of(session, [*passed, *before], run),
        rescores=rescoring.of_night(session, run.id),
        otherwise=[] if passed else nights_otherwise(session, run),
        reference=reference_records(session, run.suite or {}),
    )


def _report(night: _Night, storage: Storage, site: str | None) -> Report | None:
    """The night's report, without its speed; None where the night is to be repeated with its second seeds first."""
    run_id, incomplete = night.run.id, shortfall(night.run, len(night.records))
    if not night.records:
        reason = incomplete or "The night has no published clips."
        return Report(nothing_compared(run_id, State.INCOMPLETE), reason=reason)
    gone = night.gone
    usable = [(name, values) for name, values in night.repeats.baseline if name not in gone]
    night = replace(night, repeats=replace(night.repeats, baseline=usable))
    history = [_run(name, values, storage, site) for name, values in night.earlier if values and name not in gone]
    candidate = _run(run_id, night.records, storage, site)
    if not history:
        state, advice = State.INCOMPLETE, None
        if incomplete is None:
            state, advice = State.NO_CALIBRATION, missing_margins(night.description, 1)
        reason = _first_reason(incomplete, rescoring.remarks(night.rescores, gone), night.otherwise)
        return Report(nothing_compared(run_id, state, advice), runs=(None, candidate), reason=reason)
    comparison = _comparison(candidate, history, night.description)
    if not night.repeats.baseline:
        comparison = comparing.with_repeat_option(comparison, _SECOND_SEEDS)
    elif comparison.state is State.REGRESSED:
        if night.repeats.candidate is None:
            return None
        comparison = _repeated(comparison, candidate, history, night, storage)
    if comparison.state is State.NO_CALIBRATION and comparison.advice is None:
        comparison = replace(comparison, advice=missing_margins(night.description, len(history) + 1))
    if incomplete is not None and comparison.state not in (State.REGRESSED, State.IDENTICAL):
        comparison = replace(comparison, state=State.INCOMPLETE)
    repeated = [record for _, records in night.repeats.baseline for record in records]
    pairs = StoredPairs(storage, [*night.reference, *repeated], [*night.records, *(night.repeats.candidate or [])])
    return Report(
        comparison,
        history,
        runs=(_baseline(history, night.description), candidate),
        strips=strips_of_worst(comparison, pairs.read),
        remarks=[
            *([] if incomplete is None else [incomplete]),
            *rescoring.remarks(night.rescores, gone),
            *([if_wanted(run_id)] if comparison.state is State.REGRESSED else []),
        ],
    )


def _written(database: Database, run_id: str, verdict: dict[str, Any]) -> dict[str, Any]:
    """Write the verdict down, where there is none yet; the one that is written down."""
    with database.transaction() as session:
        runs.add_verdict(session, run_id, verdict)
        return verdict_of_run(runs.get_run(session, run_id))


def _first_reason(incomplete: str | None, rescored: Sequence[str], otherwise: Sequence[str]) -> str:
    """Why a night was not compared: it is the first of its history, or what came before cannot be used."""
    none = " ".join(
        [*(rescored or ["No earlier night with these options passed and still has its clips."]), *otherwise]
    )
    if incomplete is not None:
        return f"{incomplete} {none} So nothing was compared."
    return f"{none} The next nights are compared with this one."


def _to_be_rescored(night: _Night) -> bool:
    """Return whether a baseline was scored otherwise than the night, and nobody has scored it again yet.

    A night that is identical to the last needs no scores.
    """
    records, last = night.records, night.earlier[-1][1] if night.earlier else []
    if records and last and comparing.identical(comparing.run_of(last, "last"), comparing.run_of(records, "night")):
        return False
    done = {(run.suite or {})["rescored"] for run in night.rescores}
    baselines = [*night.earlier, *night.repeats.baseline]
    found = [one for one in rescoring.stale(records, baselines) if one.run_id not in done]
    return bool(found or rescoring.unfinished(night.rescores))


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


def _repeated(first: Comparison, candidate: Run, history: Sequence[Run], night: _Night, storage: Storage) -> Comparison:
    """Compare both seed sets together."""
    again = [_run(name, records, storage) for name, records in night.repeats.baseline if records]
    before = comparing.combined(_baseline(history, night.description), _baseline(again[-MEDIAN_OF:], night.description))
    after = comparing.combined(candidate, _run(f"{candidate.name} repeated", night.repeats.candidate or [], storage))
    return comparing.repeated(first, _comparison(after, history, night.description, before))


def repeat_due(database: Database, run_id: str, verdict: Mapping[str, Any]) -> bool:
    """Return whether the night needs its second seeds: to confirm a regression, or for later comparisons."""
    if verdict.get("repeat"):
        return True
    with database.reading() as session:
        return bool(verdict.get("first") and (runs.get_run(session, run_id).suite or {}).get("repeat_seeds"))


def judge_ended(database: Database, storage: Storage, settings: Settings) -> list[str]:
    """Judge every nightly run that has ended and has no verdict, or do what is due first; their ids.

    A night that can never be judged, as its pinned baseline is gone, gets a verdict that says so. Whatever else goes
    wrong with one night, such as a full disk, is logged and tried again the next time; the other nights are judged.
    """
    with database.transaction() as session:
        runs.settle(session)
        due = runs.unjudged(session, KIND)
    for run_id in due:
        try:
            verdict = judge(database, storage, run_id, settings.serve.public_url)
            if verdict.get("rescore"):
                submit_rescores(database, run_id)
                continue
            if repeat_due(database, run_id, verdict):
                verdict = _repeat_or_judge(database, storage, settings, run_id) or verdict
            _log(run_id, verdict)
        except (InputError, ConflictError, NotFoundError) as error:
            unjudged = verdict_of(State.INCOMPLETE, f"The night could not be judged: {error}", ())
            _log(run_id, _written(database, run_id, {"speed": [], "baseline": None, "reports": {}, **unjudged}))
        except VgenError as error:
            logger.warning("nightly evaluation not judged yet", extra={"run": run_id, "reason": str(error)})
        except Exception:
            logger.exception("nightly evaluation not judged yet", extra={"run": run_id})
    return due


def _repeat_or_judge(database: Database, storage: Storage, settings: Settings, run_id: str) -> dict[str, Any] | None:
    """Begin the night's repeat; where its suite is gone or has changed, the verdict of the first seeds alone."""
    try:
        submit_repeat(database, settings, run_id)
    except (InputError, ConflictError) as error:
        logger.warning("nightly evaluation not repeated", extra={"run": run_id, "reason": str(error)})
        return judge(database, storage, run_id, settings.serve.public_url, repeat=False)
    return None


def _log(run_id: str, verdict: Mapping[str, Any]) -> None:
    """Log a verdict that is written down: a warning where the night did not pass, and is not the first."""
    if verdict.get("repeat"):
        return
    level = logging.INFO if verdict["passed"] or verdict.get("first") else logging.WARNING
    logger.log(level, "nightly evaluation judged", extra={"run": run_id, "state": verdict["state"]})
