"""`vgen budget`, and the options of a batch's deadline and budget."""

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated

import typer

from cli import output
from cli.batches import status
from cli.context import open_database, settings_of
from cli.options import BatchArgument, BatchChoices, Json
from db.clips import batches
from db.clips.batches import Limits
from db.models import Batch
from db.reading import estimates
from db.scheduling import budgets
from pipeline.errors import InputError, Problem
from pipeline.policy.deadlines import parse_deadline
from pipeline.settings import Settings

NONE = "none"
_MAX_GPU_HOURS = 1e7


def limits_of_options(choices: BatchChoices, settings: Settings, needed: Iterable[tuple[str, ...]]) -> Limits:
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


def budget(
    ctx: typer.Context,
    batch: BatchArgument,
    max_gpu_hours: Annotated[
        str | None, typer.Option("--max-gpu-hours", metavar="HOURS", help="The new limit, or 'none'.")
    ] = None,
    max_cost: Annotated[
        str | None, typer.Option("--max-cost", metavar="COST", help="The new limit, or 'none'.")
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", metavar="TIME", help="The new deadline as at submit, or 'none'.")
    ] = None,
    json: Json = False,
) -> int:
    """Change a batch's budget or deadline; without options, show what was used."""
    settings = settings_of(ctx)
    with open_database(settings) as database:
        with database.transaction() as session:
            row = batches.get(session, batch)
            needed = [need.gpu for need in estimates.needs(session, row.id)]
            new = _changed(row, settings, needed, max_gpu_hours, max_cost, by)
            if max_gpu_hours is not None or max_cost is not None:
                budgets.set_limits(
                    session,
                    row.id,
                    max_gpu_ms=new.max_gpu_ms,
                    max_cost=new.max_cost,
                    prices=new.prices,
                    by=settings.owner,
                )
            if by is not None:
                batches.set_deadline(session, row.id, new.deadline_at, by=settings.owner)
        view = status.status_view(database, settings, row.id)
    if json:
        output.as_json(view)
    else:
        output.facts(status.limit_facts(view))
    return 0


def _changed(
    row: Batch,
    settings: Settings,
    needed: Iterable[tuple[str, ...]],
    max_gpu_hours: str | None,
    max_cost: str | None,
    by: str | None,
) -> Limits:
    """The batch's limits after the change. Raises InputError."""
    problems: list[Problem] = []
    choices = BatchChoices(
        by=None if by == NONE else by,
        max_gpu_hours=_number("--max-gpu-hours", max_gpu_hours, problems),
        max_cost=_number("--max-cost", max_cost, problems),
    )
    if problems:
        raise InputError(problems)
    limits = limits_of_options(choices, settings, needed)
    return Limits(
        row.deadline_at if by is None else limits.deadline_at,
        row.max_gpu_ms if max_gpu_hours is None else limits.max_gpu_ms,
        row.max_cost if max_cost is None else limits.max_cost,
        settings.prices or row.prices or {},
    )


def _number(flag: str, text: str | None, problems: list[Problem]) -> float | None:
    if text is None or text == NONE:
        return None
    try:
        return float(text)
    except ValueError:
        problems.append(Problem(f"{text!r} is not a number: give one, or {NONE!r}", field=flag))
        return None
