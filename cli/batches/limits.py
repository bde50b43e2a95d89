"""`vgen budget`: shows and changes a batch's budget and deadline."""

from collections.abc import Mapping
from typing import Annotated

import typer

from cli import output
from cli.batches import status
from cli.context import open_database, settings_of
from cli.options import BatchArgument, Json
from pipeline.errors import InputError, Problem
from service.changes.budgets import change_limits
from service.choices import SubmissionChoices

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
        str | None, typer.Option("--by", metavar="TIME", help="The new deadline, as for submit, or 'none'.")
    ] = None,
    json: Json = False,
) -> int:
    """Change a batch's budget or deadline; without options, show them and what was used."""
    settings = settings_of(ctx)
    given = {
        name: text
        for name, text in (("max_gpu_hours", max_gpu_hours), ("max_cost", max_cost), ("by", by))
        if text is not None
    }
    choices = _choices(given)
    with open_database(settings) as database:
        batch_id = change_limits(database, settings, batch, choices, given=given.keys(), by=settings.owner)
        view = status.status_view(database, settings, batch_id)
    if json:
        output.as_json(view)
    else:
        output.facts(status.limit_facts(view))
    return 0


def _choices(given: Mapping[str, str]) -> SubmissionChoices:
    """Raises InputError."""
    problems: list[Problem] = []
    choices = SubmissionChoices(
        by=None if given.get("by") == NONE else given.get("by"),
        max_gpu_hours=_number("--max-gpu-hours", given.get("max_gpu_hours"), problems),
        max_cost=_number("--max-cost", given.get("max_cost"), problems),
    )
    if problems:
        raise InputError(problems)
    return choices


def _number(flag: str, text: str | None, problems: list[Problem]) -> float | None:
    if text is None or text == NONE:
        return None
    try:
        return float(text)
    except ValueError:
        problems.append(Problem(f"{text!r} is not a number: give one, or {NONE!r}", field=flag))
        return None
