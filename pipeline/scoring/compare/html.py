"""The report as one HTML file: no scripts, nothing loaded but the clips that it shows."""

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from urllib.parse import unquote, urlsplit

from pipeline.html import render
from pipeline.scoring.compare import charts
from pipeline.scoring.compare.comparison import MetricComparison, PromptDifference
from pipeline.scoring.compare.report import (
    CHANGE_COLUMNS,
    COLUMNS,
    METRIC_TITLES,
    NOTHING_CHANGED,
    SCORE_COLUMNS,
    SPEED_COLUMNS,
    Report,
    all_notes,
    change_rows,
    fact_table,
    gated,
    number,
    rows,
    score_rows,
    speed_rows,
    worst_prompts,
)
from pipeline.scoring.compare.runs import Key, RunClip

_ADDRESSES = ("http", "https", "file")
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class _Video:
    address: str
    shown: str
    poster: str | None
    """The address of a picture that is shown until the clip plays."""
    page: str | None
    """The address of the clip's page on a server."""


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
    comparison, facts = report.comparison, report.facts()
    fact_columns, fact_rows = fact_table(facts)
    tables = zip(METRIC_TITLES, map(rows, gated(comparison)), strict=True)
    return render(
        "compare.html",
        title=f"{comparison.state.value}: {comparison.candidate}",
        state=comparison.state.value,
        meaning=report.meaning,
        advice=comparison.advice,
        baseline=comparison.baseline,
        candidate=comparison.candidate,
        fact_columns=fact_columns,
        fact_rows=fact_rows,
        change_columns=CHANGE_COLUMNS,
        change_rows=change_rows(facts),
        nothing_changed=NOTHING_CHANGED,
        columns=COLUMNS[:-1],
        metric_tables=[(title, [_with_method(row) for row in lines]) for title, lines in tables if lines],
        score_columns=SCORE_COLUMNS,
        score_rows=score_rows(report),
        notes=all_notes(report),
        detectable=report.detectable,
        forest_chart=charts.forest(comparison.metrics),
        history_charts=list(_histories(report)),
        speed_columns=SPEED_COLUMNS,
        speed_rows=speed_rows(report.speed),
        worst=[
            (compared.metric.name, prompts)
            for compared in comparison.metrics
            if compared.margin is not None and (prompts := _worst(compared, report))
        ],
    )


def _with_method(row: tuple[str, ...]) -> tuple[str, ...]:
    """The row with the method of its interval in the line below it, which says why its state is that."""
    prompts, _, method = row[-2].partition(" ")
    return (*row[:-2], prompts, f"{row[-1]} {method}".rstrip() if row[-1] else "")


def _histories(report: Report) -> Iterator[charts.History]:
    for compared in report.comparison.metrics:
        if compared.margin is None or compared.candidate is None:
            continue
        means = ((run.name, run.mean(compared.metric.name)) for run in report.history)
        points = [(name, mean) for name, mean in means if mean is not None]
        if points:
            yield charts.history(compared, [*points, (report.comparison.candidate, compared.candidate)])


def _worst(compared: MetricComparison, report: Report) -> list[_Prompt]:
    return [_prompt(prompt, report) for prompt in worst_prompts(compared)]


def _prompt(prompt: PromptDifference, report: Report) -> _Prompt:
    strip = report.strips.get(Key(prompt.entry, prompt.worst_seed))
    before, after = report.clips(prompt)
    return _Prompt(
        gain=number(prompt.gain, True),
        text=prompt.prompt or f"entry {prompt.entry}",
        entry=prompt.entry,
        seeds=tuple(prompt.seeds),
        seed=prompt.worst_seed,
        baseline=number(prompt.baseline),
        candidate=number(prompt.candidate),
        baseline_video=_video(prompt.baseline_video, before),
        candidate_video=_video(prompt.candidate_video, after),
        strip=None if strip is None else f"data:image/jpeg;base64,{base64.b64encode(strip).decode()}",
    )


def _video(video: str, clip: RunClip | None) -> _Video:
    poster = None if clip is None or clip.poster is None else address(clip.poster)
    return _Video(address(video), _shown(video), poster, None if clip is None else clip.page)


def _shown(video: str) -> str:
    """The name of the clip's file: of one in the store, which is named by its digest, ``JOB.mp4``."""
    path = PurePosixPath(unquote(urlsplit(video).path)) if urlsplit(video).scheme in _ADDRESSES else PurePath(video)
    return f"{path.parent.name}{path.suffix}" if _DIGEST.fullmatch(path.stem) else path.name


def address(video: str) -> str:
    """A link to a clip. Only http(s) and file addresses are taken as such: anything else is a path on this host."""
    if urlsplit(video).scheme in _ADDRESSES:
        return video
    return Path(video).absolute().as_uri()
