"""The content of a report, which is the same in JSON, Markdown and HTML."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.scoring.compare.comparison import Comparison, MetricComparison, PromptDifference
from pipeline.scoring.compare.facts import Change, RunFacts, changes, facts_of, facts_of_both
from pipeline.scoring.compare.runs import Key, Run, RunClip
from pipeline.scoring.compare.speed import SpeedVerdict
from pipeline.scoring.compare.verdict import MEANING, State
from pipeline.scoring.metric import Direction

WORST = 5
"""Prompts of a metric that are shown with both clips."""


@dataclass(frozen=True, slots=True)
class Report:
    """A comparison and what is shown beside it. ``history`` has the earlier runs, oldest first."""

    comparison: Comparison
    history: Sequence[Run] = ()
    speed: Sequence[SpeedVerdict] = ()
    runs: tuple[Run | None, Run] | None = None
    """The baseline and the candidate, for what is known of how they were made. A first night has no baseline."""
    strips: Mapping[Key, bytes] = field(default_factory=dict)
    """JPEGs of how the worst clips differ from the baseline's (``strips.difference_strip``)."""
    remarks: Sequence[str] = ()
    """Further sentences for the reader."""
    detectable: Sequence[str] = ()
    """What the suite can detect by its number of prompts (``power.sentences``)."""
    reason: str | None = None
    """Why nothing could be compared, in place of the state's general meaning."""

    @property
    def meaning(self) -> str:
        """What the state means here, with the gated metrics that decided it."""
        state = self.comparison.state
        names = [one.metric.name for one in self.comparison.metrics if one.margin is not None and one.state is state]
        named = f" Metrics in this state: {', '.join(names)}." if names and state is not State.OK else ""
        return (self.reason or MEANING[state]) + named

    def facts(self) -> tuple[RunFacts | None, RunFacts] | None:
        """What is known of both runs beside their scores."""
        if self.runs is None:
            return None
        before, after = self.runs
        return (None, facts_of(after)) if before is None else facts_of_both(before, after)

    def clips(self, prompt: PromptDifference) -> tuple[RunClip | None, RunClip | None]:
        """The clips of the seed that lost most, of both runs."""
        key = Key(prompt.entry, prompt.worst_seed)
        before, after = (None if run is None else run.clips.get(key) for run in self.runs or (None, None))
        return before, after


def all_notes(report: Report) -> list[str]:
    """The comparison's notes, where metrics were compared, and the report's own remarks."""
    return [*(notes(report.comparison) if report.comparison.metrics else ()), *report.remarks]


def gated(comparison: Comparison) -> tuple[list[MetricComparison], list[MetricComparison]]:
    """The metrics that gate, and those that are only shown."""
    return (
        [compared for compared in comparison.metrics if compared.margin is not None],
        [compared for compared in comparison.metrics if compared.margin is None],
    )


METRIC_TITLES = ("Gated metrics", "Other metrics, which decide nothing")
NOT_GATED = "not gated"
"""Shown in place of the state of a metric without a margin."""
NOTHING_CHANGED = "Nothing that is recorded: preset, version, model, GPU, size, settings and libraries are the same."
CHANGE_COLUMNS = ("what changed", "baseline", "candidate")
_MOST_SEEDS = 8


