"""The content of a report, apart from its looks: the same for JSON, Markdown and HTML."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.scoring.compare.comparison import Comparison, MetricComparison, PromptDifference
from pipeline.scoring.compare.runs import Run
from pipeline.scoring.compare.speed import SpeedVerdict
from pipeline.scoring.compare.verdict import MEANING, State

WORST = 5
"""Prompts of a metric that are shown with both clips."""


@dataclass(frozen=True, slots=True)
class Report:
    """A comparison and what is shown beside it. ``history`` is of earlier runs, oldest first."""

    comparison: Comparison
    history: Sequence[Run] = ()
    speed: Sequence[SpeedVerdict] = ()


def worst_prompts(found: MetricComparison, most: int = WORST) -> list[PromptDifference]:
    """Prompts that lost, the largest loss first."""
    return sorted((prompt for prompt in found.prompts if prompt.gain < 0), key=operator.attrgetter("gain"))[:most]


def as_json(report: Report) -> dict[str, Any]:
    """Plain data; docs/json-output.md has its schema (``eval compare``)."""
    comparison = report.comparison
    return {
        "state": comparison.state.value,
        "meaning": MEANING[comparison.state],
        "advice": comparison.advice,
        "baseline": comparison.baseline,
        "candidate": comparison.candidate,
        "confidence": 1 - 2 * comparison.alpha,
        "missing_clips": comparison.missing_clips,
        "metrics": [_metric(found) for found in comparison.metrics],
        "speed": [
            {
                "preset": one.preset,
                "gpu_type": one.gpu_type,
                "measure": one.measure,
                "state": one.state.value,
                "value": one.value,
                "median": one.median,
            }
            for one in report.speed
        ],
    }


def _metric(found: MetricComparison) -> dict[str, Any]:
    estimate = found.estimate
    return {
        "name": found.metric.name,
        "state": found.state.value,
        "reason": found.reason,
        "better": found.metric.direction.value,
        "margin": found.margin,
        "prompts": len(found.prompts),
        "missing": found.missing,
        "baseline": found.baseline,
        "candidate": found.candidate,
        "gain": estimate.mean if estimate else None,
        "low": estimate.low if estimate else None,
        "high": estimate.high if estimate else None,
        "p_worse": estimate.p_worse if estimate and found.margin is not None else None,
        "detectable": estimate.detectable if estimate else None,
        "method": estimate.method if estimate else None,
        "worst": [
            {
                "entry": prompt.entry,
                "prompt": prompt.prompt,
                "seeds": list(prompt.seeds),
                "gain": prompt.gain,
                "baseline_video": prompt.baseline_video,
                "candidate_video": prompt.candidate_video,
            }
            for prompt in worst_prompts(found)
        ],
    }


def number(value: float | None, sign: bool = False) -> str:
    """Four digits; nothing is an en dash."""
    if value is None:
        return "–"
    return f"{value:+.4g}" if sign else f"{value:.4g}"


COLUMNS = ("metric", "state", "baseline", "candidate", "gain", "interval", "margin", "detectable", "prompts", "why")


def rows(comparison: Comparison) -> list[tuple[str, ...]]:
    """The table of metrics, as text, in the order of ``COLUMNS``."""
    return [
        (
            found.metric.name,
            found.state.value,
            number(found.baseline),
            number(found.candidate),
            number(found.estimate.mean, True) if found.estimate else "–",
            f"{found.estimate.low:+.4g} to {found.estimate.high:+.4g}" if found.estimate else "–",
            number(found.margin),
            number(found.estimate.detectable) if found.estimate else "–",
            f"{len(found.prompts)} ({found.estimate.method})" if found.estimate else str(len(found.prompts)),
            found.reason,
        )
        for found in comparison.metrics
    ]


def speed_rows(speed: Sequence[SpeedVerdict]) -> list[tuple[str, ...]]:
    """The table of speeds, as text."""
    return [
        (one.preset, one.gpu_type, one.measure, one.state.value, number(one.value), number(one.median)) for one in speed
    ]


SPEED_COLUMNS = ("preset", "GPU type", "measure", "state", "now", "median of the last five")


def notes(comparison: Comparison) -> list[str]:
    """Return what a reader must know to judge the numbers."""
    found = [
        f"Gains are of the mean over prompts, each the mean over its seeds; positive is better. Intervals are of "
        f"{100 * (1 - 2 * comparison.alpha):.4g} %.",
        "Detectable: how far below the margin a loss must truly lie to be found 8 times of 10.",
    ]
    if comparison.missing_clips:
        found.append(f"{comparison.missing_clips} clips are in one run only.")
    unknown = State.OTHER_FINGERPRINT
    if any(one.state is unknown for one in comparison.metrics):
        found.append(MEANING[unknown])
    return found


def markdown(report: Report) -> str:
    """Return the report for a chat message or an issue: the verdict, the tables, the worst prompts' names."""
    comparison = report.comparison
    parts = [
        f"# {comparison.state.value}",
        f"{MEANING[comparison.state]}" + (f" **Next: {comparison.advice}.**" if comparison.advice else ""),
        f"Baseline `{_cell(comparison.baseline)}`, candidate `{_cell(comparison.candidate)}`.",
    ]
    if comparison.metrics:
        parts += [_table(COLUMNS, rows(comparison)), "\n".join(f"- {note}" for note in notes(comparison))]
    if report.speed:
        parts += ["## Speed", _table(SPEED_COLUMNS, speed_rows(report.speed))]
    for found in comparison.metrics:
        if found.margin is not None and (worst := worst_prompts(found)):
            parts += [
                f"## Worst prompts by {found.metric.name}",
                _table(
                    ("entry", "prompt", "gain", "baseline", "candidate"),
                    [
                        (str(p.entry), p.prompt or "", number(p.gain, True), p.baseline_video, p.candidate_video)
                        for p in worst
                    ],
                ),
            ]
    return "\n\n".join(parts) + "\n"


def _table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    shown = [columns, ["---"] * len(columns), *lines]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in shown)


def _cell(value: str) -> str:
    return " ".join(value.split()).replace("|", "\\|").replace("`", "'").replace("<", "&lt;")
