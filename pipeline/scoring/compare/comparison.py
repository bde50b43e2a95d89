"""Two runs compared, paired per prompt: the same prompts and seeds, one difference a prompt."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.errors import InputError, Problem
from pipeline.scoring.compare.runs import Key, Run, identical
from pipeline.scoring.compare.statistics import ALPHA, Estimate, estimate, holm
from pipeline.scoring.compare.verdict import State, advice, most_severe
from pipeline.scoring.metric import Direction, Metric
from pipeline.scoring.registry import METRICS

_MARGIN = re.compile(r"(?P<name>[^<>=]*)(?P<sign>>=|<=|=)(?P<value>[^<>=]*)")


@dataclass(frozen=True, slots=True)
class PromptDifference:
    """One prompt's means over its seeds; ``gain`` is positive where the candidate is better."""

    entry: int
    seeds: tuple[int, ...]
    baseline: float
    candidate: float
    gain: float
    baseline_video: str
    candidate_video: str
    """The clip of the seed that lost most."""
    worst_seed: int
    prompt: str | None = None
    """The prompt, where the scores came with it."""


@dataclass(frozen=True, slots=True)
class MetricComparison:
    """One metric. ``estimate`` is of gains; it is there for what could be paired, even when the rest is missing."""

    metric: Metric
    state: State
    reason: str
    margin: float | None
    """Largest loss that is accepted, in the metric's own units; None: not gated."""
    baseline: float | None
    candidate: float | None
    estimate: Estimate | None
    prompts: tuple[PromptDifference, ...]
    missing: int
    """Clips that only one of the runs has a score for."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs. ``advice`` says what to do next, if anything."""

    baseline: str
    candidate: str
    state: State
    advice: str | None
    metrics: tuple[MetricComparison, ...]
    missing_clips: int
    alpha: float


def compare(
    baseline: Run,
    candidate: Run,
    metrics: Sequence[Metric],
    margins: Mapping[str, float],
    *,
    alpha: float = ALPHA,
    seed: int = 0,
) -> Comparison:
    """Compare; metrics with a margin are gated, the others are only shown.

    Raises:
        InputError: a margin is negative or not a number, or its metric is not compared; the runs are of two suites.
    """
    _check_prompts(baseline, candidate)
    if identical(baseline, candidate):
        return Comparison(baseline.name, candidate.name, State.IDENTICAL, None, (), 0, alpha)
    _check(metrics, margins)
    missing = len(baseline.clips.keys() ^ candidate.clips.keys())
    paired = {metric.name: _pairs(baseline, candidate, metric) for metric in metrics}
    estimates = {
        name: estimate(
            [prompt.gain for prompt in prompts],
            -margins.get(name, 0.0),
            alpha=alpha,
            tests=max(1, len(margins)),
            seed=seed,
        )
        for name, (prompts, _) in paired.items()
    }
    obstacles = {
        metric.name: _obstacle(baseline, candidate, metric, paired[metric.name], estimates[metric.name])
        for metric in metrics
    }
    tested = {name: estimates[name] for name in margins if obstacles[name] is None}
    worse = holm({name: result.p_worse for name, result in tested.items() if result is not None}, alpha, len(margins))
    compared = []
    for metric in metrics:
        (prompts, unpaired), result = paired[metric.name], estimates[metric.name]
        margin = margins.get(metric.name)
        state, reason = obstacles[metric.name] or _judged(metric, margin, result, metric.name in worse)
        before, after = (_mean(getattr(prompt, side) for prompt in prompts) for side in ("baseline", "candidate"))
        compared.append(MetricComparison(metric, state, reason, margin, before, after, result, prompts, unpaired))
    state = most_severe([result.state for result in compared if result.margin is not None])
    if missing and state is not State.REGRESSED:  # a clip without any score shows in no metric
        state = State.INCOMPLETE
    return Comparison(baseline.name, candidate.name, state, advice(state), tuple(compared), missing, alpha)


def repeated(first: Comparison, both: Comparison) -> Comparison:
    """The comparison of both seed sets together, after one of the first alone: it says whether to alarm."""
    return replace(both, advice=advice(first.state, both.state))


