"""The content of a report, apart from its looks: the same for JSON, Markdown and HTML."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.scoring.compare.comparison import Comparison, MetricComparison, PromptDifference
from pipeline.scoring.compare.facts import RunFacts, changes, facts_of
from pipeline.scoring.compare.runs import Key, Run, RunClip
from pipeline.scoring.compare.speed import SpeedVerdict
from pipeline.scoring.compare.verdict import MEANING, State
from pipeline.scoring.metric import Direction

WORST = 5
"""Prompts of a metric that are shown with both clips."""


@dataclass(frozen=True, slots=True)
class Report:
    """A comparison and what is shown beside it. ``history`` is of earlier runs, oldest first."""

    comparison: Comparison
    history: Sequence[Run] = ()
    speed: Sequence[SpeedVerdict] = ()
    runs: tuple[Run, Run] | None = None
    """The baseline and the candidate, for what is known of how they were made."""
    strips: Mapping[Key, bytes] = field(default_factory=dict)
    """JPEGs of how the worst clips differ from the baseline's (``strips.difference_strip``)."""
    remarks: Sequence[str] = ()
    """What else a reader must know, a sentence each."""

    def facts(self) -> tuple[RunFacts, RunFacts] | None:
        """What is known of both runs beside their scores."""
        return None if self.runs is None else (facts_of(self.runs[0]), facts_of(self.runs[1]))

    def clips(self, prompt: PromptDifference) -> tuple[RunClip | None, RunClip | None]:
        """The clips of the seed that lost most, of both runs."""
        if self.runs is None:
            return None, None
        key = Key(prompt.entry, prompt.worst_seed)
        return self.runs[0].clips.get(key), self.runs[1].clips.get(key)


def all_notes(report: Report) -> list[str]:
    """The comparison's notes and the report's own remarks."""
    return [*notes(report.comparison), *report.remarks]


def gated(comparison: Comparison) -> tuple[list[MetricComparison], list[MetricComparison]]:
    """The metrics that gate, and those that are only shown."""
    return (
        [compared for compared in comparison.metrics if compared.margin is not None],
        [compared for compared in comparison.metrics if compared.margin is None],
    )


METRIC_TITLES = ("Gated metrics", "Other metrics: shown, and gate nothing")
NOTHING_CHANGED = "Nothing that is recorded: preset, version, model, GPU, size, settings and libraries are the same."
FACT_COLUMNS = ("", "baseline", "candidate")
CHANGE_COLUMNS = ("what changed", "baseline", "candidate")
_MOST_SEEDS = 8


def fact_rows(facts: tuple[RunFacts, RunFacts] | None) -> list[tuple[str, str, str]]:
    """The table of what the runs are, as text; what neither says is left out."""
    if facts is None:
        return []
    rows: list[tuple[str, str, str]] = []
    for name, texts in (
        ("date", [_dates(one) for one in facts]),
        ("clips", [f"{one.clips} of {one.prompts} prompts" for one in facts]),
        ("seeds", [_seeds(one.seeds) for one in facts]),
        *(
            (title, [one.made.get(key, "") for one in facts])
            for title, key in (
                *(("preset", "preset"), ("vgen", "version"), ("model", "model_revision"), ("GPU", "gpu_type")),
                *(("size", "size"), ("frames", "num_frames"), ("fps", "fps")),
            )
        ),
    ):
        if any(texts):
            rows.append((name, texts[0] or "–", texts[1] or "–"))
    return rows


def _dates(facts: RunFacts) -> str:
    if facts.first_at is None or facts.last_at is None:
        return ""
    first, last = (moment.replace("T", " ")[:16] for moment in (facts.first_at, facts.last_at))
    return f"{first} UTC" if first == last else f"{first} to {last[11:] if first[:10] == last[:10] else last} UTC"


