"""Scores a clip of a job, for every caller alike: what its specification asks, and what this machine cannot score."""

import tempfile
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path

from pipeline.digests import canonical_json, sha256_hex
from pipeline.errors import NotFoundError, RefusedError
from pipeline.files.digests import file_sha256
from pipeline.scoring import Expected, Metric, Models, Need, Score, not_scored
from pipeline.scoring.families import is_scored_by
from pipeline.scoring.registry import WEIGHTS_MISSING, readiness
from pipeline.scoring.run import ClipScores, ClipToScore, Loaded, ahead, fingerprint, load, score_loaded
from pipeline.scoring.suite_jobs import entry_of
from pipeline.spec import JobSpec
from pipeline.storage.base import Storage
from pipeline.work import UNABLE, ReferenceClip, ScoreRecord, StoredClip


def clip_to_score(spec: JobSpec, video: Path) -> ClipToScore:
    """The clip with all that its job's specification says of it; the seed is that of its roll."""
    entry = entry_of(spec.labels)
    return ClipToScore(
        video,
        spec.prompt,
        expected=Expected(spec.clip_frames, spec.fps, spec.width, spec.height),
        auxiliary=entry.auxiliary if entry else {},
        entry=entry.index if entry else None,
        seed=spec.seed,
        dimensions=entry.dimensions if entry else None,
    )


def _unable(why: str) -> Score:
    return not_scored(why, **{UNABLE: True})