def fact_table(facts: tuple[RunFacts | None, RunFacts] | None) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The columns and rows of the table of what the runs are, as text; what no run says is left out."""
    if facts is None:
        return (), []
    sides = [(side, one) for side, one in zip(("baseline", "candidate"), facts, strict=True) if one is not None]
    known = [one for _, one in sides]
    rows: list[tuple[str, ...]] = []
    for name, texts in (
        ("run", [one.name for one in known]),
        ("date", [_dates(one) for one in known]),
        ("clips", [f"{one.clips} of {one.prompts} prompts" for one in known]),
        ("seeds", [_seeds(one.seeds) for one in known]),
        *(
            (title, [one.made.get(key, "") for one in known])
            for title, key in (
                *(("preset", "preset"), ("vgen", "version"), ("model", "model_revision"), ("GPU", "gpu_type")),
                *(("size", "size"), ("frames", "num_frames"), ("fps", "fps")),
            )
        ),
    ):
        if any(texts):
            rows.append((name, *(text or "–" for text in texts)))
    return ("", *([side for side, _ in sides] if len(sides) > 1 else ["this run"])), rows


def _dates(facts: RunFacts) -> str:
    if facts.first_at is None or facts.last_at is None:
        return ""
    first, last = (moment.replace("T", " ")[:16] for moment in (facts.first_at, facts.last_at))
    return f"{first} UTC" if first == last else f"{first} to {last[11:] if first[:10] == last[:10] else last} UTC"


def _seeds(seeds: tuple[int, ...]) -> str:
    more = f" and {len(seeds) - _MOST_SEEDS} more" if len(seeds) > _MOST_SEEDS else ""
    return ", ".join(map(str, seeds[:_MOST_SEEDS])) + more


def changed(facts: tuple[RunFacts | None, RunFacts] | None) -> list[Change] | None:
    """What is another one in the candidate; None where a run says nothing of how it was made, or there is only one."""
    if facts is None or facts[0] is None or not (facts[0].made and facts[1].made):
        return None
    return changes(facts[0], facts[1])


def change_rows(facts: tuple[RunFacts | None, RunFacts] | None) -> list[tuple[str, str, str]] | None:
    """The table of what changed since the baseline, as text; None as in ``changed``."""
    found = changed(facts)
    return None if found is None else [(one.name, one.baseline or "–", one.candidate or "–") for one in found]


SCORE_COLUMNS = ("metric", "mean", "clips scored", "clips not scored", "why not")


def score_rows(report: Report) -> list[tuple[str, ...]]:
    """The table of the candidate's scores, as text, where no metric was compared with a baseline."""
    if report.runs is None or report.comparison.metrics:
        return []
    run = report.runs[1]
    rows: list[tuple[str, ...]] = []
    for name in sorted({name for clip in run.clips.values() for name in clip.scores}):
        scores = [clip.scores[name] for clip in run.clips.values() if name in clip.scores]
        reasons = [score.reason for score in scores if score.score is None and score.reason]
        counts = (str(len(scores) - len(reasons)), str(len(reasons)))
        rows.append((name, number(run.mean(name)), *counts, reasons[0] if reasons else ""))
    return rows


def worst_prompts(compared: MetricComparison, most: int = WORST) -> list[PromptDifference]:
    """Prompts that lost, the largest loss first."""
    return sorted((prompt for prompt in compared.prompts if prompt.gain < 0), key=operator.attrgetter("gain"))[:most]


def as_json(report: Report) -> dict[str, Any]:
    """Plain data; docs/json-output.md has its schema (``eval compare``)."""
    comparison, facts = report.comparison, report.facts()
    return {
        "state": comparison.state.value,
        "meaning": report.meaning,
        "advice": comparison.advice,
        "baseline": comparison.baseline,
        "candidate": comparison.candidate,
        "confidence": 1 - 2 * comparison.alpha,
        "missing_clips": comparison.missing_clips,
        "runs": None
        if facts is None
        else {"baseline": None if facts[0] is None else asdict(facts[0]), "candidate": asdict(facts[1])},
        "changes": None if (found := changed(facts)) is None else [asdict(item) for item in found],
        "detectable": list(report.detectable),
        "remarks": list(report.remarks),
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
    """The number with four digits; None is an en dash."""
    if value is None:
        return "–"
    return f"{value:+.4g}" if sign else f"{value:.4g}"


COLUMNS = ("metric", "state", "baseline", "candidate", "gain", "interval", "margin", "detectable", "prompts", "why")


def rows(metrics: Sequence[MetricComparison]) -> list[tuple[str, ...]]:
    """The table of metrics, as text, in the order of ``COLUMNS``.

    Metrics that do not gate and of which nothing was compared are left out: ``unscored`` has them.
    """
    return [
        (
            compared.metric.name,
            NOT_GATED if compared.margin is None else compared.state.value,
            number(compared.baseline),
            number(compared.candidate),
            number(compared.estimate.mean, True) if compared.estimate else "–",
            f"{compared.estimate.low:+.4g} to {compared.estimate.high:+.4g}" if compared.estimate else "–",
            _margin_text(compared),
            number(compared.estimate.detectable) if compared.estimate else "–",
            f"{len(compared.prompts)} ({compared.estimate.method})"
            if compared.estimate
            else str(len(compared.prompts)),
            "" if compared.margin is None and compared.state is State.NO_CALIBRATION else compared.reason,
        )
        for compared in metrics
        if compared.margin is not None or compared.prompts
    ]


def unscored(metrics: Sequence[MetricComparison]) -> list[str]:
    """A sentence for each reason for which metrics that do not gate were not compared at all."""
    by_reason: dict[str, list[str]] = {}
    for compared in metrics:
        if compared.margin is None and not compared.prompts:
            by_reason.setdefault(compared.reason, []).append(compared.metric.name)
    return [f"{', '.join(names)} not compared: {reason}." for reason, names in by_reason.items()]


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
            verdict.measure.replace("_", " "),
            "fewer than five runs before" if verdict.median is None else verdict.state.value,
            measured(verdict.measure, verdict.value),
            measured(verdict.measure, verdict.median),
        )
        for verdict in speed
    ]