def with_repeat_option(comparison: Comparison, option: str) -> Comparison:
    """The comparison of runs that were not repeated: the advice to repeat names the option that does it."""
    if comparison.state is not State.REGRESSED:
        return comparison
    return replace(comparison, advice=f"{comparison.advice} ({option})")


def _check_prompts(baseline: Run, candidate: Run) -> None:
    """Raises InputError where an entry has another prompt in the other run: then their clips are of two suites."""
    for key in sorted(baseline.clips.keys() & candidate.clips.keys()):
        before, after = baseline.clips[key].prompt, candidate.clips[key].prompt
        if before is not None and after is not None and before != after:
            raise InputError(
                f"{baseline.name} and {candidate.name} are runs of two suites and cannot be compared: the prompt of "
                f"entry {key.entry} is {before!r:.100} in the one and {after!r:.100} in the other"
            )


def _check(metrics: Sequence[Metric], margins: Mapping[str, float]) -> None:
    names = {metric.name for metric in metrics}
    problems = [
        Problem(f"{name} {value}: a margin is a number of at least 0", field="margin")
        for name, value in margins.items()
        if not math.isfinite(value) or value < 0
    ]
    problems += [Problem(f"{name}: neither run has this metric", field="margin") for name in margins.keys() - names]
    if problems:
        raise InputError(problems)


def _pairs(baseline: Run, candidate: Run, metric: Metric) -> tuple[tuple[PromptDifference, ...], int]:
    """One difference a prompt, and how many clips have a score in one run only."""
    by_entry: dict[int, list[tuple[Key, float, float]]] = {}
    missing = 0
    for key in sorted(baseline.clips.keys() | candidate.clips.keys()):
        before, after = _number(baseline, key, metric.name), _number(candidate, key, metric.name)
        if metric.perfect is not None:  # the score is of both clips; the baseline's own, compared with itself
            before = metric.perfect if key in baseline.clips and key in candidate.clips else after
        if before is not None and after is not None:
            by_entry.setdefault(key.entry, []).append((key, before, after))
        elif before is not None or after is not None:
            missing += 1
    return tuple(_prompt(baseline, candidate, metric, pairs) for pairs in by_entry.values()), missing


def _prompt(
    baseline: Run, candidate: Run, metric: Metric, pairs: Sequence[tuple[Key, float, float]]
) -> PromptDifference:
    sign = 1.0 if metric.direction is Direction.HIGHER else -1.0
    before = math.fsum(value for _, value, _ in pairs) / len(pairs)
    after = math.fsum(value for _, _, value in pairs) / len(pairs)
    worst = min(pairs, key=lambda pair: sign * (pair[2] - pair[1]))[0]
    return PromptDifference(
        worst.entry,
        tuple(key.seed for key, _, _ in pairs),
        before,
        after,
        sign * (after - before),
        baseline.clips[worst].video,
        candidate.clips[worst].video,
        worst.seed,
        candidate.clips[worst].prompt or baseline.clips[worst].prompt,
    )


def _number(run: Run, key: Key, metric: str) -> float | None:
    clip = run.clips.get(key)
    score = None if clip is None else clip.scores.get(metric)
    return None if score is None or score.score is None or not math.isfinite(score.score) else score.score


def _obstacle(
    baseline: Run,
    candidate: Run,
    metric: Metric,
    pairs: tuple[tuple[PromptDifference, ...], int],
    tested: Estimate | None,
) -> tuple[State, str] | None:
    (prompts, missing), after = pairs, candidate.scorers(metric.name)
    before = baseline.scorers(metric.name) if metric.perfect is None else after
    if before and after and (before != after or len(before) > 1):
        return State.OTHER_FINGERPRINT, "the scores were made in different ways (details.scorer)"
    if missing or not before:
        return State.INCOMPLETE, _absence(baseline, candidate, metric, missing)
    if tested is None and len(prompts) == 1:
        return State.NO_CALIBRATION, "one prompt says nothing of the spread over prompts: take two or more"
    if tested is None:
        return State.NO_CALIBRATION, "the spread is not known: too few prompts, and all differ by the same"
    return None


