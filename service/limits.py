"""The deadline and budget that a submission chose."""

import math
from collections.abc import Iterable, Mapping
from datetime import datetime

from db.clips.batches import Limits
from pipeline.errors import InputError, Problem
from pipeline.policy.deadlines import parse_deadline
from pipeline.settings import Settings
from service.choices import SubmissionChoices

_MAX_GPU_HOURS = 1e7


def limits_of(choices: SubmissionChoices, settings: Settings, needed: Iterable[tuple[str, ...]]) -> Limits:
    """The batch's limits; ``needed`` are the GPU types that its jobs accept. Raises InputError with every mistake."""
    problems: list[Problem] = []
    deadline = _deadline(choices.by, problems)
    hours = _positive("--max-gpu-hours", choices.max_gpu_hours, problems, most=_MAX_GPU_HOURS)
    cost = _positive("--max-cost", choices.max_cost, problems)
    if cost is not None:
        problems += _unpriced(needed, settings.prices)
    if problems:
        raise InputError(problems)
    return Limits(deadline, _gpu_ms(hours), cost, settings.prices)


def _deadline(text: str | None, problems: list[Problem]) -> int | None:
    if text is None:
        return None
    try:
        return int(parse_deadline(text, datetime.now().astimezone()).timestamp() * 1000)
    except ValueError as error:
        problems.append(Problem(str(error), field="--by"))
        return None


def _positive(flag: str, value: float | None, problems: list[Problem], most: float = 1e15) -> float | None:
    if value is not None and not (math.isfinite(value) and 0 < value <= most):
        problems.append(Problem(f"{value:g} is not possible: more than 0, and at most {most:g}", field=flag))
    return value


def _unpriced(needed: Iterable[tuple[str, ...]], prices: Mapping[str, float]) -> list[Problem]:
    """Jobs are never sent to a GPU type without a price; those that accept no other could never run."""
    if not prices:
        return [Problem("needs prices of GPU types: set VGEN_PRICES, such as h200=3.5", field="--max-cost")]
    return [
        Problem(
            f"GPU type {' or '.join(types)} has no price; VGEN_PRICES has {', '.join(sorted(prices))}",
            field="--max-cost",
        )
        for types in sorted(set(needed))
        if types and not prices.keys() & set(types)
    ]


def _gpu_ms(hours: float | None) -> int | None:
    return None if hours is None else max(1, round(hours * 3_600_000))
