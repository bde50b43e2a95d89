"""Score clips that are published: a slice of a run's, by one model family. No stage of a job: nothing waits for it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pipeline import failpoints
from pipeline.digests import canonical_json, sha256_hex
from pipeline.errors import NotFoundError
from pipeline.files.digests import file_sha256
from pipeline.scoring import Expected, Metric, Models, Score, gate, not_scored
from pipeline.scoring.families import is_scored_by, of_family
from pipeline.scoring.run import ClipToScore, fingerprint, score_clips
from pipeline.scoring.suite_jobs import entry_of
from pipeline.stages.score import ready_of, record_of
from pipeline.storage.base import Storage
from pipeline.work import ScoreRecord, ScoreWork, StoredClip

Record = Callable[[StoredClip, Sequence[ScoreRecord]], None]
"""Writes a clip's scores down. Raises StoppedError when this attempt may not any more."""


def run(
    work: ScoreWork,
    models: Models,
    storage: Storage,
    record: Record,
    *,
    clip_bytes: int,
    check: Callable[[], None] = lambda: None,
) -> int:
    """Score the clips one by one, each recorded when it is done; how many of them could not be read.

    Raises:
        RefusedError: code ``eval_weights_wrong``.
        OutOfMemoryError: a model has too little memory for a clip.
        SettingsError: this machine has no such device.
        StoppedError: asked to stop.
    """
    metrics = of_family(gate.check_metrics(work.metrics), work.family)
    ready, missing = ready_of(metrics, models, set())
    digests = {metric.name: sha256_hex(canonical_json(fingerprint(metric, models))) for metric in ready}
    unread = 0
    for clip in work.clips:
        check()
        failpoints.hit("score_clip", work.family)
        clip_metrics = [metric for metric in metrics if is_scored_by(metric, clip.spec.labels)]
        if all((metric.name, digests.get(metric.name, "")) in clip.known for metric in clip_metrics):
            continue
        able = [metric for metric in clip_metrics if metric in ready]
        scores, problem = _score(clip, able, models, storage, clip_bytes, check)
        unread += problem is not None
        scores = {**scores, **{metric.name: missing[metric.name] for metric in clip_metrics if metric.name in missing}}
        record(clip, [record_of(metric, scores[metric.name], models) for metric in clip_metrics])
    return unread


def _score(
    clip: StoredClip,
    metrics: Sequence[Metric],
    models: Models,
    storage: Storage,
    clip_bytes: int,
    check: Callable[[], None],
) -> tuple[Mapping[str, Score], str | None]:
    """Scores by metric, and why the clip could not be read, if it could not."""
    if not metrics:
        return {}, None
    with tempfile.TemporaryDirectory(prefix="vgen-score-") as folder:
        path = Path(folder) / "clip.mp4"
        problem = None
        try:
            storage.download(clip.key, path)
            if file_sha256(path, check) != clip.sha256:
                problem = f"{clip.key}: its bytes are others than were published"
        except NotFoundError:
            problem = f"{clip.key}: it is not in the store"
        if problem is not None:
            return {metric.name: not_scored(problem) for metric in metrics}, problem
        item = clip_to_score(clip, path)
        (scores,) = score_clips([item], metrics, models, clip_bytes, check)
        return scores.scores, scores.problem


def clip_to_score(clip: StoredClip, path: Path) -> ClipToScore:
    """The clip with all that its row says of it."""
    spec, entry = clip.spec, entry_of(clip.spec.labels)
    return ClipToScore(
        path,
        spec.prompt,
        expected=Expected(spec.total_frames, spec.fps, spec.width, spec.height),
        auxiliary=entry.auxiliary if entry else {},
        entry=entry.index if entry else None,
        seed=spec.seed,
        dimensions=entry.dimensions if entry else None,
    )
