"""Scores a clip of a job, for every caller alike: what its specification asks, and what this machine cannot score."""

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from pipeline.digests import canonical_json, sha256_hex
from pipeline.errors import NotFoundError, RefusedError
from pipeline.files.digests import file_sha256
from pipeline.scoring import Expected, Metric, Models, Need, Score, not_scored
from pipeline.scoring.families import is_scored_by
from pipeline.scoring.registry import readiness
from pipeline.scoring.run import ClipScores, ClipToScore, fingerprint, score_clips
from pipeline.scoring.suite_jobs import entry_of
from pipeline.spec import JobSpec
from pipeline.storage.base import Storage
from pipeline.work import ReferenceClip, ScoreRecord, StoredClip


def clip_to_score(spec: JobSpec, video: Path, reference: Path | None = None) -> ClipToScore:
    """The clip with all that its job's specification says of it; the seed is that of its roll."""
    entry = entry_of(spec.labels)
    return ClipToScore(
        video,
        spec.prompt,
        reference=reference,
        expected=Expected(spec.clip_frames, spec.fps, spec.width, spec.height),
        auxiliary=entry.auxiliary if entry else {},
        entry=entry.index if entry else None,
        seed=spec.seed,
        dimensions=entry.dimensions if entry else None,
    )


class ClipScorer:
    """Scores clips by some metrics; one whose weights are not on this machine scores none and says so.

    A suite's clip is scored in its entry's dimensions alone. ``check`` is called often: what it raises ends it all.

    Raises:
        RefusedError: code ``eval_weights_missing``: weights of a metric among ``required`` are missing; code
            ``eval_weights_wrong``, by any method.
        OutOfMemoryError: a model has too little memory for a clip.
    """

    def __init__(
        self,
        metrics: Sequence[Metric],
        models: Models,
        max_bytes: int,
        check: Callable[[], None] = lambda: None,
        *,
        required: Collection[str] = (),
    ) -> None:
        self._metrics, self._models, self._max_bytes, self._check = metrics, models, max_bytes, check
        self._missing: dict[str, Score] = {}
        for metric in metrics:
            if metric.family is not None and find_spec("torch") is None:
                self._missing[metric.name] = not_scored("torch is not installed here: pip install 'vgen[eval]'")
            if lacking := readiness(metric, models.weights).missing:
                why = "; ".join(f"{name}, {models.weights.where(name)}" for name in lacking)
                if metric.name in required:
                    raise RefusedError(f"{metric.name}: weights missing: {why}", code="eval_weights_missing")
                self._missing[metric.name] = not_scored(f"weights missing: {why}")

    @cached_property
    def fingerprints(self) -> dict[str, dict[str, object]]:
        """What decides the numbers of each metric that can be computed here."""
        return {
            metric.name: fingerprint(metric, self._models)
            for metric in self._metrics
            if metric.name not in self._missing
        }

    def score(self, spec: JobSpec, video: Path, reference: Path | None = None) -> ClipScores:
        """The clip's score by each metric that is asked of it, in no order."""
        able = [metric for metric in self._asked(spec) if metric.name not in self._missing]
        item = clip_to_score(spec, video, reference)
        (scored,) = score_clips([item], able, self._models, self._max_bytes, self._check)
        return replace(scored, scores={**scored.scores, **self._unable(spec)})

    def score_stored(self, clip: StoredClip, storage: Storage) -> ClipScores:
        """The same of a published clip. One that is not in the store, or is another, could not be read.

        A reference that cannot be fetched is as none: the metrics that need it do not score, and say why.
        """
        able = [metric for metric in self._asked(clip.spec) if metric.name not in self._missing]
        item = clip_to_score(clip.spec, Path(clip.key))
        if not able:
            return ClipScores(item, self._unable(clip.spec), None, 0.0, {})
        with tempfile.TemporaryDirectory(prefix="vgen-score-") as folder:
            path, other = Path(folder) / "clip.mp4", Path(folder) / "reference.mp4"
            problem = self._fetch(storage, clip.key, clip.sha256, path)
            lost = self._reference_problem(clip, storage, other)
            if problem is None:
                scored = self.score(clip.spec, path, None if lost else other)
                return replace(scored, clip=item, scores={**scored.scores, **self._uncompared(able, lost)})
        unread = {metric.name: not_scored(problem) for metric in able}
        return ClipScores(item, {**unread, **self._unable(clip.spec)}, problem, 0.0, {})

    def knows(self, clip: StoredClip) -> bool:
        """Return whether the clip has every score already that it would be given."""
        return all(
            (metric.name, self._scorer_digest(metric, clip.reference)) in clip.known
            for metric in self._asked(clip.spec)
        )

    def records(self, scores: Mapping[str, Score], reference: ReferenceClip | None = None) -> tuple[ScoreRecord, ...]:
        """The scores as they are stored, with how they were made, in the order of the metrics."""
        return tuple(
            self._record(metric, scores[metric.name], reference) for metric in self._metrics if metric.name in scores
        )

    def _fetch(self, storage: Storage, key: str, sha256: str, path: Path) -> str | None:
        """Download an object; return what is wrong with it, if anything."""
        try:
            storage.download(key, path)
        except NotFoundError:
            return f"{key}: it is not in the store"
        if file_sha256(path, self._check) != sha256:
            return f"{key}: its bytes are others than were published"
        return None

    def _reference_problem(self, clip: StoredClip, storage: Storage, path: Path) -> str | None:
        """Fetch the clip's reference where a metric needs it; return why there is none."""
        if all(Need.REFERENCE not in metric.needs for metric in self._metrics):
            return None
        if clip.reference is None:
            return "the run that this one is compared with has no clip of this entry and seed"
        problem = self._fetch(storage, clip.reference.key, clip.reference.sha256, path)
        return None if problem is None else f"the reference: {problem}"

    def _uncompared(self, metrics: Sequence[Metric], why: str | None) -> dict[str, Score]:
        """The scores of the metrics that need a reference, where there is none."""
        if why is None:
            return {}
        return {metric.name: not_scored(why) for metric in metrics if Need.REFERENCE in metric.needs}

    def _scorer(self, metric: Metric, reference: ReferenceClip | None) -> dict[str, object]:
        """What decides the metric's numbers; of one that compares, the reference too."""
        scorer = self.fingerprints.get(metric.name, {"version": metric.version, "weights": None})
        if Need.REFERENCE in metric.needs and reference is not None:
            return {**scorer, "reference": reference.sha256}
        return scorer

    def _scorer_digest(self, metric: Metric, reference: ReferenceClip | None) -> str:
        if metric.name not in self.fingerprints:
            return ""
        return sha256_hex(canonical_json(self._scorer(metric, reference)))

    def _record(self, metric: Metric, score: Score, reference: ReferenceClip | None) -> ScoreRecord:
        details = {**score.details, "weight": score.weight} if score.score is not None else dict(score.details)
        scorer = self._scorer(metric, reference)
        return ScoreRecord(metric.name, score.score, score.reason, score.passed, details, metric.version, scorer)

    def _asked(self, spec: JobSpec) -> list[Metric]:
        return [metric for metric in self._metrics if is_scored_by(metric, spec.labels)]

    def _unable(self, spec: JobSpec) -> dict[str, Score]:
        return {metric.name: self._missing[metric.name] for metric in self._asked(spec) if metric.name in self._missing}
