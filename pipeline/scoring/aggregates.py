"""Aggregate clips' scores to dimensions, and those to quality, semantic and total, by VBench's constants."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.scoring.metric import Pooling, Score
from pipeline.scoring.vbench import DIMENSIONS, QUALITY, SEMANTIC

READ_PER_PROMPT = 5
"""The official code reads indices 0 to 4 of a prompt, and no more."""
_STATIC = "vbench_tools.static_filter"
QUALITY_WEIGHT = 4.0
SEMANTIC_WEIGHT = 1.0


@dataclass(frozen=True, slots=True)
class Pooled:
    """A metric over many clips: those scored, those not, and their value (None when none was scored)."""

    value: float | None
    scored: int
    not_scored: int


@dataclass(frozen=True, slots=True)
class Aggregates:
    """VBench's summary of a run. A number is None unless every dimension that it is made of is there.

    Values are of 0..1 as the official ``*_eval_results.json`` has them (published tables show them times 100).
    """

    normalised: Mapping[str, float]
    quality: float | None
    semantic: float | None
    total: float | None
    missing: tuple[str, ...]


def pool(scores: Iterable[Score], pooling: Pooling) -> Pooled:
    """One value of many clips' scores."""
    values = list(scores)
    pairs = [(score.score, score.weight) for score in values if score.score is not None]
    weights = [weight if pooling is Pooling.WEIGHTED else 1.0 for _, weight in pairs]
    total = math.fsum(weights)
    value = (
        math.fsum(score * weight for (score, _), weight in zip(pairs, weights, strict=True)) / total if total else None
    )
    return Pooled(value, len(pairs), len(values) - len(pairs))


@dataclass(frozen=True, slots=True)
class Filtered:
    """temporal_flickering's scores that the static filter keeps, and how many it drops."""

    kept: tuple[Score, ...]
    dropped: int


def after_static_filter(records: Sequence[Mapping[str, Any]], metric: str) -> Filtered | None:
    """The scores of records by ``metric`` that count on the leaderboard: of static clips, five a prompt at most.

    Those of a prompt count in the order of their seeds. None where the static filter did not judge every scored clip.
    """
    clips: dict[tuple[str, int, str], dict[str, Mapping[str, Any]]] = {}
    for record in records:
        entry, seed = record.get("entry"), record.get("seed")
        is_of_suite = type(entry) is int and type(seed) is int
        key = (str(entry), seed or 0, "") if is_of_suite else ("", 0, str(record["video"]))
        clips.setdefault(key, {}).update(
            {
                name: raw
                for name, raw in record["scores"].items()
                if name in (metric, _STATIC) and raw["score"] is not None
            }
        )
    scored = {key: scores for key, scores in clips.items() if metric in scores}
    if not scored or any(_STATIC not in scores for scores in scored.values()):
        return None
    kept: list[Score] = []
    taken: Counter[str] = Counter()
    for key in sorted(scored):
        prompt, flickering = key[0] or key[2], scored[key][metric]
        if scored[key][_STATIC]["score"] and taken[prompt] < READ_PER_PROMPT:
            taken[prompt] += 1
            weight = float((flickering.get("details") or {}).get("weight", 1.0))
            kept.append(Score(float(flickering["score"]), weight=weight))
    return Filtered(tuple(kept), len(scored) - len(kept))


def pool_dimension(name: str, scores: Iterable[Score], pooling: Pooling | None = None) -> Pooled:
    """A VBench dimension's value as one GPU's official run gives it; imaging_quality becomes 0..1.

    ``pooling`` in place of the dimension's own: VBench-Long's scores are all weighted by their parts.
    """
    dimension = DIMENSIONS[name]
    pooled = pool(scores, pooling or dimension.pooling)
    value = None if pooled.value is None else pooled.value / dimension.scale
    return Pooled(value, pooled.scored, pooled.not_scored)


def normalise(name: str, value: float) -> float:
    """(x - low) / (high - low), not clamped: a value beyond the constants goes beyond 0 or 1."""
    dimension = DIMENSIONS[name]
    return (value - dimension.low) / (dimension.high - dimension.low)


def aggregate(values: Mapping[str, float]) -> Aggregates:
    """Quality, semantic and total of dimension values.

    The official script counts a missing dimension as raw 0, which normalises below 0: here the sum is left out instead.

    Raises:
        ValueError: a name that is not a dimension.
    """
    unknown = set(values) - set(DIMENSIONS)
    if unknown:
        raise ValueError(f"{sorted(unknown)[0]!r} is not a VBench dimension")
    normalised = {name: normalise(name, values[name]) for name in DIMENSIONS if name in values}
    quality, semantic = _mean(normalised, QUALITY), _mean(normalised, SEMANTIC)
    total = None
    if quality is not None and semantic is not None:
        total = (QUALITY_WEIGHT * quality + SEMANTIC_WEIGHT * semantic) / (QUALITY_WEIGHT + SEMANTIC_WEIGHT)
    missing = tuple(name for name in DIMENSIONS if name not in values)
    return Aggregates(normalised, quality, semantic, total, missing)


def disagreements(
    values: Mapping[str, float], published: Mapping[str, float], tolerance: float = 0.01
) -> dict[str, float]:
    """Published sums (quality, semantic, total, in percent) that their own dimensions do not give, and by how much.

    ``values`` are of 0..1. The tolerance is for dimensions that were rounded to two digits of a percent.
    """
    recomputed = aggregate(values)
    ours = {"quality": recomputed.quality, "semantic": recomputed.semantic, "total": recomputed.total}
    apart = {
        name: 100 * value - published[name] for name, value in ours.items() if value is not None and name in published
    }
    return {name: by for name, by in apart.items() if abs(by) > tolerance}


def _mean(normalised: Mapping[str, float], names: tuple[str, ...]) -> float | None:
    if any(name not in normalised for name in names):
        return None
    weights = {name: DIMENSIONS[name].weight for name in names}
    return math.fsum(weights[name] * normalised[name] for name in names) / math.fsum(weights.values())
