"""The report as one HTML file: no scripts, nothing loaded but the clips that it shows."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree.ElementTree import Element, tostring

from pipeline.scoring.compare import charts
from pipeline.scoring.compare.charts import element
from pipeline.scoring.compare.comparison import Comparison, MetricComparison
from pipeline.scoring.compare.report import (
    COLUMNS,
    SPEED_COLUMNS,
    Report,
    notes,
    number,
    rows,
    speed_rows,
    worst_prompts,
)
from pipeline.scoring.compare.verdict import MEANING

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2128; --soft: #57606a; --ground: #ffffff; --line: #d0d7de;
  --good: #1a7f37; --bad: #cf222e; --open: #9a6700; --band: #ddf4ff; --worse: #ffebe9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --ground: #0d1117; --line: #3d444d;
  --good: #3fb950; --bad: #f85149; --open: #d29922; --band: #12293f; --worse: #34171a; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); margin: 2rem auto;
  max-width: 84rem; padding: 0 1rem; }
h1 span, td.state { font-weight: 600; }
.ok, .identical { color: var(--good); } .regressed { color: var(--bad); }
.inconclusive, .no_calibration, .incomplete, .other_fingerprint { color: var(--open); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: left; vertical-align: top; }
table { font-size: .87rem; } td { white-space: nowrap; }
td:last-child { min-width: 10rem; white-space: normal; }
.note, figcaption { color: var(--soft); } .next { border-left: 4px solid var(--bad); padding-left: .8rem; }
.pair { display: flex; flex-wrap: wrap; gap: 1rem; } figure { flex: 1 1 20rem; margin: .5rem 0; }
video { width: 100%; max-height: 24rem; background: #000; } figcaption { overflow-wrap: anywhere; }
svg { max-width: 64rem; min-width: 44rem; display: block; } svg text { fill: var(--ink); font-size: 13px; }
svg text.ok, svg text.regressed, svg text.inconclusive { fill: currentColor; }
svg .axis { stroke: var(--soft); } svg .margin { stroke: var(--soft); stroke-dasharray: 4 3; }
svg .worse { fill: var(--worse); } svg .band { fill: var(--band); }
svg .interval { stroke: currentColor; stroke-width: 3; } svg .free { stroke-dasharray: 2 3; }
svg .point { fill: currentColor; } svg .past { color: var(--soft); }
svg .trend { fill: none; stroke: var(--soft); stroke-width: 1.5; }
"""


def html(report: Report) -> str:
    """The whole page. Videos on disk are linked where they are, by absolute path; http(s) URLs stay."""
    comparison = report.comparison
    body = [*_head(comparison)]
    if comparison.metrics:
        body += [
            element("h2", "Differences"),
            element("div", charts.forest(comparison.metrics), class_="scroll"),
            element("p", "In units of each metric's margin; dotted: no margin, on a scale of its own.", class_="note"),
            _table(COLUMNS, rows(comparison), state_column=1),
            element("ul", *(element("li", note) for note in notes(comparison)), class_="note"),
        ]
    body += _history(report)
    if report.speed:
        body += [element("h2", "Speed"), _table(SPEED_COLUMNS, speed_rows(report.speed), state_column=3)]
    for compared in comparison.metrics:
        if compared.margin is not None:
            body += _worst(compared)
    title = f"{comparison.state.value}: {comparison.candidate}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", _STYLE),
    )
    page = element("html", head, element("body", *body), lang="en")
    return f"<!DOCTYPE html>\n{tostring(page, encoding='unicode', method='html')}\n"


def _head(comparison: Comparison) -> list[Element]:
    state = comparison.state
    parts = [
        element("h1", "Evaluation: ", element("span", state.value, class_=state.value)),
        element("p", MEANING[state]),
        element(
            "p",
            "Baseline ",
            element("code", comparison.baseline),
            ", candidate ",
            element("code", comparison.candidate),
            ".",
        ),
    ]
    if comparison.advice:
        parts.insert(2, element("p", f"Next: {comparison.advice}.", class_="next"))
    return parts


def _table(columns: Sequence[str], lines: Sequence[Sequence[str]], state_column: int) -> Element:
    head = element("tr", *(element("th", name) for name in columns))
    body = [
        element(
            "tr",
            *(
                element("td", value, class_=f"state {value}") if index == state_column else element("td", value)
                for index, value in enumerate(line)
            ),
        )
        for line in lines
    ]
    return element("div", element("table", element("thead", head), element("tbody", *body)), class_="scroll")


def _history(report: Report) -> list[Element]:
    parts = []
    for compared in report.comparison.metrics:
        if compared.margin is None or compared.candidate is None:
            continue
        means = ((run.name, run.mean(compared.metric.name)) for run in report.history)
        points = [(name, mean) for name, mean in means if mean is not None]
        if points:
            chart = charts.history(compared, [*points, (report.comparison.candidate, compared.candidate)])
            parts.append(element("div", chart, class_="scroll"))
    return [element("h2", "History"), *parts] if parts else []


def _worst(compared: MetricComparison) -> list[Element]:
    worst = worst_prompts(compared)
    if not worst:
        return []
    parts = [element("h2", f"Worst prompts by {compared.metric.name}")]
    for prompt in worst:
        seeds = ", ".join(str(seed) for seed in prompt.seeds)
        parts += [
            element("h3", f"{number(prompt.gain, True)}: {prompt.prompt or f'entry {prompt.entry}'}"),
            element("p", f"Entry {prompt.entry}, seeds {seeds}; shown is seed {prompt.worst_seed}.", class_="note"),
            element(
                "div",
                _clip("Baseline", number(prompt.baseline), prompt.baseline_video),
                _clip("Candidate", number(prompt.candidate), prompt.candidate_video),
                class_="pair",
            ),
        ]
    return parts


def _clip(name: str, mean: str, video: str) -> Element:
    """Both of a pair play at once and again and again, without sound: that is how two clips are compared."""
    played = element(
        "video", src=address(video), controls="", autoplay="", loop="", muted="", playsinline="", preload="auto"
    )
    caption = element("figcaption", f"{name}, mean {mean}: ", element("a", _shown(video), href=address(video)))
    return element("figure", played, caption)


def _shown(video: str) -> str:
    """A signed address holds more than anybody wants to read: only where the clip lies is shown."""
    parts = urlsplit(video)
    return parts.path.removeprefix("/") if parts.scheme in ("http", "https") else video


def address(video: str) -> str:
    """A link to a clip. Only http(s) and file addresses are taken as such: anything else is a path on this host."""
    if urlsplit(video).scheme in ("http", "https", "file"):
        return video
    return Path(video).absolute().as_uri()
