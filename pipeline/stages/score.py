"""Score: the encoded clip is scored, and the gate says whether it is published."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import failpoints
from pipeline.errors import NotFoundError, RefusedError, RetryableError
from pipeline.files.digests import facts_of, file_sha256
from pipeline.object_names import media_key
from pipeline.outputs import ObjectRef, ScoreOutput
from pipeline.scoring import Expected, Metric, Models, Score, gate, not_scored
from pipeline.scoring.registry import readiness
from pipeline.scoring.run import ClipScores, ClipToScore, fingerprint, score_clips
from pipeline.scoring.suite_jobs import entry_of
from pipeline.spec import ScoreOptions
from pipeline.work import Outcome, ScoreRecord, StageContext, StageResult, StepWork

SIDECAR = "sidecar"


def run(work: StepWork, context: StageContext) -> StageResult[ScoreOutput]:
    """Score the clip that encode made, from its file in the hand-off directory or else from the store.

    Raises:
        RefusedError: code ``eval_weights_missing``: the gate asks for a metric whose weights this worker lacks; code
            ``eval_weights_wrong``.
        RetryableError: code ``publish_missing``: the clip is neither here nor in the store. Or as the store raises.
        OutOfMemoryError: a model has too little memory for the clip.
        StoppedError: asked to stop.
    """
    options = work.options.score
    assert options is not None, "the stage is a part of the line only where the batch asks for it"
    models, rules = context.models.scorers(), gate.parse(options.gate, options.metrics)
    metrics = gate.check_metrics(options.metrics)
    ready, missing = ready_of(metrics, models, {name for rule in rules for name in rule.metrics})
    with tempfile.TemporaryDirectory(prefix="vgen-score-") as folder:
        video = _fetch("video", work, context, Path(folder))
        context.check()
        clip_scores = _score(work, context, video, ready, models)
        dimensions = _dimensions(work)
        scores = {
            **clip_scores.scores,
            **{name: score for name, score in missing.items() if dimensions is None or name in dimensions},
        }
        reason = gate.rejection_reasons(rules, scores)
        if reason is None and rules and clip_scores.problem is not None:
            reason = clip_scores.problem
        # Of a suite's clip only the entry's dimensions are asked for.
        records = tuple(record_of(metric, scores[metric.name], models) for metric in metrics if metric.name in scores)
        scored = {record.metric: record.score for record in records}
        output = ScoreOutput(accepted=reason is None, reason=reason, seed=work.spec.seed, scores=scored)
        if reason is None:
            content = json.loads(_fetch(SIDECAR, work, context, Path(folder)).read_text("utf-8"))
            content["scoring"] = _for_sidecar(options, records)
            replaced = {SIDECAR: _store(content, work, context, Path(folder))}
            output = output.model_copy(update={"replaced": replaced})
    frames = context.handoff.here(work.outputs.generated.frames_path)
    return StageResult(
        output,
        outcome=Outcome.DONE if reason is None else Outcome.REJECTED,
        scores=records,
        after_commit=lambda: context.handoff.free(frames),
    )


def _dimensions(work: StepWork) -> frozenset[str] | None:
    """Metrics that may be asked of a suite's clip beside those without weights; None where it is none's."""
    entry = entry_of(work.spec.labels)
    return None if entry is None else frozenset(f"vbench.{name}" for name in entry.dimensions)


def ready_of(metrics: Sequence[Metric], models: Models, gated: set[str]) -> tuple[list[Metric], dict[str, Score]]:
    """Metrics that can be computed here, and why the others cannot."""
    ready, missing = [], {}
    for metric in metrics:
        lacking = readiness(metric, models.weights).missing
        if not lacking:
            ready.append(metric)
            continue
        why = "; ".join(f"{name}, {models.weights.where(name)}" for name in lacking)
        if metric.name in gated:
            raise RefusedError(f"{metric.name}: weights missing: {why}", code="eval_weights_missing")
        missing[metric.name] = not_scored(f"weights missing: {why}")
    return ready, missing


def _score(work: StepWork, context: StageContext, video: Path, metrics: Sequence[Metric], models: Models) -> ClipScores:
    spec = work.spec
    entry = entry_of(spec.labels)
    clip = ClipToScore(
        video,
        spec.prompt,
        expected=Expected(spec.clip_frames, spec.fps, spec.width, spec.height),
        auxiliary=entry.auxiliary if entry else {},
        dimensions=entry.dimensions if entry else None,
    )
    (scores,) = score_clips([clip], metrics, models, context.settings.eval.clip_bytes, context.check)
    return scores


def _fetch(kind: str, work: StepWork, context: StageContext, folder: Path) -> Path:
    """The file that encode left in the hand-off directory, where it is still that file; else a copy from the store."""
    ref, local_path = work.outputs.encoded.file(kind), Path(work.outputs.encoded.files[kind])
    if local_path.is_file() and file_sha256(local_path, context.check) == ref.sha256:
        return local_path
    copy = folder / local_path.name
    try:
        context.storage.download(ref.key, copy)
    except NotFoundError as error:
        raise RetryableError(f"{kind} {ref.key}: it is not in the store", code="publish_missing") from error
    if file_sha256(copy, context.check) != ref.sha256:
        raise RetryableError(f"{kind} {ref.key}: its bytes are others", code="publish_missing")
    return copy


def record_of(metric: Metric, score: Score, models: Models) -> ScoreRecord:
    """A score as it is stored, with how it was made."""
    details = {**score.details, "weight": score.weight} if score.score is not None else dict(score.details)
    is_ready = not readiness(metric, models.weights).missing
    scorer = fingerprint(metric, models) if is_ready else {"version": metric.version, "weights": None}
    return ScoreRecord(metric.name, score.score, score.reason, score.passed, details, metric.version, scorer)


def _for_sidecar(options: ScoreOptions, records: Sequence[ScoreRecord]) -> dict[str, Any]:
    names = ("score", "reason", "passed", "details", "scorer")
    return {
        "gate": list(options.gate),
        "scores": {record.metric: {name: getattr(record, name) for name in names} for record in records},
    }


def _store(content: Mapping[str, Any], work: StepWork, context: StageContext, folder: Path) -> ObjectRef:
    """Upload the sidecar."""
    path = folder / "scored.json"
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", "utf-8")
    facts = facts_of(path)
    key = media_key(work.job_id, facts["sha256"], "json")
    failpoints.hit("upload", SIDECAR)
    context.storage.put_file(key, path, sha256=facts["sha256"], content_type="application/json")
    return ObjectRef(key=key, **facts)
