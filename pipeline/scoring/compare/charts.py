"""The geometry of the report's two charts; ``charts.html`` draws them in the colours of the stylesheet."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.scoring.compare.comparison import MetricComparison
from pipeline.scoring.compare.report import NOT_GATED, number
from pipeline.scoring.metric import Metric

_ROW = 30
_LEFT, _PLOT, _RIGHT = 260, 460, 230
_WIDTH = _LEFT + _PLOT + _RIGHT
_SPAN = 3.0
"""Margins shown to each side of no difference; what goes beyond is cut, and an arrow says so."""
_HISTORY_HEIGHT, _TOP, _BOTTOM = 170, 20, 140


@dataclass(frozen=True, slots=True)
class ForestRow:
    """A metric's gain and its interval, as places across the chart."""

    name: str
    state: str
    gated: bool
    y: float
    low: float
    high: float
    mean: float | None
    """None where it lies beyond the chart."""
    label: str
    arrows: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Forest:
    """Gains and intervals, a row for each metric that has them, in units of its margin, or else of its interval."""

    rows: tuple[ForestRow, ...]
    height: float
    zero: float
    margin_at: float
    width: int = _WIDTH
    left: int = _LEFT
    right: int = _LEFT + _PLOT


def forest(metrics: Sequence[MetricComparison]) -> Forest:
    """Return the chart of these metrics, those that gate first."""
    estimated = [compared for compared in metrics if compared.estimate is not None]
    estimated.sort(key=lambda compared: compared.margin is None)
    rows = tuple(_forest_row(compared, 20 + _ROW * row + _ROW / 2) for row, compared in enumerate(estimated))
    return Forest(rows, _ROW * len(rows) + 50, zero=_x(0.0), margin_at=_x(-1.0))


def _forest_row(compared: MetricComparison, y: float) -> ForestRow:
    estimate = compared.estimate
    assert estimate is not None
    unit = compared.margin or max(estimate.high - estimate.low, abs(estimate.mean)) / 2 or 1.0
    low, mean, high = (value / unit for value in (estimate.low, estimate.mean, estimate.high))
    ends = ((low < -_SPAN, "◀", _LEFT), (high > _SPAN, "▶", _LEFT + _PLOT))
    return ForestRow(
        name=compared.metric.name,
        state=compared.state.value,
        gated=bool(compared.margin),
        y=y,
        low=_x(low),
        high=_x(high),
        mean=_x(mean) if abs(mean) <= _SPAN else None,
        label=f"{estimate.mean:+.3g} ({NOT_GATED if compared.margin is None else compared.state.value})",
        arrows=tuple((arrow, float(x)) for beyond, arrow, x in ends if beyond),
    )


def _x(value: float) -> float:
    inside = min(max(value, -_SPAN), _SPAN)
    return round(_LEFT + _PLOT * (inside + _SPAN) / (2 * _SPAN), 1)


@dataclass(frozen=True, slots=True)
class HistoryPoint:
    """A run's mean."""

    x: float
    y: float
    state: str
    """``past``, or the candidate's."""
    label: str


@dataclass(frozen=True, slots=True)
class History:
    """A metric's means over runs, oldest first and the candidate last, and the band that the margin allows."""

    metric: str
    points: tuple[HistoryPoint, ...]
    high: str
    low: str
    middle: float
    band_top: float
    band_height: float
    note: str
    width: int = _WIDTH
    height: int = _HISTORY_HEIGHT
    left: int = _LEFT
    top: int = _TOP
    bottom: int = _BOTTOM
    middle_of_plot: float = (_TOP + _BOTTOM) / 2
    plot_width: int = _PLOT + _RIGHT - 20


def history(compared: MetricComparison, points: Sequence[tuple[str, float]]) -> History:
    """Return the chart of these runs' means; the last is the candidate's."""
    margin = compared.margin or 0.0
    middle = compared.baseline if compared.baseline is not None else points[-1][1]
    least, most = _band(compared.metric, middle, margin)
    values = [value for _, value in points] + [least, most]
    low, high = min(values), max(values)
    scale = (_BOTTOM - _TOP) / ((high - low) or 1.0)

    def y(value: float) -> float:
        return round(_BOTTOM - (value - low) * scale, 1)

    step = (_PLOT + _RIGHT - 40) / max(1, len(points) - 1)
    return History(
        metric=compared.metric.name,
        points=tuple(
            HistoryPoint(
                x=round(_LEFT + 10 + step * index, 1),
                y=y(value),
                state=compared.state.value if index == len(points) - 1 else "past",
                label=f"{name}: {number(value)}",
            )
            for index, (name, value) in enumerate(points)
        ),
        high=number(high),
        low=number(low),
        middle=y(middle),
        band_top=y(most),
        band_height=max(1.0, round(y(least) - y(most), 1)),
        note=f"{len(points)} runs, the candidate last; {compared.metric.direction.value} is better",
    )


def _band(metric: Metric, middle: float, margin: float) -> tuple[float, float]:
    """The values within the margin of the baseline, as far as the metric can have them."""
    least, most = middle - margin, middle + margin
    return (
        least if metric.low is None else max(least, min(metric.low, middle)),
        most if metric.high is None else min(most, max(metric.high, middle)),
    )
