"""The report as one HTML file: no scripts, nothing loaded but the clips that it shows."""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.html import render
from pipeline.scoring.compare import charts
from pipeline.scoring.compare.comparison import MetricComparison, PromptDifference
from pipeline.scoring.compare.report import (
    COLUMNS,
    SPEED_COLUMNS,
    Report,
    all_notes,
    number,
    rows,
    speed_rows,
    worst_prompts,
)
from pipeline.scoring.compare.runs import Key
from pipeline.scoring.compare.verdict import MEANING


@dataclass(frozen=True, slots=True)
class _Video:
    address: str
    shown: str


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A prompt that lost, with both clips."""

    gain: str
    text: str
    entry: int
    seeds: tuple[int, ...]
    seed: int
    baseline: str
    candidate: str
    baseline_video: _Video
    candidate_video: _Video
    strip: str | None
    """The address of the picture of their difference, which is in the page itself."""


def html(report: Report) -> str:
    """The whole page. Videos on disk are linked where they are, by absolute path; http(s) URLs stay."""
    comparison = report.comparison
    return render(
        "compare.html",
        title=f"{comparison.state.value}: {comparison.candidate}",
        state=comparison.state.value,
        meaning=MEANING[comparison.state],
        advice=comparison.advice,
        baseline=comparison.baseline,
        candidate=comparison.candidate,
        columns=COLUMNS,
        rows=rows(comparison),
        notes=all_notes(report),
        forest_chart=charts.forest(comparison.metrics),
        history_charts=list(_histories(report)),
        speed_columns=SPEED_COLUMNS,
        speed_rows=speed_rows(report.speed),
        worst=[
            (compared.metric.name, prompts)
            for compared in comparison.metrics
            if compared.margin is not None and (prompts := _worst(compared, report.strips))
        ],
    )


def _histories(report: Report) -> Iterator[charts.History]:
    for compared in report.comparison.metrics:
        if compared.margin is None or compared.candidate is None:
            continue
        means = ((run.name, run.mean(compared.metric.name)) for run in report.history)
        points = [(name, mean) for name, mean in means if mean is not None]
        if points:
            yield charts.history(compared, [*points, (report.comparison.candidate, compared.candidate)])


def _worst(compared: MetricComparison, strips: Mapping[Key, bytes]) -> list[_Prompt]:
    return [_prompt(prompt, strips.get(Key(prompt.entry, prompt.worst_seed))) for prompt in worst_prompts(compared)]


def _prompt(prompt: PromptDifference, strip: bytes | None) -> _Prompt:
    return _Prompt(
        gain=number(prompt.gain, True),
        text=prompt.prompt or f"entry {prompt.entry}",
        entry=prompt.entry,
        seeds=tuple(prompt.seeds),
        seed=prompt.worst_seed,
        baseline=number(prompt.baseline),
        candidate=number(prompt.candidate),
        baseline_video=_Video(address(prompt.baseline_video), _shown(prompt.baseline_video)),
        candidate_video=_Video(address(prompt.candidate_video), _shown(prompt.candidate_video)),
        strip=None if strip is None else f"data:image/jpeg;base64,{base64.b64encode(strip).decode()}",
    )


def _shown(video: str) -> str:
    """A signed address holds more than anybody wants to read: only where the clip lies is shown."""
    parts = urlsplit(video)
    return parts.path.removeprefix("/") if parts.scheme in ("http", "https") else video


def address(video: str) -> str:
    """A link to a clip. Only http(s) and file addresses are taken as such: anything else is a path on this host."""
    if urlsplit(video).scheme in ("http", "https", "file"):
        return video
    return Path(video).absolute().as_uri()
