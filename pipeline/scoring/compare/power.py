"""What a suite can tell before it is run: how many prompts each metric has, and which loss they show."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.scoring.compare.statistics import detectable_deviations
from pipeline.scoring.metric import Metric
from pipeline.scoring.suite import Suite

WISHED = 40
"""Prompts of a gated metric below which a suite is small: they show half a standard deviation, not less."""


@dataclass(frozen=True, slots=True)
class Detectable:
    """A metric's prompts in a suite, and the loss beyond the margin that they show 8 times of 10."""

    metric: Metric
    prompts: int
    gated: bool
    deviations: float | None
    """In standard deviations of the prompts' differences from night to night; None below two prompts."""


def detectable(suite: Suite, metrics: Sequence[Metric], margins: Mapping[str, float]) -> list[Detectable]:
    """Of each metric that a suite's clips are scored by, gated ones first, what can be told of it."""
    rows = []
    for metric in sorted(metrics, key=lambda metric: metric.name not in margins):
        prompts = sum(_is_asked(metric, entry.dimensions) for entry in suite.entries)
        tests = max(1, len(margins))
        rows.append(
            Detectable(
                metric,
                prompts,
                metric.name in margins,
                detectable_deviations(prompts, tests=tests) if prompts > 1 else None,
            )
        )
    return rows


def _is_asked(metric: Metric, dimensions: Iterable[str]) -> bool:
    return metric.group != "vbench" or metric.dimension in dimensions


def sentences(rows: Sequence[Detectable]) -> list[str]:
    """One sentence for all metrics that can tell equally much, fewest prompts last."""
    alike: dict[tuple[int, bool, float | None], list[str]] = {}
    for row in rows:
        alike.setdefault((row.prompts, row.gated, row.deviations), []).append(row.metric.name)
    said = []
    for (prompts, gated, least), names in sorted(alike.items(), key=lambda item: (-item[0][1], -item[0][0])):
        what = f"{', '.join(names)}{' (gated)' if gated else ''}: {prompts} prompts"
        if least is None:
            said.append(f"{what}, which is too few to tell anything")
            continue
        few = f", fewer than {WISHED}" if prompts < WISHED else ""
        said.append(
            f"{what}{few}; a loss beyond the margin is found 8 times of 10 from {least:.2g} standard deviations of the "
            "prompts' differences on"
        )
    return said