def _seeds(seeds: tuple[int, ...]) -> str:
    more = f" and {len(seeds) - _MOST_SEEDS} more" if len(seeds) > _MOST_SEEDS else ""
    return ", ".join(map(str, seeds[:_MOST_SEEDS])) + more


def change_rows(facts: tuple[RunFacts, RunFacts] | None) -> list[tuple[str, str, str]] | None:
    """The table of what changed since the baseline, as text; None where a run says nothing of how it was made."""
    if facts is None or not (facts[0].made and facts[1].made):
        return None
    return [(change.name, change.baseline or "–", change.candidate or "–") for change in changes(*facts)]


def worst_prompts(compared: MetricComparison, most: int = WORST) -> list[PromptDifference]:
    """Prompts that lost, the largest loss first."""
    return sorted((prompt for prompt in compared.prompts if prompt.gain < 0), key=operator.attrgetter("gain"))[:most]


def as_json(report: Report) -> dict[str, Any]:
    """Plain data; docs/json-output.md has its schema (``eval compare``)."""
    comparison, facts = report.comparison, report.facts()
    return {
        "state": comparison.state.value,
        "meaning": MEANING[comparison.state],
        "advice": comparison.advice,
        "baseline": comparison.baseline,
        "candidate": comparison.candidate,
        "confidence": 1 - 2 * comparison.alpha,
        "missing_clips": comparison.missing_clips,
        "runs": None if facts is None else dict(zip(("baseline", "candidate"), map(asdict, facts), strict=True)),
        "changes": None if change_rows(facts) is None or facts is None else [asdict(item) for item in changes(*facts)],
        "metrics": [_metric(compared, report) for compared in comparison.metrics],
        "speed": [
            {
                "preset": verdict.preset,
                "gpu_type": verdict.gpu_type,
                "measure": verdict.measure,
                "state": verdict.state.value,
                "value": verdict.value,
                "median": verdict.median,
            }
            for verdict in report.speed
        ],
    }


def _worst(prompt: PromptDifference, report: Report) -> dict[str, Any]:
    sides = dict(zip(("baseline", "candidate"), report.clips(prompt), strict=True))
    made = next((clip.made for clip in reversed(sides.values()) if clip is not None and clip.made), {})
    return {
        "entry": prompt.entry,
        "prompt": prompt.prompt,
        "seeds": list(prompt.seeds),
        "seed": prompt.worst_seed,
        "gain": prompt.gain,
        "size": made.get("size"),
        "fps": made.get("fps"),
        "baseline_video": prompt.baseline_video,
        "candidate_video": prompt.candidate_video,
        **{f"{side}_page": None if clip is None else clip.page for side, clip in sides.items()},
    }


def _metric(compared: MetricComparison, report: Report) -> dict[str, Any]:
    estimate = compared.estimate
    return {
        "name": compared.metric.name,
        "state": compared.state.value,
        "reason": compared.reason,
        "better": compared.metric.direction.value,
        "margin": compared.margin,
        "prompts": len(compared.prompts),
        "missing": compared.missing,
        "baseline": compared.baseline,
        "candidate": compared.candidate,
        "gain": estimate.mean if estimate else None,
        "low": estimate.low if estimate else None,
        "high": estimate.high if estimate else None,
        "p_worse": estimate.p_worse if estimate and compared.margin is not None else None,
        "detectable": estimate.detectable if estimate else None,
        "method": estimate.method if estimate else None,
        "worst": [_worst(prompt, report) for prompt in worst_prompts(compared)],
    }


def number(value: float | None, sign: bool = False) -> str:
    """Four digits; nothing is an en dash."""
    if value is None:
        return "–"
    return f"{value:+.4g}" if sign else f"{value:.4g}"


COLUMNS = ("metric", "state", "baseline", "candidate", "gain", "interval", "margin", "detectable", "prompts", "why")


