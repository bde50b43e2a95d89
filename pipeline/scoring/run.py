"""Scoring many clips: each is decoded once and given to every metric; each model family is loaded once."""

import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL.Image import Image

from pipeline.digests import canonical_json, sha256_hex
from pipeline.errors import OutOfMemoryError, RefusedError, VgenError
from pipeline.files.digests import file_sha256
from pipeline.inputs.images import read_image
from pipeline.media.opening import UnreadableMediaError
from pipeline.media.packets import packets_sha256
from pipeline.scoring.clip import MAX_BYTES, Clip, pixel_digest, read_clip
from pipeline.scoring.extended import is_long
from pipeline.scoring.metric import Context, Expected, Metric, Need, Score, not_scored
from pipeline.scoring.residency import Models, is_out_of_memory

LONG = "long_clip_scored_whole"
"""The detail of a score by which ``vgen eval aggregate`` says that the clip belongs to VBench-Long."""
_LIBRARIES = ("torch", "transformers", "numpy", "pillow")


@dataclass(frozen=True, slots=True)
class ClipToScore:
    """One clip and what belongs to it. ``entry`` and ``seed`` are its key in a suite; its file name never is."""

    video: Path
    prompt: str | None = None
    reference: Path | None = None
    auxiliary: Mapping[str, Any] = field(default_factory=dict)
    expected: Expected = field(default_factory=Expected)
    entry: int | None = None
    seed: int | None = None
    dimensions: tuple[str, ...] | None = None
    """VBench dimensions that the suite asks for this clip; None means all that were chosen."""
    image: Path | None = None
    """The picture that the clip was made from."""
    known: frozenset[str] = frozenset()
    """Metrics whose scores are there already: they are not computed again."""

    def inputs_digest(self) -> str:
        """sha256 of all that scores depend on beside the file and the scorer. Raises OSError for a lost reference."""
        reference, image = (None if path is None else file_sha256(path) for path in (self.reference, self.image))
        dimensions = None if self.dimensions is None else sorted(self.dimensions)
        facts = {"prompt": self.prompt, "reference": reference, "auxiliary": self.auxiliary, "dimensions": dimensions}
        facts |= {"image": image} if image is not None else {}
        return sha256_hex(canonical_json({**facts, "expected": asdict(self.expected)}))


@dataclass(frozen=True, slots=True)
class ClipScores:
    """A clip's scores by metric name. ``problem`` says why it could not be read, if it could not."""

    clip: ClipToScore
    scores: Mapping[str, Score]
    problem: str | None
    decode_seconds: float
    score_seconds: Mapping[str, float]
    pixels: str | None = None
    """``clip.pixel_digest``: runs with the same pixels and sound need no comparison of scores."""
    sound: str | None = None
    """The digest of the sound's packets, where there is one."""
    notes: tuple[str, ...] = ()
    """Properties of the video that its scores do not show."""
    sha256: str | None = None
    """The digest of the file."""


@dataclass(eq=False)
class Loaded:
    """A clip that is decoded, with its reference; or ``problem`` says why it is not."""

    item: ClipToScore
    clip: Clip | None = None
    reference: Clip | None = None
    problem: str | None = None
    reference_problem: str | None = None
    """Why there is no reference, where one is needed."""
    picture: Image | None = None
    picture_problem: str | None = None
    """Why there is no picture that the clip was made from, where one is named."""
    sound: str | None = None
    """The digest of the sound's packets, where there is one."""
    seconds: float = 0.0
    sha256: str | None = None
    folder: tempfile.TemporaryDirectory[str] | None = None
    """The folder of the clip's own copy, which is there until it is scored."""

    @property
    def bytes(self) -> int:
        return sum(clip.frames.nbytes for clip in (self.clip, self.reference) if clip is not None)

    def close(self) -> None:
        if self.folder is not None:
            self.folder.cleanup()


