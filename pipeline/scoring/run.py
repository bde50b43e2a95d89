"""Scoring many clips: each is decoded once and given to every metric; each model family is loaded once."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.errors import OutOfMemoryError, RefusedError
from pipeline.media.opening import UnreadableMediaError
from pipeline.media.packets import packets_sha256
from pipeline.scoring.clip import MAX_BYTES, Clip, pixel_digest, read_clip
from pipeline.scoring.metric import Context, Expected, Metric, Need, Score, not_scored
from pipeline.scoring.residency import Models

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


def score_clips(
    clips: Iterable[ClipToScore],
    metrics: Sequence[Metric],
    models: Models,
    max_bytes: int = MAX_BYTES,
    check: Callable[[], None] = lambda: None,
) -> Iterator[ClipScores]:
    """Score clips one by one, in order. A clip that cannot be read is not scored by any metric, and the rest goes on.

    ``check`` is called before each metric; what it raises ends the scoring.

    Raises:
        RefusedError: code ``eval_weights_missing`` or ``eval_weights_wrong``: no clip could be scored with these.
        OutOfMemoryError: a clip is too large for a model on this device.
    """
    for clip in clips:
        yield _score(clip, metrics, models, max_bytes, check)


def _score(
    item: ClipToScore, metrics: Sequence[Metric], models: Models, max_bytes: int, check: Callable[[], None]
) -> ClipScores:
    chosen = [metric for metric in metrics if _asked(metric, item)]
    started = time.perf_counter()
    try:
        clip = _decoded(item, max_bytes)
    except RefusedError as error:
        return ClipScores(item, {metric.name: not_scored(str(error)) for metric in chosen}, str(error), 0.0, {})
    reference, problem = _reference(item, chosen, max_bytes)
    decoded = time.perf_counter() - started
    context = Context(models, item.prompt, reference, item.auxiliary, item.expected)
    scores, seconds = {}, {}
    for metric in chosen:
        check()
        if problem is not None and Need.REFERENCE in metric.needs:
            scores[metric.name] = not_scored(problem)
            continue
        if metric.family is not None:
            models.get(metric.family)  # so that loading is not counted as scoring
        started = time.perf_counter()
        scores[metric.name] = _of_metric(metric, clip, context)
        seconds[metric.name] = time.perf_counter() - started
    return ClipScores(item, scores, None, decoded, seconds, pixel_digest(clip), _sound(clip), clip.notes)


def _sound(clip: Clip) -> str | None:
    try:
        return packets_sha256(clip.path, sound_only=True) if clip.has_audio else None
    except UnreadableMediaError:
        return None  # the pictures could be read; checks.loudness says what is wrong with the sound


def _of_metric(metric: Metric, clip: Clip, context: Context) -> Score:
    try:
        return metric.score(clip, context)
    except (MemoryError, RuntimeError) as error:
        if type(error).__name__ not in ("MemoryError", "OutOfMemoryError"):  # torch's is known by name: no torch here
            raise
        size = f"{len(clip.frames)} frames of {clip.width}x{clip.height}"
        raise OutOfMemoryError(f"{clip.path}, {size}: too little memory for {metric.name}") from error


def _asked(metric: Metric, item: ClipToScore) -> bool:
    return metric.group != "vbench" or item.dimensions is None or metric.dimension in item.dimensions


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
        facts |= {"device": models.device, "dtype": "float32", "weights": models.digests(metric.family)}
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
    pixels = {} if clip_scores.pixels is None else {"pixels": clip_scores.pixels}
    pixels |= {} if clip_scores.sound is None else {"sound": clip_scores.sound}
    return {"video": str(clip_scores.clip.video), **key, **pixels, "scores": scores}