def rows(metrics: Sequence[MetricComparison]) -> list[tuple[str, ...]]:
    """The table of metrics, as text, in the order of ``COLUMNS``."""
    return [
        (
            compared.metric.name,
            compared.state.value,
            number(compared.baseline),
            number(compared.candidate),
            number(compared.estimate.mean, True) if compared.estimate else "–",
            f"{compared.estimate.low:+.4g} to {compared.estimate.high:+.4g}" if compared.estimate else "–",
            _margin_text(compared),
            number(compared.estimate.detectable) if compared.estimate else "–",
            f"{len(compared.prompts)} ({compared.estimate.method})"
            if compared.estimate
            else str(len(compared.prompts)),
            compared.reason,
        )
        for compared in metrics
    ]


def _margin_text(compared: MetricComparison) -> str:
    """The margin; of a likeness to the baseline's clips the bound that it stands for."""
    perfect, margin = compared.metric.perfect, compared.margin
    if perfect is None or margin is None:
        return number(margin)
    higher = compared.metric.direction is Direction.HIGHER
    return f"≥ {number(perfect - margin)}" if higher else f"≤ {number(perfect + margin)}"


def speed_rows(speed: Sequence[SpeedVerdict]) -> list[tuple[str, ...]]:
    """The table of speeds, as text."""
    return [
        (
            verdict.preset,
            verdict.gpu_type,
            verdict.measure,
            verdict.state.value,
            number(verdict.value),
            number(verdict.median),
        )
        for verdict in speed
    ]


SPEED_COLUMNS = ("preset", "GPU type", "measure", "state", "now", "median of the last five")


def notes(comparison: Comparison) -> list[str]:
    """Return what a reader must know to judge the numbers."""
    sentences = [
        f"Gains are of the mean over prompts, each the mean over its seeds; positive is better. Intervals are of "
        f"{100 * (1 - 2 * comparison.alpha):.4g} %.",
        "Detectable: how far below the margin a loss must truly lie to be found 8 times of 10.",
    ]
    if any(compared.metric.perfect is not None for compared in comparison.metrics):
        sentences.append(
            "A likeness (common.…) is that of a clip to the baseline's of the same prompt and seed; the baseline's own "
            "value is that of equal clips."
        )
    if comparison.missing_clips:
        sentences.append(f"{comparison.missing_clips} clips are in one run only.")
    unknown = State.OTHER_FINGERPRINT
    if any(compared.state is unknown for compared in comparison.metrics):
        sentences.append(MEANING[unknown])
    return sentences


def markdown(report: Report) -> str:
    """Return the report for a chat message or an issue: the verdict, the tables, the worst prompts' names."""
    comparison = report.comparison
    parts = [
        f"# {comparison.state.value}",
        f"{MEANING[comparison.state]}" + (f" **Next: {comparison.advice}.**" if comparison.advice else ""),
        f"Baseline `{_cell(comparison.baseline)}`, candidate `{_cell(comparison.candidate)}`.",
    ]
    facts = report.facts()
    if about := fact_rows(facts):
        parts.append(_table(FACT_COLUMNS, about))
    changed = change_rows(facts)
    if changed is not None:
        parts += ["## What changed", _table(CHANGE_COLUMNS, changed) if changed else NOTHING_CHANGED]
    for title, metrics in zip(METRIC_TITLES, gated(comparison), strict=True):
        if metrics:
            parts += [f"## {title}", _table(COLUMNS, rows(metrics))]
    if comparison.metrics:
        parts.append("\n".join(f"- {note}" for note in all_notes(report)))
    if report.speed:
        parts += ["## Speed", _table(SPEED_COLUMNS, speed_rows(report.speed))]
    for compared in comparison.metrics:
        if compared.margin is not None and (worst := worst_prompts(compared)):
            parts += [
                f"## Worst prompts by {compared.metric.name}",
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
    all_lines = [columns, ["---"] * len(columns), *lines]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in all_lines)


def _cell(value: str) -> str:
    return " ".join(value.split()).replace("|", "\\|").replace("`", "'").replace("<", "&lt;")
