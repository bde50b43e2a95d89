"""The gate: rules that a clip's scores must keep before it is published.

A rule is a check or a group of checks that must not fail (``checks``, ``checks.black``), or a metric with a bound
(``vbench.imaging_quality>=50``).
"""

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import InputError, Problem
from pipeline.scoring.metric import Metric, Need, Score
from pipeline.scoring.registry import named

_BOUND = re.compile(r"\s*(?P<metric>[^<>=\s]+)\s*(?P<sign>>=|<=|>|<)\s*(?P<value>\S+)\s*")
_SIGNS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
CHECKS = "checks"
"""The group whose metrics say pass or fail."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: a bound on one metric, or, without one, that none of the checks fails."""

    text: str
    metrics: tuple[str, ...]
    sign: str | None = None
    bound: float | None = None

    def broken(self, scores: Mapping[str, Score]) -> Iterable[str]:
        """Return what is wrong with these scores, a sentence each.

        A check that had nothing to say, such as the loudness of a silent clip, breaks no rule; a bound that cannot
        be compared is not kept.
        """
        for name in self.metrics:
            score = scores.get(name)
            if self.sign is None or self.bound is None:
                if score is not None and score.passed is False:
                    yield f"{name} failed with {score.score:g}" if score.score is not None else f"{name} failed"
            elif score is None or score.score is None:
                yield f"{self.text}: not scored ({score.reason if score else 'it was not asked for'})"
            elif not _SIGNS[self.sign](score.score, self.bound):
                yield f"{self.text}: it is {score.score:g}"


def parse(texts: Sequence[str], metrics: Sequence[str], *, field: str = "--gate") -> tuple[Rule, ...]:
    """The rules of a batch whose clips are scored by ``metrics`` (names and groups).

    Raises:
        InputError: a rule cannot be read, or names a metric that is not scored.
    """
    scored = {metric.name for metric, _ in named(metrics)}
    rules, problems = [], []
    for text in texts:
        try:
            rules.append(_rule(text, scored))
        except ValueError as error:
            problems.append(Problem(f"{text!r}: {error}", field=field))
    if problems:
        raise InputError(problems)
    return tuple(rules)


def _rule(text: str, scored: set[str]) -> Rule:
    match = _BOUND.fullmatch(text)
    try:
        members = [metric.name for metric, _ in named([match["metric"] if match else text.strip()])]
    except InputError as error:
        raise ValueError(error.problems[0].message) from None
    if match is None:
        return Rule(text.strip(), _checks(members, scored))
    if len(members) != 1:
        raise ValueError(f"{match['metric']} is a group; a bound is for one metric")
    if members[0] not in scored:
        raise ValueError(f"{members[0]} is not among the metrics of --score")
    try:
        bound = float(match["value"])
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        raise ValueError(f"{match['value']!r} is not a number")
    return Rule(text.strip(), (members[0],), match["sign"], bound)


def _checks(members: Sequence[str], scored: set[str]) -> tuple[str, ...]:
    checks = tuple(name for name in members if name.partition(".")[0] == CHECKS)
    if len(checks) != len(members):
        raise ValueError("is not a check; give a bound, such as NAME>=0.5")
    selected = tuple(name for name in checks if name in scored)
    if not selected:
        raise ValueError("is not among the metrics of --score")
    return selected


def rejection_reasons(rules: Sequence[Rule], scores: Mapping[str, Score]) -> str | None:
    """Everything that breaks a rule, in one sentence; None where the clip is accepted."""
    reasons = list(dict.fromkeys(problem for rule in rules for problem in rule.broken(scores)))
    return "; ".join(reasons) or None


def check_metrics(names: Sequence[str], *, field: str = "--score", reference: bool = False) -> tuple[Metric, ...]:
    """The metrics that can be scored within the line, or, with a ``reference``, of clips that an earlier run made too.

    Raises:
        InputError: an unknown name; a metric that is named itself and is external or needs a reference clip; nothing
            is left.
    """
    selected, problems = [], []
    for metric, explicit in named(names):
        why = "is scored by another program" if metric.external else None
        if Need.REFERENCE in metric.needs and not reference:
            why = "needs a reference clip, which a clip that is being made has not"
        if why is None:
            selected.append(metric)
        elif explicit:
            problems.append(Problem(f"{metric.name} {why}", field=field))
    if not problems and not selected:
        problems.append(Problem(f"{', '.join(names)!r}: nothing here can be scored before publishing", field=field))
    if problems:
        raise InputError(problems)
    return tuple(selected)