def score_clips(
    clips: Iterable[ClipToScore],
    metrics: Sequence[Metric],
    models: Models,
    max_bytes: int = MAX_BYTES,
    check: Callable[[], None] = lambda: None,
    *,
    required: Collection[str] = (),
    strict: bool = False,
) -> Iterator[ClipScores]:
    """Score clips one by one, in order. A clip that cannot be read is not scored by any metric, and the rest goes on.

    So it does where a metric fails: the clip is not scored by it. The next clip is decoded meanwhile. ``check`` is
    called before each metric; what it raises ends the scoring.

    Raises:
        RefusedError: code ``eval_weights_missing``: no clip could be scored with these; code ``eval_weights_wrong``,
            of a metric that is ``required``.
        OutOfMemoryError: a clip is too large for a model of a required metric, or of any where ``strict``; so are other
            errors of theirs raised as they are.
        SettingsError: this machine has no such device.
    """
    loads = (partial(load, item, metrics, max_bytes) for item in clips)
    for loaded in ahead(loads, max_bytes):
        yield score_loaded(loaded, metrics, models, check, required=required, strict=strict)


def load(item: ClipToScore, metrics: Sequence[Metric], max_bytes: int = MAX_BYTES) -> Loaded:
    """Decode a clip, and its reference where one of its metrics needs it."""
    started = time.perf_counter()
    try:
        clip = _decoded(item, max_bytes)
        sha256 = file_sha256(item.video)
    except (RefusedError, OSError) as error:
        return Loaded(item, problem=str(error))
    asked = [metric for metric in metrics if is_asked(metric, item)]
    reference, problem = _reference(item, asked, max_bytes)
    loaded = Loaded(item, clip, reference, reference_problem=problem, sound=_sound(clip), sha256=sha256)
    if item.image is not None and any(Need.IMAGE in metric.needs for metric in asked):
        try:
            loaded.picture = read_image(item.image.read_bytes(), item.image.name).image
        except (OSError, ValueError) as error:
            loaded.picture_problem = f"the picture that the clip was made from: {error}"
    loaded.seconds = time.perf_counter() - started
    return loaded


def ahead(loads: Iterable[Callable[[], Loaded]], max_bytes: int = MAX_BYTES) -> Iterator[Loaded]:
    """What the functions return, in order; each next one is called while its caller has the one before.

    Where that one has more than a quarter of ``max_bytes``, the next waits: two such clips need not be there at once.
    """
    remaining = iter(loads)
    with ThreadPoolExecutor(1, thread_name_prefix="vgen-decode") as pool:
        function = next(remaining, None)
        future = None if function is None else pool.submit(function)
        while future is not None:
            loaded = future.result()
            following = next(remaining, None)
            small = loaded.bytes <= max_bytes // 4
            future = pool.submit(following) if following is not None and small else None
            try:
                yield loaded
            except GeneratorExit:
                if future is not None:
                    future.result().close()
                raise
            finally:
                loaded.close()
            del loaded
            if future is None and following is not None:
                future = pool.submit(following)


def score_loaded(
    loaded: Loaded,
    metrics: Sequence[Metric],
    models: Models,
    check: Callable[[], None] = lambda: None,
    *,
    required: Collection[str] = (),
    strict: bool = False,
) -> ClipScores:
    """Score one clip. Raises as ``score_clips``."""
    item, clip = loaded.item, loaded.clip
    chosen = [metric for metric in metrics if is_asked(metric, item)]
    if clip is None:
        problem = loaded.problem or "it could not be read"
        return ClipScores(item, {metric.name: not_scored(problem) for metric in chosen}, problem, 0.0, {})
    context = Context(
        models, item.prompt, loaded.reference, item.auxiliary, item.expected, loaded.picture, item.dimensions
    )
    scores, seconds = {}, {}
    for metric in chosen:
        check()
        if loaded.reference_problem is not None and Need.REFERENCE in metric.needs:
            scores[metric.name] = not_scored(loaded.reference_problem)
            continue
        if loaded.picture_problem is not None and Need.IMAGE in metric.needs:
            scores[metric.name] = not_scored(loaded.picture_problem)
            continue
        try:
            if metric.family is not None:
                models.get(metric.family)  # so that loading is not counted as scoring
            started = time.perf_counter()
            with models.computing(metric.family):
                scores[metric.name] = metric.score(clip, context)
            if metric.group == "vbench" and is_long(clip):
                scores[metric.name] = _scored_whole(scores[metric.name])
            seconds[metric.name] = time.perf_counter() - started
        except Exception as error:  # noqa: BLE001 - one model's fault costs no other metric its score
            scores[metric.name] = _failed(metric, clip, error, required=required, strict=strict)
    return ClipScores(
        item, scores, None, loaded.seconds, seconds, pixel_digest(clip), loaded.sound, clip.notes, loaded.sha256
    )