class ClipScorer:
    """Scores clips by some metrics; one whose weights are not on this machine scores none and says so.

    A suite's clip is scored in its entry's dimensions alone. ``check`` is called often: what it raises ends it all.
    A metric that fails gives no score and says why, but for those that are ``required``, and for all of them where
    ``strict``: their errors are raised.

    Raises:
        RefusedError: code ``eval_weights_missing``: weights of a metric among ``required`` are missing; code
            ``eval_weights_wrong``: they are none of its model.
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
        strict: bool = False,
    ) -> None:
        self._required, self._strict = frozenset(required), strict
        self._metrics, self._models, self._max_bytes, self._check = metrics, models, max_bytes, check
        self._missing: dict[str, Score] = {}
        for metric in metrics:
            if metric.family is not None and find_spec("torch") is None:
                self._missing[metric.name] = _unable("torch is not installed here: pip install 'vgen[eval]'")
            if lacking := readiness(metric, models.weights).missing:
                why = "; ".join(f"{name}, {models.weights.where(name)}" for name in lacking)
                if metric.name in required:
                    raise RefusedError(f"{metric.name}: {WEIGHTS_MISSING}: {why}", code="eval_weights_missing")
                self._missing[metric.name] = _unable(f"{WEIGHTS_MISSING}: {why}")

    @cached_property
    def fingerprints(self) -> dict[str, dict[str, object]]:
        """What decides the numbers of each metric that can be computed here."""
        return {
            metric.name: fingerprint(metric, self._models)
            for metric in self._metrics
            if metric.name not in self._missing
        }

    def score(self, spec: JobSpec, video: Path) -> ClipScores:
        """The clip's score by each metric that is asked of it, in no order."""
        able = self._able(spec)
        loaded = load(clip_to_score(spec, video), able, self._max_bytes)
        return self._scored(loaded, able, self._unable(spec))

    def score_stored(
        self, clips: Iterable[StoredClip], storage: Storage, begin: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[StoredClip, ClipScores]]:
        """The same of published clips, by the metrics whose scores each does not have yet.

        Each clip is fetched, checked and decoded once, while the one before is scored. One that is not in the store,
        or is another, could not be read; where that is the clip's reference, the metrics that compare with it do not
        score, and say why. ``begin`` is called before each is scored.
        """
        fetched: deque[StoredClip] = deque()

        def loads() -> Iterator[Callable[[], Loaded]]:
            for clip in clips:
                fetched.append(clip)
                yield partial(self._fetch, clip, storage)

        for loaded in ahead(loads(), self._max_bytes):
            clip = fetched.popleft()
            self._check()
            begin()
            able = self._able_new(clip)
            scored = self._scored(loaded, able, self._unable(clip.spec))
            yield clip, replace(scored, clip=clip_to_score(clip.spec, Path(clip.key)))

    def _scored(self, loaded: Loaded, able: Sequence[Metric], unable: Mapping[str, Score]) -> ClipScores:
        if not able:
            return ClipScores(loaded.item, unable, loaded.problem, 0.0, {})
        scored = score_loaded(loaded, able, self._models, self._check, required=self._required, strict=self._strict)
        return replace(scored, scores={**scored.scores, **unable})

    def _fetch(self, clip: StoredClip, storage: Storage) -> Loaded:
        """A copy of the clip from the store, decoded; its folder is there until it is scored."""
        item = clip_to_score(clip.spec, Path(clip.key))
        able = self._able_new(clip)
        if not able:
            return Loaded(item)
        folder = tempfile.TemporaryDirectory(prefix="vgen-score-")
        path = Path(folder.name) / "clip.mp4"
        try:
            storage.download(clip.key, path)
            if file_sha256(path) != clip.sha256:
                return Loaded(item, problem=f"{clip.key}: its bytes differ from the published ones", folder=folder)
            other, lost = self._fetch_reference(clip, able, storage, Path(folder.name) / "reference.mp4")
            image, no_image = self._fetch_image(clip, able, storage, Path(folder.name) / "image")
            item = replace(item, video=path, reference=other, image=image)
            loaded = load(item, able, self._max_bytes)
            loaded.picture_problem = no_image or loaded.picture_problem
            return replace(loaded, folder=folder, reference_problem=lost or loaded.reference_problem)
        except NotFoundError:
            return Loaded(item, problem=f"{clip.key}: it is not in the store", folder=folder)
        except BaseException:
            folder.cleanup()
            raise

    def _fetch_image(
        self, clip: StoredClip, metrics: Sequence[Metric], storage: Storage, path: Path
    ) -> tuple[Path | None, str | None]:
        """A copy of the picture that the clip was made from, where a metric needs it, and why there is none."""
        image = clip.spec.image
        if image is None or all(Need.IMAGE not in metric.needs for metric in metrics):
            return None, None
        try:
            storage.download(image.key, path)
        except NotFoundError:
            return None, f"the picture that the clip was made from is not in the store ({image.key})"
        return path, None

    def _fetch_reference(
        self, clip: StoredClip, metrics: Sequence[Metric], storage: Storage, path: Path
    ) -> tuple[Path | None, str | None]:
        """A copy of the clip's reference, where a metric needs it, and why there is none."""
        if all(Need.REFERENCE not in metric.needs for metric in metrics):
            return None, None
        if clip.reference is None:
            return None, "the run that this one is compared with has no clip of this entry and seed"
        try:
            storage.download(clip.reference.key, path)
        except NotFoundError:
            return None, f"the reference {clip.reference.key} is not in the store"
        if file_sha256(path) != clip.reference.sha256:
            return None, f"the reference {clip.reference.key} has other bytes than were published"
        return path, None

    def known(self, clip: StoredClip) -> list[str]:
        """The metrics that this scorer would compute and whose scores the clip has already."""
        return [metric.name for metric in self._asked(clip.spec) if self._is_known(metric, clip)]

    def knows(self, clip: StoredClip) -> bool:
        """Return whether the clip has every score already that it would be given."""
        return all(self._is_known(metric, clip) for metric in self._asked(clip.spec))

    def _is_known(self, metric: Metric, clip: StoredClip) -> bool:
        """Return whether the clip has the metric's score already, made as this scorer would make it."""
        if metric.name not in self._digests or not clip.known:
            return False
        digest = self._digests[metric.name]
        if Need.REFERENCE in metric.needs and clip.reference is not None:
            digest = sha256_hex(canonical_json(self._scorer(metric, clip.reference)))
        return (metric.name, digest) in clip.known

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {name: sha256_hex(canonical_json(facts)) for name, facts in self.fingerprints.items()}

    def records(self, scores: Mapping[str, Score], reference: ReferenceClip | None = None) -> tuple[ScoreRecord, ...]:
        """The scores as they are stored, with how they were made, in the order of the metrics."""
        return tuple(
            self._record(metric, scores[metric.name], reference) for metric in self._metrics if metric.name in scores
        )

    def _scorer(self, metric: Metric, reference: ReferenceClip | None) -> dict[str, object]:
        """What decides the metric's numbers; of one that compares, the reference too."""
        scorer = self.fingerprints.get(metric.name, {"version": metric.version, "weights": None})
        if Need.REFERENCE in metric.needs and reference is not None:
            return {**scorer, "reference": reference.sha256}
        return scorer

    def _record(self, metric: Metric, score: Score, reference: ReferenceClip | None) -> ScoreRecord:
        details = {**score.details, "weight": score.weight} if score.score is not None else dict(score.details)
        scorer = self._scorer(metric, reference)
        return ScoreRecord(metric.name, score.score, score.reason, score.passed, details, metric.version, scorer)

    def _asked(self, spec: JobSpec) -> list[Metric]:
        return [metric for metric in self._metrics if is_scored_by(metric, spec.labels)]

    def _able(self, spec: JobSpec) -> list[Metric]:
        """The metrics that are asked and can be computed here."""
        return [metric for metric in self._asked(spec) if metric.name not in self._missing]

    def _able_new(self, clip: StoredClip) -> list[Metric]:
        """The same, but for those whose scores the clip has."""
        return [metric for metric in self._able(clip.spec) if not self._is_known(metric, clip)]

    def _unable(self, spec: JobSpec) -> dict[str, Score]:
        return {metric.name: self._missing[metric.name] for metric in self._asked(spec) if metric.name in self._missing}