def measured(measure: str, value: float | None) -> str:
    """A speed's value with its unit: bytes as MiB, seconds as they are."""
    if value is None:
        return "–"
    return f"{value / 2**20:,.0f} MiB" if measure == "peak_bytes" else f"{value:.4g} s"


SPEED_COLUMNS = ("preset", "GPU type", "measure", "state", "now", "median of the last five")


def notes(comparison: Comparison) -> list[str]:
    """Return what a reader must know to judge the numbers."""
    confidence = 100 * (1 - 2 * comparison.alpha)
    sentences = [
        f"The gain is the candidate's mean over prompts minus the baseline's, with the sign turned so that positive is "
        f"better. The interval is its {confidence:.4g} % confidence interval.",
        "Detectable is the loss beyond the margin that a comparison like this one finds in 8 of 10 nights.",
    ]
    if any(compared.metric.perfect is not None for compared in comparison.metrics):
        sentences.append(
            "The metrics of common.… compare each clip with the baseline's clip of the same prompt and seed. Their "
            "baseline value is the score of two equal clips, and their margin is shown as a bound on the candidate."
        )
    if comparison.missing_clips:
        sentences.append(f"{comparison.missing_clips} clips are in one run only.")
    if any(compared.state is State.OTHER_FINGERPRINT for compared in comparison.metrics):
        sentences.append(MEANING[State.OTHER_FINGERPRINT])
    return sentences + unscored(comparison.metrics)


def markdown(report: Report) -> str:
    """Return the report for a chat message or an issue: the verdict, the tables, the worst prompts' names."""
    comparison = report.comparison
    parts = [
        f"# {comparison.state.value}",
        report.meaning + (f" **Next: {comparison.advice}.**" if comparison.advice else ""),
        f"Baseline `{_cell(comparison.baseline)}`, candidate `{_cell(comparison.candidate)}`.",
    ]
    facts = report.facts()
    fact_columns, about = fact_table(facts)
    if about:
        parts.append(_table(fact_columns, about))
    differing = change_rows(facts)
    if differing is not None:
        parts += ["## What changed", _table(CHANGE_COLUMNS, differing) if differing else NOTHING_CHANGED]
    for title, metrics in zip(METRIC_TITLES, gated(comparison), strict=True):
        if lines := rows(metrics):
            parts += [f"## {title}", _table(COLUMNS, lines)]
    if scores := score_rows(report):
        parts += ["## Scores", _table(SCORE_COLUMNS, scores)]
    if remarks := all_notes(report):
        parts.append("\n".join(f"- {note}" for note in remarks))
    if report.detectable:
        parts += ["## What this suite can detect", "\n".join(f"- {sentence}" for sentence in report.detectable)]
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
