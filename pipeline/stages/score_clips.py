"""Scores published clips: one slice of an evaluation run. This is not a stage of a job."""

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

    On a GPU a model's failure ends the step, which the CPUs then do again; there it costs the clip that score alone.

    Raises:
        OutOfMemoryError: a model has too little memory for a clip on the GPU.
        SettingsError: this machine has no such device.
        StoppedError: asked to stop.
    """
    metrics = of_family(gate.check_metrics(work.metrics, reference=work.reference is not None), work.family)
    scorer = ClipScorer(metrics, models, clip_bytes, check, strict=models.device != "cpu")
    unread = 0
    check()
    todo = [clip for clip in work.clips if not scorer.knows(clip)]
    for clip, scored in scorer.score_stored(todo, storage, lambda: failpoints.hit("score_clip", work.family)):
        unread += scored.problem is not None
        record(clip, scorer.records(scored.scores, clip.reference))
    return unread
