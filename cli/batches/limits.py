"""`vgen budget`: what a batch may use, and by when it should be done."""

from collections.abc import Iterable
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
from pipeline.settings import Settings
from service.limits import limits_of

NONE = "none"


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
    limits = limits_of(choices, settings, needed)
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
