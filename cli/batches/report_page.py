"""A batch's report as one HTML file with the timeline as a picture: no scripts, nothing loaded."""

from collections.abc import Sequence
from xml.etree.ElementTree import Element, tostring

from cli.batches.report import figures
from pipeline.scoring.compare.charts import element
from pipeline.states import Stage
from service.views.reports import ReportView, WorkerReportView

_ROW, _BAR = 34, 24
_LEFT, _PLOT, _TOP = 250, 720, 26
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2128; --soft: #57606a; --ground: #ffffff; --line: #d0d7de; --empty: #f0f2f5;
  --generate: #1f6feb; --encode: #2da44e; --publish: #8250df; --screen: #bf8700; --enhance: #cf4a8b; --score: #e16f24; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --ground: #0d1117; --line: #3d444d;
  --empty: #1a212b; --generate: #4c8dff; --encode: #46c163; --publish: #ab7df8; --screen: #d9a62b; --enhance: #ea7bb4;
  --score: #f0883e; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); margin: 2rem auto;
  max-width: 66rem; padding: 0 1rem; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: .6rem 1.5rem; }
dl div.wide { grid-column: 1 / -1; } dt { color: var(--soft); font-size: .85rem; }
dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .7rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } .note { color: var(--soft); }
svg { display: block; } svg text { fill: var(--ink); font-size: 12.5px; } svg .soft { fill: var(--soft); }
svg .empty { fill: var(--empty); } .key { display: inline-block; width: .8rem; height: .8rem; margin: 0 .35rem 0 1rem; }
""" + "".join(
    f"svg .{stage} {{ fill: var(--{stage}, gray); }} .key.{stage} {{ background: var(--{stage}, gray); }}\n"
    for stage in Stage
)


def page(view: ReportView) -> str:
    """The whole page."""
    title = f"Batch {view.batch.id} ({view.batch.name})"
    body = [element("h1", title), _figures(view)]
    body += [element("p", note, class_="note") for note in view.notes]
    if view.workers:
        body += [element("h2", "Timeline"), element("div", _timeline(view), class_="scroll"), _legend(view)]
        body += [element("h2", "Stages"), element("div", _stages(view), class_="scroll")]
    if view.gpus:
        body += [element("h2", "GPUs"), element("div", _gpus(view), class_="scroll")]
    root = element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("title", title),
            element("style", _STYLE),
        ),
        element("body", *body),
        lang="en",
    )
    return "<!doctype html>\n" + tostring(root, encoding="unicode", method="html") + "\n"


def _figures(view: ReportView) -> Element:
    wide = ("generating", "events")
    counts = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in view.batch.counts.items() if count)
    pairs = [("jobs", f"{view.batch.total}: {counts}"), *figures(view)]
    return element(
        "dl",
        *(
            element(
                "div", element("dt", name), element("dd", str(value)), **({"class_": "wide"} if name in wide else {})
            )
            for name, value in pairs
            if value is not None
        ),
    )


def _timeline(view: ReportView) -> Element:
    height = _TOP + _ROW * len(view.workers) + 24
    parts = [element("title", "What each worker did when")]
    for row, worker in enumerate(view.workers):
        parts += _worker_row(worker, _TOP + _ROW * row)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        anchor = "start" if share == 0 else "end" if share == 1 else "middle"
        label = f"{view.seconds * share:.0f} s"
        parts.append(element("text", label, x=_LEFT + _PLOT * share, y=height - 6, text_anchor=anchor, class_="soft"))
    width = _LEFT + _PLOT + 70
    return element("svg", *parts, width=width, height=height, viewBox=f"0 0 {width} {height}", role="img")


def _worker_row(worker: WorkerReportView, top: float) -> list[Element]:
    name = worker.worker if len(worker.worker) <= 34 else f"…{worker.worker[-33:]}"
    parts = [
        element("text", name, x=_LEFT - 10, y=top + 12, text_anchor="end"),
        element("text", worker.gpu_type or "", x=_LEFT - 10, y=top + 26, text_anchor="end", class_="soft"),
        element("rect", x=_LEFT, y=top, width=_PLOT, height=_BAR, class_="empty"),
        element("text", f"{worker.busy_share:.0%} of {worker.busy_of_seconds:.0f} s", x=_LEFT + _PLOT + 8, y=top + 16),
    ]
    spans = len(next(iter(worker.timeline.values())))
    step = _PLOT / spans
    for at in range(spans):
        shares = [(stage, values[at]) for stage, values in worker.timeline.items() if values[at] > 0]
        most = max(1.0, sum(value for _, value in shares))  # several at once share the bar's height
        y = top + _BAR
        for stage, value in shares:
            tall = _BAR * value / most
            y -= tall
            parts.append(
                element(
                    "rect",
                    x=round(_LEFT + at * step, 2),
                    y=round(y, 2),
                    width=round(step + 0.05, 2),
                    height=round(tall, 2),
                    class_=stage,
                )
            )
    return parts


def _legend(view: ReportView) -> Element:
    stages = [item.stage for item in view.stages]
    keys: list[Element | str] = []
    for stage in stages:
        keys += [element("span", class_=f"key {stage}"), stage]
    return element("p", *keys, f"; each column is {view.span_seconds:.2f} s, its height how much of it was worked")


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Element:
    return element(
        "table",
        element("thead", element("tr", *(element("th", name) for name in columns))),
        element(
            "tbody",
            *(element("tr", *(element("td", "–" if cell is None else str(cell)) for cell in row)) for row in rows),
        ),
    )


def _stages(view: ReportView) -> Element:
    return _table(
        ("stage", "attempts", "seconds", "mean", "continued", "lost attempts", "lost seconds"),
        [
            (
                item.stage,
                item.attempts,
                f"{item.seconds:.1f}",
                None if item.mean_seconds is None else f"{item.mean_seconds:.3f}",
                item.continued_attempts,
                item.lost_attempts,
                f"{item.lost_seconds:.1f}",
            )
            for item in view.stages
        ],
    )


def _gpus(view: ReportView) -> Element:
    return _table(
        ("GPU", "workers", "seconds", "price an hour", "cost"),
        [
            (
                item.gpu_type,
                item.workers,
                f"{item.seconds:.1f}",
                None if item.price is None else f"{item.price:g}",
                None if item.cost is None else f"{item.cost:.4g}",
            )
            for item in view.gpus
        ],
    )
