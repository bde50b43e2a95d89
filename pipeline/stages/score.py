"""Score: the encoded clip is scored, and the gate says whether it is published."""

from __future__ import annotations

import functools
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import failpoints
from pipeline.errors import NotFoundError, RetryableError
from pipeline.files.digests import facts_of, file_sha256
from pipeline.object_names import media_key
from pipeline.scoring import Models, Weights, gate
from pipeline.settings import Settings
from pipeline.spec import ScoreOptions
from pipeline.stages.clip_scorer import ClipScorer
from pipeline.work import Outcome, ScoreRecord, StageContext, StageResult, StepWork

SIDECAR = "sidecar"


def run(work: StepWork, context: StageContext) -> StageResult:
    """Score the clip that encode made, from its file in the hand-off directory or else from the store.

    The output has ``accepted``, ``reason`` (why not, else None), ``seed`` (of this roll), ``scores`` by metric, and
    ``replaced``: key, sha256 and size of the sidecar with the scores in it, which is published in place of encode's.

    Raises:
        RefusedError: code ``eval_weights_missing``: the gate asks for a metric whose weights this worker lacks; code
            ``eval_weights_wrong``.
        RetryableError: code ``publish_missing``: the clip is neither here nor in the store. Or as the store raises.
        OutOfMemoryError: a model has too little memory for the clip.
        StoppedError: asked to stop.
    """
    options = work.options.score
    assert options is not None, "the stage is a part of the line only where the batch asks for it"
    models, rules = models_of(context.settings), gate.parse(options.gate, options.metrics)
    scorer = ClipScorer(
        gate.check_metrics(options.metrics),
        models,
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
        output: dict[str, Any] = {
            "accepted": reason is None,
            "reason": reason,
            "seed": work.spec.seed,
            "scores": {record.metric: record.score for record in records},
        }
        if reason is None:
            content = json.loads(_fetch(SIDECAR, work, context, Path(folder)).read_text("utf-8"))
            content["scoring"] = _for_sidecar(options, records)
            output["replaced"] = {SIDECAR: _store(content, work, context, Path(folder))}
    frames = context.handoff.here(work.outputs["generate"]["frames_path"])
    return StageResult(
        outcome=Outcome.DONE if reason is None else Outcome.REJECTED,
        output=output,
        scores=records,
        after_commit=lambda: context.handoff.free(frames),
    )


@functools.lru_cache(maxsize=1)
def _loaded(weights_dir: Path | None, digests: Path, device: str) -> Models:
    return Models(Weights(weights_dir, digests), device)


def models_of(settings: Settings, device: str | None = None) -> Models:
    """The models of this process, which stay loaded from clip to clip; ``device`` in place of the setting's."""
    digests = settings.effective_cache_dir / "eval" / "digests.json"
    return _loaded(settings.eval.weights_dir, digests, device or settings.eval.device)


def drop_models() -> None:
    """Give back the memory of this process's models, a GPU's too; they are loaded again when they are needed."""
    if _loaded.cache_info().currsize == 0:
        return
    _loaded.cache_clear()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _fetch(kind: str, work: StepWork, context: StageContext, folder: Path) -> Path:
    """The file that encode left in the hand-off directory, where it is still that file; else a copy from the store."""
    encoded = work.outputs["encode"]
    local_path = Path(encoded["files"][kind])
    if local_path.is_file() and file_sha256(local_path, context.check) == encoded[kind]["sha256"]:
        return local_path
    copy = folder / local_path.name
    try:
        context.storage.download(encoded[kind]["key"], copy)
    except NotFoundError as error:
        key = encoded[kind]["key"]
        raise RetryableError(f"{kind} {key}: it is not in the store", code="publish_missing") from error
    if file_sha256(copy, context.check) != encoded[kind]["sha256"]:
        raise RetryableError(f"{kind} {encoded[kind]['key']}: its bytes are others", code="publish_missing")
    return copy


def _for_sidecar(options: ScoreOptions, records: Sequence[ScoreRecord]) -> dict[str, Any]:
    names = ("score", "reason", "passed", "details", "scorer")
    return {
        "gate": list(options.gate),
        "scores": {record.metric: {name: getattr(record, name) for name in names} for record in records},
    }


def _store(content: Mapping[str, Any], work: StepWork, context: StageContext, folder: Path) -> dict[str, Any]:
    """Upload the sidecar; its key, sha256 and size."""
    path = folder / "scored.json"
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", "utf-8")
    facts = facts_of(path)
    key = media_key(work.job_id, facts["sha256"], "json")
    failpoints.hit("upload", SIDECAR)
    context.storage.put_file(key, path, sha256=facts["sha256"], content_type="application/json")
    return {"key": key, **facts}