def _absence(baseline: Run, candidate: Run, metric: Metric, missing: int) -> str:
    """Return which scores are missing, and the first reason that was given."""
    lacking = [
        score.reason
        for run in (candidate, baseline)
        for clip in run.clips.values()
        if (score := clip.scores.get(metric.name)) is not None and score.score is None and score.reason
    ]
    if metric.perfect is not None:
        said = f"{missing} clips could not be compared with the baseline's" if missing else "no clip was compared"
    else:
        said = f"{missing} clips have a score in one run only" if missing else "neither run has a score"
    return f"{said}: {lacking[0]}" if lacking else said


def _judged(metric: Metric, margin: float | None, tested: Estimate | None, worse: bool) -> tuple[State, str]:
    if margin is None or tested is None:
        return State.NO_CALIBRATION, "no margin was given"
    low, high, limit = _worded(metric, margin, tested)
    if worse:
        return State.REGRESSED, f"{high} at best, where {limit} is allowed"
    if tested.low > -margin:
        return State.OK, f"{low} at worst, where {limit} is allowed"
    if tested.low == tested.high == -margin:  # a point has no part below the margin
        return State.OK, f"{low} on every prompt, where {limit} is allowed"
    if tested.high < -margin:
        return State.INCONCLUSIVE, (
            f"{high} at best, where {limit} is allowed; but this is not significant after Holm's correction for the "
            "number of gated metrics"
        )
    return State.INCONCLUSIVE, (
        f"between {low} and {high}, where {limit} is allowed; a loss of {tested.detectable + margin:.4g} would be "
        "found in 8 of 10 nights"
    )


def _worded(metric: Metric, margin: float, tested: Estimate) -> tuple[str, str, str]:
    """The interval's ends and the limit: values of a likeness, which its bound is in, and changes of other metrics."""
    if metric.perfect is None:
        return f"{tested.low:+.4g}", f"{tested.high:+.4g}", f"a loss of {margin:.4g}"
    sign = 1.0 if metric.direction is Direction.HIGHER else -1.0
    low, high, limit = (metric.perfect + sign * gain for gain in (tested.low, tested.high, -margin))
    bound = "at least" if metric.direction is Direction.HIGHER else "at most"
    return f"{low:.4g}", f"{high:.4g}", f"{bound} {limit:.4g}"


def _mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return math.fsum(numbers) / len(numbers) if numbers else None


def read_margins(texts: Sequence[str], where: str) -> dict[str, float]:
    """Margins by metric, of ``NAME=VALUE`` texts, and of bounds on a likeness to the baseline's clips.

    A bound (``common.ssim>=0.98``, ``common.lpips<=0.05``) is on the mean; the margin is its distance from the score
    of equal clips.

    Raises:
        InputError: with every mistake.
    """
    margins, problems = {}, []
    for text in texts:
        match = _MARGIN.fullmatch(text)
        name = (match["name"] if match else text).strip()
        if name not in METRICS:
            problems.append(Problem(f"{name!r} is not a metric: `vgen eval list` shows them", field=where))
            continue
        try:
            margins[name] = _margin(METRICS[name], match["sign"] if match else "", match["value"] if match else "")
        except ValueError as error:
            problems.append(Problem(f"{text!r}: {error}", field=where))
    if problems:
        raise InputError(problems)
    return margins


def _margin(metric: Metric, sign: str, text: str) -> float:
    """Raises ValueError: with what is wrong."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError("a margin is NAME=VALUE, where VALUE is a number") from None
    if not math.isfinite(value):
        raise ValueError("a margin is NAME=VALUE, where VALUE is a number")
    if sign == "=":
        return value
    if metric.perfect is None:
        raise ValueError(
            "bounds are for metrics of `common`, which compare clips with the baseline's: write "
            f"{metric.name}=LARGEST_LOSS"
        )
    wanted = ">=" if metric.direction is Direction.HIGHER else "<="
    if sign != wanted:
        raise ValueError(f"{metric.direction.value} is better: write {metric.name}{wanted}VALUE")
    margin = metric.perfect - value if sign == ">=" else value - metric.perfect
    if margin < 0:
        raise ValueError(f"two equal clips have a score of {metric.perfect:g}, so that no clip can reach {value:g}")
    return margin
