"""Compares the clips of two runs, and makes pictures of where they differ."""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from pipeline.errors import NotFoundError, VgenError
from pipeline.scoring import Clip, Metric, Models, read_clip
from pipeline.scoring.compare import Comparison, Key, Run, RunClip
from pipeline.scoring.compare.strips import strips_of_worst
from pipeline.scoring.metric import Score, not_scored
from pipeline.scoring.run import ClipToScore, fingerprint, score_clips
from pipeline.settings import Settings
from pipeline.wiring import make_storage


class ClipFiles:
    """Files of runs' clips: on this disk by path, or else in the store by key, from which they are fetched once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = ExitStack()
        self._folder: Path | None = None
        self._fetched: dict[str, Path] = {}

    def __enter__(self) -> "ClipFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def path(self, clip: RunClip) -> Path:
        """Raises NotFoundError: it is neither a file nor in the store."""
        video = clip.key or clip.video
        if clip.key is None and Path(video).is_file():
            return Path(video)
        if video not in self._fetched:
            if self._folder is None:
                self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="vgen-compare-")))
            target = self._folder / f"{len(self._fetched)}{Path(video).suffix}"
            try:
                make_storage(self._settings).download(video, target)
            except VgenError:
                raise NotFoundError(f"{video}: neither a file nor an object of the store has this name") from None
            self._fetched[video] = target
        return self._fetched[video]


def with_likeness(
    before: Run, after: Run, metrics: Sequence[Metric], models: Models, files: ClipFiles, max_bytes: int
) -> Run:
    """The run with how alike each of its clips is to the other run's of the same entry and seed.

    A clip that is not there or cannot be read is not scored, with the reason, and the rest is.
    """
    prints = {metric.name: fingerprint(metric, models) for metric in metrics}
    clips = dict(after.clips)
    for key in sorted(before.clips.keys() & after.clips.keys()):
        scores = _likeness(before.clips[key], after.clips[key], metrics, models, files, max_bytes)
        signed = {
            name: score if score.score is None else replace(score, details={**score.details, "scorer": prints[name]})
            for name, score in scores.items()
        }
        clips[key] = replace(clips[key], scores={**clips[key].scores, **signed})
    return replace(after, clips=clips)


def _likeness(
    before: RunClip, after: RunClip, metrics: Sequence[Metric], models: Models, files: ClipFiles, max_bytes: int
) -> Mapping[str, Score]:
    try:
        item = ClipToScore(files.path(after), after.prompt, reference=files.path(before))
    except NotFoundError as error:
        return {metric.name: not_scored(str(error)) for metric in metrics}
    (scored,) = score_clips([item], metrics, models, max_bytes)
    return scored.scores


def strips(before: Run, after: Run, compared: Comparison, files: ClipFiles, max_bytes: int) -> Mapping[Key, bytes]:
    """Pictures of how the clips that a report shows differ from the baseline's."""

    def read(key: Key) -> tuple[Clip, Clip]:
        first, second = (read_clip(files.path(run.clips[key]), max_bytes) for run in (before, after))
        return first, second

    return strips_of_worst(compared, read)
