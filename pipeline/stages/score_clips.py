"""Score clips that are published: a slice of a run's, by one model family. No stage of a job: nothing waits for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline import failpoints
from pipeline.scoring import Models, gate
from pipeline.scoring.families import of_family
from pipeline.stages.clip_scorer import ClipScorer
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
    metrics = of_family(gate.check_metrics(work.metrics, reference=work.reference is not None), work.family)
    scorer = ClipScorer(metrics, models, clip_bytes, check)
    unread = 0
    for clip in work.clips:
        check()
        failpoints.hit("score_clip", work.family)
        if not scorer.knows(clip):
            scored = scorer.score_stored(clip, storage)
            unread += scored.problem is not None
            record(clip, scorer.records(scored.scores, clip.reference))
    return unread
