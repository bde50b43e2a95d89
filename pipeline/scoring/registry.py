"""All metrics by dotted name, and the groups that select several."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from pipeline.errors import InputError, Problem
from pipeline.nearest import nearest
from pipeline.scoring.checks import CHECKS
from pipeline.scoring.extended import EXTENDED, VBENCH_LONG
from pipeline.scoring.metric import Metric, Need
from pipeline.scoring.shapes.metric import SHAPES_METRICS
from pipeline.scoring.similarity import COMMON
from pipeline.scoring.vbench import QUALITY, SEMANTIC, STATIC_FILTER, VBENCH
from pipeline.scoring.weights import Weights

METRICS: dict[str, Metric] = {
    metric.name: metric for metric in (*COMMON, *CHECKS, *SHAPES_METRICS, *VBENCH, STATIC_FILTER, *EXTENDED)
}

_TEXTED = frozenset({Need.PROMPT, Need.AUXILIARY})
GROUPS: dict[str, tuple[str, ...]] = {
    "common": tuple(metric.name for metric in COMMON),
    "checks": tuple(metric.name for metric in CHECKS),
    "shapes": tuple(metric.name for metric in SHAPES_METRICS),
    "vbench-free": tuple(metric.name for metric in VBENCH if not metric.external and not metric.needs & _TEXTED),
    "vbench-quality": tuple(f"vbench.{name}" for name in QUALITY),
    "vbench-semantic": tuple(f"vbench.{name}" for name in SEMANTIC),
    "vbench": tuple(metric.name for metric in VBENCH),
    "vbench-long": tuple(metric.name for metric in VBENCH_LONG),
    "all": tuple(METRICS),
}
"""vbench-free: the native dimensions that need no text, so that any clip can be scored; vbench-long: for clips of 5 s
and more."""


WEIGHTS_MISSING = "weights missing"
"""The beginning of the reason why a metric without weights scores nothing."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """The readiness of a metric here: ``ready``, ``weights missing`` or ``external``, and what is missing."""

    metric: Metric
    state: str
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Selection:
    """Metrics to compute, and what a group named but cannot be computed here, with the reason."""

    metrics: tuple[Metric, ...]
    left_out: tuple[tuple[Metric, str], ...] = ()

    def without_weights(self, names: Iterable[str]) -> set[str]:
        """The metrics whose lack of weights leaves undone what these names asked for (``counted_as_lacking``)."""
        lacking = {metric.name for metric, reason in self.left_out if reason.startswith(WEIGHTS_MISSING)}
        return counted_as_lacking(names, {metric.name for metric in self.metrics if metric.weights} | lacking, lacking)


def readiness(metric: Metric, weights: Weights) -> Readiness:
    """Return what stands between this metric and a score, on this machine."""
    if metric.external:
        return Readiness(metric, "external")
    missing = tuple(weights.missing(metric.weights))
    return Readiness(metric, WEIGHTS_MISSING if missing else "ready", missing)


def is_known(name: str) -> bool:
    """Return whether this release has a metric or a group of that name: an older run may have asked for others."""
    return name in METRICS or name in GROUPS


def named(names: Iterable[str]) -> list[tuple[Metric, bool]]:
    """The metrics of names and groups, each once and in order, and whether it was named itself.

    Raises:
        InputError: a name that is neither; the message lists close ones.
    """
    names_found: dict[str, bool] = {}
    problems = []
    for name in names:
        if name in METRICS:
            names_found[name] = True
        elif name in GROUPS:
            for member in GROUPS[name]:
                names_found.setdefault(member, False)
        else:
            problems.append(Problem(f"{name!r} is not a metric or a group; {_near(name)}", field="metrics"))
    if problems:
        raise InputError(problems)
    return [(METRICS[name], explicit) for name, explicit in names_found.items()]


def counted_as_lacking(names: Iterable[str], present: Collection[str], lacking: Collection[str]) -> set[str]:
    """Of metrics that scored nothing for want of weights, those for which what was asked was not done.

    Those are the ones that were named themselves, and those of a group of which all that need weights lack them.
    ``present`` are the metrics with weights that were to score, ``lacking`` those of them that had none.
    """
    known = [name for name in names if is_known(name)]
    counted = {metric.name for metric, explicit in named(known) if explicit and metric.name in lacking}
    for name in known:
        members = set(present) & set(GROUPS.get(name, ()))
        counted |= members if members <= set(lacking) else set()
    return counted


def select(names: Sequence[str], weights: Weights, *, reference: bool = True, image: bool = True) -> Selection:
    """Return what to compute. A group leaves out what cannot be computed here; a named metric is an error then.

    Raises:
        InputError: an unknown name; a named metric that is external, lacks its weights, its reference or its picture.
    """
    metrics: list[Metric] = []
    left_out: list[tuple[Metric, str]] = []
    problems = []
    for metric, explicit in named(names):
        reason = _obstacle(metric, weights, reference)
        if reason is None and Need.IMAGE in metric.needs and not image:
            reason = "needs the picture that the clip was made from (--image)"
        if reason is None:
            metrics.append(metric)
        elif explicit:
            problems.append(Problem(f"{metric.name}: {reason}", field="metrics"))
        else:
            left_out.append((metric, reason))
    if problems:
        raise InputError(problems)
    if not metrics:
        reasons = "; ".join(f"{metric.name}: {reason}" for metric, reason in left_out[:3])
        raise InputError([Problem(f"none of {', '.join(names)} can be computed here ({reasons})", field="metrics")])
    return Selection(tuple(metrics), tuple(left_out))


def _obstacle(metric: Metric, weights: Weights, reference: bool) -> str | None:
    ready = readiness(metric, weights)
    if ready.state == "external":
        return "scored by another program: `vgen eval export`, then `vgen eval import`"
    if ready.missing:
        return f"{WEIGHTS_MISSING}: {'; '.join(f'{name}, {weights.where(name)}' for name in ready.missing)}"
    if Need.REFERENCE in metric.needs and not reference:
        return "needs a reference clip (--reference)"
    return None


def _near(name: str) -> str:
    close = nearest(name, [*METRICS, *GROUPS], 3, cutoff=0.5)
    tails = [full for full in METRICS if full.partition(".")[2] == name]
    best = list(dict.fromkeys([*tails, *close]))
    return f"did you mean {' or '.join(best)}?" if best else "`vgen eval list` shows them"
