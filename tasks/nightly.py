"""The nightly evaluation: a suite becomes a batch, its scores a comparison with what passed before, that a report.

Each part may be done by anybody, any number of times: the batch is stored once under its key, the run is ended by
counting rows, and its verdict is written down once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from db import batches, evals
from db.models import EvalRun
from db.session import Database
from pipeline.errors import ConflictError, InputError, Problem
from pipeline.keys import canonical_json, sha256_hex
from pipeline.prompts_file import parse_bytes
from pipeline.prompts_file.scoring import split_names
from pipeline.scoring import compare as comparing
from pipeline.scoring import gate, registry
from pipeline.scoring.compare import Run, SpeedSample, SpeedVerdict, State, speed_verdicts
from pipeline.scoring.compare.html import html
from pipeline.scoring.compare.report import Report, as_json, markdown
from pipeline.scoring.suite import OWN_SUITE, read_suite
from pipeline.scoring.suite_jobs import prompt_lines
from pipeline.settings import Settings
from pipeline.spec import BatchOptions, EncodeOptions, ScoreOptions
from pipeline.states import EvalState
from pipeline.storage.base import Storage

KIND = "nightly"
MEDIAN_OF = 5
"""So many of the last runs that passed make the baseline, where none is pinned."""
_URL_S = 7 * 86_400
"""How long a report's links to clips work, where the store is S3: it allows no longer."""
_MEDIA_TYPES = {
    "html": "text/html",
    "md": "text/markdown",
    "json": "application/json",
    "scores.json": "application/json",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a nightly makes and how it is judged."""

    suite: Path = OWN_SUITE
    metrics: tuple[str, ...] = ("checks", "vbench")
    margins: Mapping[str, float] = field(default_factory=dict)
    baseline: str | None = None
    fields: Mapping[str, object] = field(default_factory=dict)
    """Of its jobs, as on the command line: preset, seeds, num_frames, …"""

    @classmethod
    def of_settings(cls, settings: Settings) -> Plan:
        """Raises InputError for margins that are none."""
        nightly = settings.nightly
        return cls(
            suite=nightly.suite or OWN_SUITE,
            metrics=split_names(nightly.metrics),
            margins=read_margins(split_names(nightly.margins), "VGEN_NIGHTLY_MARGINS"),
            baseline=nightly.baseline,
            fields={"seeds": nightly.seeds, **({"preset": nightly.preset} if nightly.preset else {})},
        )


def read_margins(texts: Sequence[str], where: str) -> dict[str, float]:
    """``NAME=VALUE`` texts as numbers by metric. Raises InputError with every mistake."""
    found, problems = {}, []
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            problems.append(Problem(f"{text!r}: a margin is NAME=VALUE with a number", field=where))
        if name not in registry.METRICS:
            problems.append(Problem(f"{name!r} is no metric; `vgen eval list` has them", field=where))
    if problems:
        raise InputError(problems)
    return found


def submit(database: Database, settings: Settings, plan: Plan, *, night: str | None = None) -> tuple[str, str]:
    """Store the suite as a batch, and open its run; (run, batch).

    With ``night`` there is one of that name, however often it is asked for. Without, one that is still open is gone on
    with, else a new one begins.
    """
    gate.check_metrics(plan.metrics)
    try:
        suite = read_suite(plan.suite)
    except OSError as error:
        raise InputError([Problem(f"cannot be read: {error.strerror}", str(plan.suite))]) from None
    parsed = parse_bytes(prompt_lines(suite.entries), "nightly.jsonl", overrides=plan.fields, settings=settings)
    preset = parsed.jobs[0].spec.preset
    alike = {"suite": suite.sha256, "metrics": plan.metrics, "fields": dict(plan.fields), "preset": preset}
    identity = sha256_hex(canonical_json(alike))
    encode = {name: getattr(settings.encode, name) for name in EncodeOptions.model_fields}
    options = BatchOptions(
        safety_policy=settings.safety.policy,
        encode=EncodeOptions.model_validate(encode),
        score=ScoreOptions(metrics=plan.metrics),
    )
    told = {
        "sha256": suite.sha256,
        "entries": len(suite.entries),
        "standard": suite.standard,
        "identity": identity,
        "preset": preset,
        "margins": dict(plan.margins),
        "baseline": plan.baseline,
    }
    with database.transaction() as session:
        if night is None:
            for run in _alike(session, identity):
                if run.state is EvalState.OPEN:
                    return run.id, run.batch_id
        key = None if night is None else f"{KIND}:{night}:{identity[:16]}"
        stored = batches.submit(
            session, parsed, name=KIND, owner=settings.owner, options=options, key=key, again=night is None
        )
        for run in evals.runs(session, batch_id=stored.batch_id):
            if run.kind == KIND:
                return run.id, run.batch_id
        run_id = evals.open_run(session, stored.batch_id, kind=KIND, metrics=plan.metrics, suite=told)
    return run_id, stored.batch_id


def _alike(session: Session, identity: str) -> list[EvalRun]:
    """Nightly runs of the same suite, preset, seeds and metrics, newest first."""
    return [
        run
        for run in evals.runs(session, limit=500)
        if run.kind == KIND and (run.suite or {}).get("identity") == identity
    ]


def judge(database: Database, storage: Storage, run_id: str) -> dict[str, Any]:
    """Compare a run that has ended with its baseline, and store the report; what was written down.

    The verdict has ``state``, ``meaning``, ``advice``, ``passed``, ``baseline``, ``reports`` (keys in the store) and
    ``speed``.

    Raises:
        ConflictError: the run is still open.
        NotFoundError: no such run, or no such baseline.
    """
    with database.reading() as session:
        run = evals.get_run(session, run_id)
        if run.state is EvalState.OPEN:
            raise ConflictError(f"evaluation run {run_id} is still open: its batch {run.batch_id} has not ended")
        known = (run.summary or {}).get(evals.VERDICT)
        if known is not None:
            return dict(known)
        told = run.suite or {}
        before = [other for other in reversed(_alike(session, told.get("identity", ""))) if other.id < run_id]
        records = evals.records_of(session, run.batch_id)
        passed = _passed(before, told.get("baseline"), session)
        earlier = [(other.id, evals.records_of(session, other.batch_id)) for other in passed]
        samples = [SpeedSample(*found) for found in evals.speeds(session, run.batch_id)]
    history = [_run(name, found, storage) for name, found in earlier if found]
    speed = speed_verdicts(_past_speeds(before), samples)
    verdict: dict[str, Any] = {"speed": [_sample(sample) for sample in samples], "baseline": None, "reports": {}}
    if run.state is EvalState.INCOMPLETE or not records:
        verdict |= _says(State.INCOMPLETE, "Clips are missing or unscored: nothing was compared.", speed)
    elif not history:
        verdict |= _says(
            State.NO_CALIBRATION, "No run passed before: this one is what the next is compared with.", speed
        )
        verdict["first"] = True
    else:
        verdict |= _compared(run_id, records, history, told, speed, storage)
    with database.transaction() as session:
        evals.add_verdict(session, run_id, verdict)
        return dict((evals.get_run(session, run_id).summary or {})[evals.VERDICT])


def _passed(before: Sequence[EvalRun], pinned: str | None, session: Session) -> list[EvalRun]:
    """Runs to compare with, oldest first: the pinned one, or the last that passed or began the history."""
    if pinned is not None:
        return [evals.get_run(session, pinned)]
    verdicts = [(other, (other.summary or {}).get(evals.VERDICT, {})) for other in before]
    return [other for other, verdict in verdicts if verdict.get("passed") or verdict.get("first")][-MEDIAN_OF:]


def _run(name: str, records: Sequence[Mapping[str, Any]], storage: Storage) -> Run:
    """With URLs in place of keys, so that a report can show the clips."""
    urls = [{**record, "video": storage.url(record["video"], expires_s=_URL_S)} for record in records]
    return comparing.run_of(urls, name)


def _compared(
    run_id: str,
    records: Sequence[Mapping[str, Any]],
    history: Sequence[Run],
    told: Mapping[str, Any],
    speed: Sequence[SpeedVerdict],
    storage: Storage,
) -> dict[str, Any]:
    candidate = _run(run_id, records, storage)
    baseline = history[0] if told.get("baseline") else comparing.median_run(history)
    present = dict.fromkeys(name for clip in candidate.clips.values() for name in clip.scores)
    chosen = [registry.METRICS[name] for name in present if name in registry.METRICS]
    comparison = comparing.compare(baseline, candidate, chosen, dict(told.get("margins", {})))
    report = Report(comparison, history, speed)
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
    found = _says(comparison.state, comparing.MEANING[comparison.state], speed)
    return {**found, "advice": comparison.advice, "baseline": baseline.name, "reports": keys}


def _says(state: State, meaning: str, speed: Sequence[SpeedVerdict]) -> dict[str, Any]:
    slower = [
        f"{one.preset} on {one.gpu_type}: {one.measure} {one.value:.6g}, usually {one.median:.6g}"
        for one in speed
        if one.state is State.REGRESSED and one.median is not None
    ]
    return {
        "state": state.value,
        "meaning": meaning,
        "advice": None,
        "slower": slower,
        "passed": state in comparing.PASSED and not slower,
    }


def _sample(sample: SpeedSample) -> dict[str, Any]:
    names = ("preset", "gpu_type", "seconds_per_clip", "peak_bytes")
    return {name: getattr(sample, name) for name in names}


def _past_speeds(before: Sequence[EvalRun]) -> list[SpeedSample]:
    found = [(other.summary or {}).get(evals.VERDICT, {}).get("speed", []) for other in before]
    return [SpeedSample(**sample) for samples in found for sample in samples]


def judge_ended(database: Database, storage: Storage) -> list[str]:
    """Judge every nightly run that has ended and has no verdict; their ids."""
    with database.transaction() as session:
        evals.settle(session)
        due = evals.unjudged(session, KIND)
    for run_id in due:
        judge(database, storage, run_id)
    return due


def with_options(plan: Plan, **changes: Any) -> Plan:
    """The plan with those of the changes that are not None; fields are added to its own."""
    fields = {**plan.fields, **(changes.pop("fields", None) or {})}
    if "seed" in fields:
        fields.pop("seeds", None)
    return replace(plan, fields=fields, **{name: value for name, value in changes.items() if value is not None})
