"""What a suite can detect, before it is run: the prompts of each metric, and the smallest loss that they show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.scoring.compare.statistics import detectable_deviations
from pipeline.scoring.metric import Metric
from pipeline.scoring.suite import Suite

WISHED = 40
"""The recommended number of prompts of a gated metric: with them a loss of half a standard deviation is detected."""


@dataclass(frozen=True, slots=True)
class Detectable:
    """A metric's prompts in a suite, and the loss beyond the margin that they detect with a probability of 80 %."""

    metric: Metric
    prompts: int
    gated: bool
    deviations: float | None
    """That loss, in standard deviations of the prompts' differences between two nights; None below two prompts."""


def detectable(suite: Suite, metrics: Sequence[Metric], margins: Mapping[str, float]) -> list[Detectable]:
    """What a suite can detect by each metric, the gated metrics first."""
    rows = []
    for metric in sorted(metrics, key=lambda metric: metric.name not in margins):
        prompts = sum(metric.scores_clip_of(entry.dimensions) for entry in suite.entries)
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


def sentences(rows: Sequence[Detectable]) -> list[str]:
    """One sentence for all metrics that have the same power: gated metrics first, then those with the most prompts."""
    alike: dict[tuple[int, bool, float | None], list[str]] = {}
    for row in rows:
        alike.setdefault((row.prompts, row.gated, row.deviations), []).append(row.metric.name)
    lines = []
    for (prompts, gated, least), names in sorted(alike.items(), key=lambda item: (-item[0][1], -item[0][0])):
        which = f"{', '.join(names)} ({'gated' if gated else 'not gated'})"
        if least is None:
            lines.append(f"{which}: {prompts} prompts are too few to detect any loss.")
            continue
        few = f" (fewer than the {WISHED} recommended)" if prompts < WISHED else ""
        lines.append(
            f"{which}: {prompts} prompts{few} detect a loss that exceeds the margin by {least:.2g} standard deviations."
        )
    if any(row.deviations is not None for row in rows):
        lines.append(
            "Detected means found in 8 of 10 nights. The standard deviation is that of the prompts' differences "
            "between two nights of an unchanged model; `vgen eval calibrate` measures it."
        )
    return lines