def _scored_whole(score: Score) -> Score:
    """The score of a long clip by a dimension that the official code would score in parts."""
    return replace(score, details={**score.details, LONG: True}) if score.score is not None else score


def _failed(metric: Metric, clip: Clip, error: Exception, *, required: Collection[str], strict: bool) -> Score:
    """The clip's score by a metric that failed: none. What must be heard is raised instead, as ``score_clips`` says."""
    needed = metric.name in required
    if isinstance(error, RefusedError) and error.code == "eval_weights_wrong":
        if needed:
            raise error
        return not_scored(str(error), failed=True)
    if isinstance(error, VgenError):
        raise error
    if is_out_of_memory(error):
        size = f"{len(clip.frames)} frames of {clip.width}x{clip.height}"
        message = f"{clip.path}, {size}: too little memory for {metric.name}"
        if needed or strict:
            raise OutOfMemoryError(message) from error
        return not_scored(message, failed=True)
    if needed or strict:
        raise error
    first = (str(error).strip() or "no message").splitlines()[0]
    return not_scored(f"{metric.name} failed: {type(error).__name__}: {first:.300}", failed=True)


def is_asked(metric: Metric, item: ClipToScore) -> bool:
    """Return whether the clip is to be scored by the metric: a suite may ask for less, and some scores be known."""
    if metric.name in item.known:
        return False
    return metric.scores_clip_of(item.dimensions)


def _sound(clip: Clip) -> str | None:
    try:
        return packets_sha256(clip.path, sound_only=True) if clip.has_audio else None
    except UnreadableMediaError:
        return None  # the pictures could be read; checks.loudness says what is wrong with the sound


def _decoded(item: ClipToScore, max_bytes: int) -> Clip:
    clip = read_clip(item.video, max_bytes)
    if clip.fps is None and item.expected.fps is not None:
        clip = replace(clip, fps=Fraction(item.expected.fps).limit_denominator(1001))
    return clip


def _reference(item: ClipToScore, metrics: Sequence[Metric], max_bytes: int) -> tuple[Clip | None, str | None]:
    """The clip to compare with, where a metric needs one, and why it cannot be read, if it cannot."""
    if item.reference is None or all(Need.REFERENCE not in metric.needs for metric in metrics):
        return None, None
    try:
        return read_clip(item.reference, max_bytes), None
    except RefusedError as error:
        return None, f"the reference cannot be read: {error}"


def fingerprint(metric: Metric, models: Models) -> dict[str, Any]:
    """Return what decides a metric's numbers beside the clip: scores of different fingerprints are not compared."""
    facts: dict[str, Any] = {"version": metric.version, "decoder": f"PyAV {version('av')}", "numpy": version("numpy")}
    if metric.family is not None:
        facts |= {name: version(name) for name in _LIBRARIES}
        device = models.device.partition(":")[0]  # which of several it is does not decide
        facts |= {"device": device, "dtype": models.precision, "weights": models.digests(metric.family)}
    return facts


def as_json(clip_scores: ClipScores, fingerprints: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """``{video, scores: {metric: {name, score, details}}}``, and the clip's key where it has one."""
    scores = {}
    for name, score in clip_scores.scores.items():
        record = score.as_json()
        if score.score is not None and name in fingerprints:
            record["details"]["scorer"] = dict(fingerprints[name])
        scores[name] = {"name": name, **record}
    key = {
        name: value
        for name, value in (("entry", clip_scores.clip.entry), ("seed", clip_scores.clip.seed))
        if value is not None
    }
    digests = (("pixels", clip_scores.pixels), ("sound", clip_scores.sound), ("sha256", clip_scores.sha256))
    known = {name: value for name, value in digests if value is not None}
    prompt = {} if clip_scores.clip.prompt is None else {"prompt": clip_scores.clip.prompt}
    return {"video": str(clip_scores.clip.video), **key, **prompt, **known, "scores": scores}
