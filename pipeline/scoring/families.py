"""Divide a run's scoring into slices of its clips, each scored by all of its metrics: decoding is done once."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from pipeline.policy.routes import NO_MODEL, ScorePart
from pipeline.scoring.metric import Metric
from pipeline.scoring.residency import FAMILIES
from pipeline.scoring.suite_jobs import entry_of

ALL = "models"
"""The family of a step that scores by every metric of the run, some of which need models."""
SLICE = 8
"""Clips of a step: a model that must be loaded first is loaded for several, and what a lost worker had left to do is
little."""


def family_of(metric: Metric) -> str:
    """The model that the metric's own is built on: what stays loaded serves all metrics of that name."""
    if metric.family is None:
        return NO_MODEL
    return FAMILIES[metric.family].base or metric.family


def of_family(metrics: Iterable[Metric], family: str) -> list[Metric]:
    """The metrics by which a step of that family scores: with ``ALL`` every one, else those of one model."""
    if family == ALL:
        return list(metrics)
    return [metric for metric in metrics if family_of(metric) == family]


def parts(jobs: Sequence[tuple[int, Mapping[str, str]]], metrics: Sequence[Metric]) -> Iterator[ScorePart]:
    """The steps of a run over jobs, given as (seq, labels) in order; a slice whose clips ask for nothing has none."""
    for start in range(0, len(jobs), SLICE):
        some = jobs[start : start + SLICE]
        asked = {family_of(metric) for metric in metrics for _, labels in some if is_scored_by(metric, labels)}
        if asked:
            yield ScorePart(NO_MODEL if asked == {NO_MODEL} else ALL, some[0][0], some[-1][0])


def is_scored_by(metric: Metric, labels: Mapping[str, str]) -> bool:
    """Return whether the metric scores a clip: a suite's clip is scored in its entry's dimensions alone."""
    entry = entry_of(labels)
    return metric.scores_clip_of(None if entry is None else entry.dimensions)
