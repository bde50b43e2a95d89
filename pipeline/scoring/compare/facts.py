"""How two runs were made, and what of it changed: dates, preset, version, model, libraries and settings."""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.digests import canonical_json
from pipeline.scoring.compare.runs import Run

SEVERAL = "several"
_FACTS = ("preset", "preset_digest", "version", "model_revision", "gpu_type", "size", "num_frames", "fps")
_SCORER = ("decoder", "numpy", "torch", "transformers", "pillow", "device", "dtype")
_PARTS = ("settings", "encode", "libraries")
"""Facts that have parts of their own."""
_CLIP_MAKERS = frozenset(
    {"preset", "preset_digest", "model_revision", "size", "num_frames", "fps", "settings", "encode"}
)
"""Facts, or the whole of their parts, that say which clips are made: another one makes other clips."""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What a run's clips say about how they were made; None or empty where they do not say it."""

    name: str
    first_at: str | None
    """When its first clip was done: ISO 8601, UTC."""
    last_at: str | None
    clips: int
    prompts: int
    seeds: tuple[int, ...]
    made: Mapping[str, str]
    """By name, as text: ``preset``, ``version``, ``settings.guidance_scale``, …; ``SEVERAL`` where clips differ."""


@dataclass(frozen=True, slots=True)
class Change:
    """A fact that differs between the runs; None where a run does not say it."""

    name: str
    baseline: str | None
    candidate: str | None


def facts_of(run: Run, metrics: Container[str] | None = None) -> RunFacts:
    """Collect the facts about how a run's clips were made and how its scores (by these metrics) were computed."""
    values: dict[str, dict[str, None]] = {}
    for clip in run.clips.values():
        for name, value in _facts(clip.made or {}):
            values.setdefault(name, {})[value] = None
        for metric, score in clip.scores.items():
            if metrics is not None and metric not in metrics:
                continue
            scorer = score.details.get("scorer")
            for name, value in (scorer if isinstance(scorer, Mapping) else {}).items():
                if isinstance(value, str) and name in _SCORER:
                    values.setdefault(f"scorer.{name}", {})[value] = None
    moments = sorted(str(clip.made["at"]) for clip in run.clips.values() if clip.made and clip.made.get("at"))
    return RunFacts(
        run.name,
        moments[0] if moments else None,
        moments[-1] if moments else None,
        len(run.clips),
        len({key.entry for key in run.clips}),
        tuple(sorted({key.seed for key in run.clips})),
        {name: next(iter(found)) if len(found) == 1 else SEVERAL for name, found in sorted(values.items())},
    )


def facts_of_both(baseline: Run, candidate: Run) -> tuple[RunFacts, RunFacts]:
    """The facts of two runs. Of scorers only those that made scores of both: a metric of one of them is no change."""
    shared = _scored(baseline) & _scored(candidate)
    return facts_of(baseline, shared), facts_of(candidate, shared)


def _scored(run: Run) -> set[str]:
    return {name for clip in run.clips.values() for name, score in clip.scores.items() if score.score is not None}


def _facts(made: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in _FACTS:
        if made.get(name) is not None:
            yield name, str(made[name])
    for part in _PARTS:
        inner = made.get(part)
        for name, value in (inner if isinstance(inner, Mapping) else {}).items():
            if value is not None:
                yield f"{part}.{name}", value if isinstance(value, str) else canonical_json(value)


def changes(baseline: RunFacts, candidate: RunFacts) -> list[Change]:
    """The facts that differ between the runs; empty if one of the runs does not say how it was made."""
    if not baseline.made or not candidate.made:
        return []
    names = sorted(baseline.made.keys() | candidate.made.keys(), key=_order)
    pairs = [Change(name, baseline.made.get(name), candidate.made.get(name)) for name in names]
    return [change for change in pairs if change.baseline != change.candidate]


def is_of_clips(change: Change) -> bool:
    """Return whether it is a change of what is made, and not only of the software, the GPU or the scorer."""
    return change.name.partition(".")[0] in _CLIP_MAKERS


def as_text(change: Change) -> str:
    """The change in a line, such as ``settings.num_inference_steps 12 → 6``."""
    return f"{change.name} {change.baseline or '–'} → {change.candidate or '–'}"


def _order(name: str) -> tuple[int, str]:
    return (_FACTS.index(name) if name in _FACTS else len(_FACTS), name)
