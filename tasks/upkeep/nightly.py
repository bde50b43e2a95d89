"""The nightly evaluation: a suite becomes a batch, its scores a comparison with what passed before, that a report.

Each part may be done by anybody, any number of times: the batch is stored once under its key, the run is ended by
counting rows, and its verdict is written down once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from db.clips import batches
from db.evals import runs
from db.evals.clips import REFERENCE
from db.evals.planning import start_run
from db.models import EvalRun
from db.session import Database
from pipeline.digests import canonical_json, sha256_hex
from pipeline.errors import ConflictError, InputError, Problem
from pipeline.prompts import Submission
from pipeline.prompts.scoring import split_names
from pipeline.scoring import compare as comparing
from pipeline.scoring import gate, registry
from pipeline.scoring.compare import Comparison, Run, SpeedSample, SpeedVerdict, State, power, speed_verdicts
from pipeline.scoring.compare.html import html
from pipeline.scoring.compare.report import Report, as_json, markdown
from pipeline.scoring.compare.strips import strips_of_worst
from pipeline.scoring.suite import OWN_SUITE, read_suite
from pipeline.scoring.suite_jobs import submission_of
from pipeline.settings import Settings
from pipeline.spec import BatchOptions, EncodeOptions
from pipeline.states import EvalState
from pipeline.storage.base import Storage
from tasks.upkeep import rescoring
from tasks.upkeep.stored_pairs import StoredPairs

KIND = "nightly"
REPEAT = "nightly-repeat"
"""A night once more, with the second set of seeds."""
MEDIAN_OF = 5
"""The number of runs that passed last which make the baseline, where none is pinned."""
_URL_S = 7 * 86_400
"""The seconds that a report's links to clips work, where the store is S3: it allows no longer."""
_MEDIA_TYPES = {
    "html": "text/html",
    "md": "text/markdown",
    "json": "application/json",
    "scores.json": "application/json",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """The clips of a nightly run and how they are judged."""

    suite: Path = OWN_SUITE
    metrics: tuple[str, ...] = ("checks", "common", "vbench")
    margins: Mapping[str, float] = field(default_factory=dict)
    baseline: str | None = None
    fields: Mapping[str, object] = field(default_factory=dict)
    """The fields of its jobs, as on the command line: preset, seeds, num_frames, …"""
    repeat_seeds: str = ""

    @classmethod
    def of_settings(cls, settings: Settings) -> Plan:
        """Raises InputError for margins that are none."""
        nightly = settings.nightly
        return cls(
            suite=nightly.suite or OWN_SUITE,
            metrics=split_names(nightly.metrics),
            margins=comparing.read_margins(split_names(nightly.margins), "VGEN_NIGHTLY_MARGINS"),
            baseline=nightly.baseline,
            repeat_seeds=nightly.repeat_seeds,
            fields={"seeds": nightly.seeds, **({"preset": nightly.preset} if nightly.preset else {})},
        )


def submit(database: Database, settings: Settings, plan: Plan, *, night: str | None = None) -> tuple[str, str]:
    """Store the suite as a batch, and open its run; (run, batch).

    With ``night`` there is one of that name, however often it is asked for. Without, one that is still open is gone on
    with, else a new one begins.
    """
    _check_margins(plan)
    parsed, description = _suite_of(plan, settings)
    identity = _identity(plan, description)
    description |= {"identity": identity, "margins": dict(plan.margins), "baseline": plan.baseline}
    description |= {"suite_path": str(plan.suite), "repeat_seeds": plan.repeat_seeds}
    with database.transaction() as session:
        earlier = _alike(session, identity)
        if night is None:
            for run in earlier:
                if run.state is EvalState.OPEN:
                    return run.id, run.batch_id
        passed = _passed(list(reversed(earlier)), plan.baseline, session)
        description[REFERENCE] = passed[-1].id if passed else None
        key = None if night is None else f"{KIND}:{night}:{identity[:16]}"
        return _store(session, parsed, settings, KIND, plan.metrics, description, key)


def _identity(plan: Plan, description: Mapping[str, Any]) -> str:
    """What nights that are compared with each other have in common."""
    alike = {
        "suite": description["sha256"],
        "metrics": plan.metrics,
        "fields": description["fields"],
        "preset": description["preset"],
    }
    return sha256_hex(canonical_json(alike))


def past_nights(
    database: Database, settings: Settings, plan: Plan, most: int
) -> list[tuple[str, list[dict[str, Any]]]]:
    """The records of the last complete nights of this plan that no fault was found in, oldest first, by run."""
    _, description = _suite_of(plan, settings)
    identity = _identity(plan, description)
    with database.reading() as session:
        complete = [run for run in _alike(session, identity) if run.state is EvalState.COMPLETE]
        sound = [run for run in complete if _verdict(run).get("state") != State.REGRESSED.value]
        return [(run.id, runs.records_of(session, run.batch_id)) for run in reversed(sound[:most])]


def _verdict(run: EvalRun) -> dict[str, Any]:
    return dict((run.summary or {}).get(runs.VERDICT) or {})


def has_baseline(database: Database, run_id: str) -> bool:
    """Return whether there is a run that this one's clips are compared with: the first night has none."""
    with database.reading() as session:
        return bool((runs.get_run(session, run_id).suite or {}).get(REFERENCE))


def before_the_night(plan: Plan) -> list[str]:
    """Return what the suite can tell by its number of prompts alone, a sentence for each kind of metric."""
    metrics = [metric for metric in gate.check_metrics(plan.metrics, reference=True) if metric.group != gate.CHECKS]
    return power.sentences(power.detectable(read_suite(plan.suite), metrics, plan.margins))


def submit_repeat(database: Database, settings: Settings, run_id: str) -> tuple[str, str]:
    """The same night with its second set of seeds; (run, batch). Asked for again, it adds nothing."""
    with database.reading() as session:
        night = runs.get_run(session, run_id)
        suite, metrics = dict(night.suite or {}), tuple(night.metrics)
    fields = {**suite["fields"], "seeds": suite["repeat_seeds"]}
    fields.pop("seed", None)
    parsed, description = _suite_of(Plan(suite=Path(suite["suite_path"]), metrics=metrics, fields=fields), settings)
    if description["sha256"] != suite["sha256"]:
        raise ConflictError(f"{suite['suite_path']} is another suite than that of run {run_id}: it cannot be repeated")
    with database.transaction() as session:
        repeats = _complete_repeats(session)
        reference = repeats.get(suite.get(REFERENCE))
        description |= {"of": run_id, REFERENCE: None if reference is None else reference.id}
        return _store(session, parsed, settings, REPEAT, metrics, description, f"{REPEAT}:{run_id}")


def _check_margins(plan: Plan) -> None:
    """Raises InputError: a metric that is none or cannot be scored, or a margin of a metric that is not scored."""
    scored = {metric.name for metric in gate.check_metrics(plan.metrics, reference=True)}
    lost = [name for name in plan.margins if name not in scored]
    if lost:
        raise InputError([Problem(f"{name} is not among the night's metrics", field="margin") for name in lost])


def _scored_metrics(metrics: Sequence[str], reference: str | None) -> tuple[str, ...]:
    """The metrics of a run: without a run to compare with, none of those that need its clips."""
    if reference is not None:
        return tuple(metrics)
    names = (*registry.METRICS, *registry.GROUPS)
    alone = [name for name in metrics if name not in names or not _needs_reference(name)]
    return tuple(alone) or (gate.CHECKS,)  # a first night of likenesses alone: something must be scored


def _needs_reference(name: str) -> bool:
    return all(registry.METRICS[member].perfect is not None for member in registry.GROUPS.get(name, (name,)))


def _suite_of(plan: Plan, settings: Settings) -> tuple[Submission, dict[str, Any]]:
    """The suite's jobs, and what is to be remembered of it. Raises InputError."""
    suite = read_suite(plan.suite)
    parsed = submission_of(suite, plan.fields, settings)
    description = {"sha256": suite.sha256, "entries": len(suite.entries), "standard": suite.standard}
    return parsed, {**description, "preset": parsed.jobs[0].spec.preset, "fields": dict(plan.fields)}


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
    for run in runs.runs(session, batch_id=stored.batch_id):
        if run.kind == kind:
            return run.id, run.batch_id
    scored = _scored_metrics(metrics, description.get(REFERENCE))
    return start_run(session, stored.batch_id, kind=kind, metrics=scored, suite=description), stored.batch_id


def _alike(session: Session, identity: str) -> list[EvalRun]:
    """Nightly runs of the same suite, preset, seeds and metrics, newest first."""
    return [
        run
        for run in runs.runs(session, limit=500)
        if run.kind == KIND and (run.suite or {}).get("identity") == identity
    ]


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
        before = [other for other in reversed(_alike(session, description.get("identity", ""))) if other.id < run_id]
        records = runs.records_of(session, run.batch_id)
        passed = _passed(before, description.get("baseline"), session)
        earlier = [(other.id, runs.records_of(session, other.batch_id)) for other in passed]
        samples = [SpeedSample(*values) for values in runs.speeds(session, run.batch_id)]
        repeats = _repeats(session, [*passed, *before], run)
        rescores = rescoring.of_night(session, run_id)
        reference = _reference_records(session, description)
    if run.state is EvalState.COMPLETE and _to_be_rescored(records, earlier, repeats, rescores):
        waiting = _verdict_of(State.OTHER_FINGERPRINT, "Its baselines are to be scored again first.", ())
        return {**waiting, "rescore": True}
    gone = rescoring.lost(rescores, records, [*earlier, *repeats.baseline])
    repeats = replace(repeats, baseline=[(name, values) for name, values in repeats.baseline if name not in gone])
    history = [_run(name, values, storage, site) for name, values in earlier if values and name not in gone]
    speed = speed_verdicts(_past_speeds(before), samples)
    verdict: dict[str, Any] = {"speed": [_sample(sample) for sample in samples], "baseline": None, "reports": {}}
    if run.state is EvalState.INCOMPLETE or not records:
        verdict |= _verdict_of(State.INCOMPLETE, "Clips are missing or unscored: nothing was compared.", speed)
    elif not history:
        before_it = " ".join(rescoring.remarks(rescores, gone)) if gone else "No run passed before."
        meaning = f"{before_it} This one is what the next is compared with."
        verdict |= _verdict_of(State.NO_CALIBRATION, meaning, speed)
        verdict["advice"] = _missing(description, 1)
        verdict["first"] = True
        verdict["rescored"] = rescoring.as_json(rescores, records, gone)
    else:
        candidate = _run(run_id, records, storage, site)
        comparison = _comparison(candidate, history, description)
        if comparison.state is State.REGRESSED and repeats.baseline:
            if repeats.candidate is None:
                return {
                    **verdict,
                    **_verdict_of(comparison.state, "It is to be repeated first.", speed),
                    "repeat": True,
                }
            comparison = _repeated(comparison, candidate, history, description, repeats, storage)
        verdict["rescored"] = rescoring.as_json(rescores, records, gone)
        pairs = StoredPairs(storage, [*reference, *_all(repeats.baseline)], [*records, *(repeats.candidate or [])])
        if comparison.state is State.NO_CALIBRATION and comparison.advice is None:
            comparison = replace(comparison, advice=_missing(description, len(history) + 1))
        both, remarks = (_baseline(history, description), candidate), rescoring.remarks(rescores, gone)
        verdict |= _reported(run_id, comparison, both, records, history, speed, storage, pairs, remarks)
    with database.transaction() as session:
        runs.add_verdict(session, run_id, verdict)
        return dict((runs.get_run(session, run_id).summary or {})[runs.VERDICT])


def _to_be_rescored(
    records: list[dict[str, Any]],
    earlier: Sequence[tuple[str, list[dict[str, Any]]]],
    repeats: _Repeats,
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


def submit_rescores(database: Database, run_id: str) -> list[tuple[str, str]]:
    """Have what a night is compared with scored again by its scorer; (run, batch) of each. It may be asked again."""
    with database.transaction() as session:
        run = runs.get_run(session, run_id)
        description = run.suite or {}
        before = [other for other in reversed(_alike(session, description.get("identity", ""))) if other.id < run_id]
        passed = _passed(before, description.get("baseline"), session)
        baselines = [(other.id, runs.records_of(session, other.batch_id)) for other in passed]
        baselines += _repeats(session, [*passed, *before], run).baseline
        found = rescoring.stale(runs.records_of(session, run.batch_id), baselines)
        return [(begun.id, begun.batch_id) for begun in rescoring.start(session, run_id, found)]


def _passed(before: Sequence[EvalRun], pinned: str | None, session: Session) -> list[EvalRun]:
    """Runs to compare with, oldest first: the pinned one, or the last that passed or began the history."""
    if pinned is not None:
        return [runs.get_run(session, pinned)]
    verdicts = [(other, (other.summary or {}).get(runs.VERDICT, {})) for other in before]
    return [other for other, verdict in verdicts if verdict.get("passed") or verdict.get("first")][-MEDIAN_OF:]


def _run(name: str, records: Sequence[Mapping[str, Any]], storage: Storage, site: str | None = None) -> Run:
    """Return the run with URLs in place of keys, so that a report can show the clips; pages are those of ``site``."""
    return comparing.run_of(comparing.playable(records, partial(storage.url, expires_s=_URL_S), site), name)


@dataclass(frozen=True, slots=True)
class _Repeats:
    """Records of second seed sets: of the runs to compare with, and of the night itself, once it has all of them."""

    baseline: list[tuple[str, list[dict[str, Any]]]]
    candidate: list[dict[str, Any]] | None


def _all_repeats(session: Session) -> dict[str | None, EvalRun]:
    """Runs with second seeds, by the run that they repeat."""
    return {(other.suite or {}).get("of"): other for other in runs.runs(session, limit=500) if other.kind == REPEAT}


def _complete_repeats(session: Session) -> dict[str | None, EvalRun]:
    return {of: other for of, other in _all_repeats(session).items() if other.state is EvalState.COMPLETE}


def _all(earlier: Sequence[tuple[str, list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    return [record for _, records in earlier for record in records]


def _reference_records(session: Session, description: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The clips that the night's were compared with."""
    run_id = description.get(REFERENCE)
    return [] if run_id is None else runs.records_of(session, runs.get_run(session, run_id).batch_id)


def _repeats(session: Session, before: Sequence[EvalRun], run: EvalRun) -> _Repeats:
    repeats = _all_repeats(session)
    if run.id in repeats and repeats[run.id].state is EvalState.INCOMPLETE:
        return _Repeats([], None)  # what the first seeds say has to do
    complete = _complete_repeats(session)
    of_baseline = [complete[other.id] for other in dict.fromkeys(before) if other.id in complete]
    wanted = (run.suite or {}).get("repeat_seeds")
    own = complete.get(run.id)
    return _Repeats(
        [(other.id, runs.records_of(session, other.batch_id)) for other in of_baseline] if wanted else [],
        None if own is None else runs.records_of(session, own.batch_id),
    )


def _baseline(history: Sequence[Run], description: Mapping[str, Any]) -> Run:
    """The run that scores are compared with; its videos are those that the night's clips were compared with."""
    baseline = history[0] if description.get("baseline") else comparing.median_run(history)
    shown = next((run.clips for run in history if run.name == description.get(REFERENCE)), baseline.clips)
    clips = {
        key: replace(clip, video=shown[key].video if key in shown else clip.video)
        for key, clip in baseline.clips.items()
    }
    return replace(baseline, clips=clips)


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
    repeats: _Repeats,
    storage: Storage,
) -> Comparison:
    """Compare both seed sets together."""
    again = [_run(name, records, storage) for name, records in repeats.baseline if records]
    before = comparing.combined(_baseline(history, description), _baseline(again[-MEDIAN_OF:], description))
    after = comparing.combined(candidate, _run(f"{candidate.name} repeated", repeats.candidate or [], storage))
    return comparing.repeated(first, _comparison(after, history, description, before))


def _reported(
    run_id: str,
    comparison: Comparison,
    both: tuple[Run, Run],
    records: Sequence[Mapping[str, Any]],
    history: Sequence[Run],
    speed: Sequence[SpeedVerdict],
    storage: Storage,
    pairs: StoredPairs,
    remarks: Sequence[str],
) -> dict[str, Any]:
    """Store the report, and return the verdict."""
    report = Report(
        comparison, history, speed, runs=both, strips=strips_of_worst(comparison, pairs.read), remarks=remarks
    )
    texts = {
        "html": html(report),
        "md": markdown(report),
        "json": json.dumps(as_json(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "scores.json": json.dumps(list(records), indent=1, ensure_ascii=False, allow_nan=False) + "\n",
    }
    keys = {}
    for ending, text in texts.items():
        keys[ending] = f"reports/{run_id}/report.{ending}"
        storage.put_bytes(keys[ending], text.encode(), content_type=_MEDIA_TYPES[ending])
    verdict = _verdict_of(comparison.state, comparing.MEANING[comparison.state], speed)
    return {**verdict, "advice": comparison.advice, "baseline": comparison.baseline, "reports": keys}


def _verdict_of(state: State, meaning: str, speed: Sequence[SpeedVerdict]) -> dict[str, Any]:
    slower = [
        f"{slow.preset} on {slow.gpu_type}: {slow.measure} {slow.value:.6g}, usually {slow.median:.6g}"
        for slow in speed
        if slow.state is State.REGRESSED and slow.median is not None
    ]
    return {
        "state": state.value,
        "meaning": meaning,
        "advice": None,
        "slower": slower,
        "passed": state in comparing.PASSED and not slower,
    }


def _missing(description: Mapping[str, Any], nights: int) -> str | None:
    """What stands between these nights and a verdict, in one sentence; None where it is not margins."""
    if description.get("margins"):
        return None
    if nights < 2:
        return (
            "no metric has a margin yet: after the next night, or with a run of the same suite with other seeds, "
            "`vgen eval calibrate` proposes them"
        )
    return "no metric has a margin yet: `vgen eval calibrate` proposes them from the nights so far"


def _sample(sample: SpeedSample) -> dict[str, Any]:
    names = ("preset", "gpu_type", "seconds_per_clip", "peak_bytes")
    return {name: getattr(sample, name) for name in names}


def _past_speeds(before: Sequence[EvalRun]) -> list[SpeedSample]:
    samples_of_runs = [(other.summary or {}).get(runs.VERDICT, {}).get("speed", []) for other in before]
    return [SpeedSample(**sample) for samples in samples_of_runs for sample in samples]


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


def with_options(plan: Plan, **changes: Any) -> Plan:
    """The plan with those of the changes that are not None; fields are added to its own."""
    fields = {**plan.fields, **(changes.pop("fields", None) or {})}
    if "seed" in fields:
        fields.pop("seeds", None)
    return replace(plan, fields=fields, **{name: value for name, value in changes.items() if value is not None})
