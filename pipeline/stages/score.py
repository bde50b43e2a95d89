"""The score stage: scores the encoded clip and applies the gate."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import failpoints
from pipeline.errors import NotFoundError, RetryableError
from pipeline.files.digests import facts_of, file_sha256
from pipeline.files.object_names import media_key
from pipeline.outputs import ObjectRef, ScoreOutput
from pipeline.scoring import gate
from pipeline.spec import ScoreOptions
from pipeline.stages.clip_scorer import ClipScorer
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
    rules = gate.parse(options.gate, options.metrics)
    scorer = ClipScorer(
        gate.check_metrics(options.metrics),
        context.models.scorers(),
        context.settings.eval.clip_bytes,
        context.check,
        required={name for rule in rules for name in rule.metrics},
    )
    with tempfile.TemporaryDirectory(prefix="vgen-score-") as folder:
        video = _fetch("video", work, context, Path(folder))
        context.check()
        scored = scorer.score(work.spec, video)
        reason = gate.rejection_reasons(rules, scored.scores)
        if reason is None and rules and scored.problem is not None:
            reason = scored.problem
        records = scorer.records(scored.scores)
        by_metric = {record.metric: record.score for record in records}
        output = ScoreOutput(accepted=reason is None, reason=reason, seed=work.spec.seed, scores=by_metric)
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
        raise RetryableError(f"{kind} {ref.key}: its bytes differ from the recorded ones", code="publish_missing")
    return copy


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
