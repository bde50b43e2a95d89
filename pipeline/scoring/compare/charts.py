"""The report's two charts as SVG elements: they take their colours from the page's style sheet."""

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from pipeline.scoring.compare.comparison import MetricComparison
from pipeline.scoring.compare.report import number

_ROW = 30
_LEFT, _PLOT, _RIGHT = 260, 460, 230
_WIDTH = _LEFT + _PLOT + _RIGHT
_SPAN = 3.0
"""Margins shown to each side of no difference; what goes beyond is cut, and an arrow says so."""


def element(tag: str, *children: Element | str, **attributes: object) -> Element:
    """An element; ``class_`` is class, and underscores in names are hyphens. Texts are escaped when it is written."""
    new = Element(tag, {name.rstrip("_").replace("_", "-"): str(value) for name, value in attributes.items()})
    for child in children:
        if isinstance(child, str):
            if len(new):
                new[-1].tail = (new[-1].tail or "") + child
            else:
                new.text = (new.text or "") + child
        else:
            new.append(child)
    return new


def forest(metrics: Sequence[MetricComparison]) -> Element:
    """Gains and intervals, a row for each metric that has them, in units of its margin, or else of its interval."""
    estimated = [compared for compared in metrics if compared.estimate is not None]
    height = _ROW * len(estimated) + 50
    zero, margin_at = _x(0.0), _x(-1.0)
    parts = [
        element("title", "Gain over the baseline with its interval, in units of the margin"),
        element("rect", x=_LEFT, y=20, width=margin_at - _LEFT, height=height - 50, class_="worse"),
        element("line", x1=zero, x2=zero, y1=20, y2=height - 30, class_="axis"),
        element("line", x1=margin_at, x2=margin_at, y1=20, y2=height - 30, class_="margin"),
        element("text", "−margin", x=margin_at + 4, y=14, text_anchor="end"),
        element("text", "no difference", x=zero - 4, y=14),
        element("text", "← worse", x=_LEFT, y=height - 10),
        element("text", "better →", x=_LEFT + _PLOT, y=height - 10, text_anchor="end"),
    ]
    for row, compared in enumerate(estimated):
        parts += _forest_row(compared, 20 + _ROW * row + _ROW / 2)
    return _svg(parts, height)


def _forest_row(compared: MetricComparison, y: float) -> list[Element]:
    estimate = compared.estimate
    assert estimate is not None
    unit = compared.margin or max(estimate.high - estimate.low, abs(estimate.mean)) / 2 or 1.0
    low, mean, high = (value / unit for value in (estimate.low, estimate.mean, estimate.high))
    gated = "" if compared.margin else " free"
    parts = [
        element("text", compared.metric.name, x=_LEFT - 10, y=y + 4, text_anchor="end"),
        element("line", x1=_x(low), x2=_x(high), y1=y, y2=y, class_=f"interval {compared.state.value}{gated}"),
        element("text", f"{estimate.mean:+.3g} ({compared.state.value})", x=_LEFT + _PLOT + 10, y=y + 4),
    ]
    if abs(mean) <= _SPAN:
        parts.append(element("circle", cx=_x(mean), cy=y, r=5, class_=f"point {compared.state.value}"))
    for beyond, arrow, x in ((low < -_SPAN, "◀", _LEFT), (high > _SPAN, "▶", _LEFT + _PLOT)):
        if beyond:
            parts.append(element("text", arrow, x=x, y=y + 5, text_anchor="middle", class_=compared.state.value))
    return parts


def _x(value: float) -> float:
    inside = min(max(value, -_SPAN), _SPAN)
    return round(_LEFT + _PLOT * (inside + _SPAN) / (2 * _SPAN), 1)


def history(compared: MetricComparison, points: Sequence[tuple[str, float]]) -> Element:
    """A metric's means over runs, oldest first and the candidate last, and the band that the margin allows."""
    height, top, bottom = 170, 20, 140
    margin = compared.margin or 0.0
    middle = compared.baseline if compared.baseline is not None else points[-1][1]
    values = [value for _, value in points] + [middle - margin, middle + margin]
    low, high = min(values), max(values)
    scale = (bottom - top) / ((high - low) or 1.0)

    def y(value: float) -> float:
        return round(bottom - (value - low) * scale, 1)

    step = (_PLOT + _RIGHT - 40) / max(1, len(points) - 1)
    places = [(round(_LEFT + 10 + step * index, 1), y(value)) for index, (_, value) in enumerate(points)]
    band = element(
        "rect", x=_LEFT, y=y(middle + margin), width=_PLOT + _RIGHT - 20,
        height=max(1.0, round(y(middle - margin) - y(middle + margin), 1)), class_="band",
    )  # fmt: skip
    parts = [
        element("title", f"{compared.metric.name} over runs, with the baseline's band"),
        element("text", compared.metric.name, x=_LEFT - 10, y=(top + bottom) / 2, text_anchor="end"),
        element("text", number(high), x=_LEFT - 10, y=top + 4, text_anchor="end"),
        element("text", number(low), x=_LEFT - 10, y=bottom + 4, text_anchor="end"),
        band,
        element("line", x1=_LEFT, x2=_WIDTH - 20, y1=y(middle), y2=y(middle), class_="margin"),
        element("polyline", points=" ".join(f"{x},{at}" for x, at in places), class_="trend"),
    ]
    for (x, at), (name, value) in zip(places, points, strict=True):
        last = name == points[-1][0] and (x, at) == places[-1]
        state = compared.state.value if last else "past"
        parts.append(
            element("circle", element("title", f"{name}: {number(value)}"), cx=x, cy=at, r=4, class_=f"point {state}")
        )
    parts.append(
        element(
            "text",
            f"{len(points)} runs, the candidate last; {compared.metric.direction.value} is better",
            x=_LEFT,
            y=height - 8,
        )
    )
    return _svg(parts, height)


def _svg(parts: Sequence[Element], height: float) -> Element:
    return element("svg", *parts, viewBox=f"0 0 {_WIDTH} {height:g}", role="img", width="100%")
