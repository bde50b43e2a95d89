"""Changes the budget and deadline of a stored batch."""

from collections.abc import Collection

from db.clips import batches
from db.clips.batches import Limits
from db.reading import estimates
from db.scheduling import budgets
from db.session import Database
from pipeline.settings import Settings
from service.choices import SubmissionChoices
from service.limits import limits_of


def change_limits(
    database: Database,
    settings: Settings,
    batch_id: str,
    choices: SubmissionChoices,
    *,
    given: Collection[str],
    by: str,
) -> str:
    """Change those limits that are ``given`` (max_gpu_hours, max_cost, by), each to its choice, None for none.

    Returns the batch's whole id. Raises NotFoundError, InputError.
    """
    with database.transaction() as session:
        batch = batches.get(session, batch_id)
        new = limits_of(choices, settings, [need.gpu for need in estimates.needs(session, batch.id)])
        changed = Limits(
            new.deadline_at if "by" in given else batch.deadline_at,
            new.max_gpu_ms if "max_gpu_hours" in given else batch.max_gpu_ms,
            new.max_cost if "max_cost" in given else batch.max_cost,
            settings.prices or batch.prices or {},
        )
        if {"max_gpu_hours", "max_cost"} & set(given):
            budgets.set_limits(
                session,
                batch.id,
                max_gpu_ms=changed.max_gpu_ms,
                max_cost=changed.max_cost,
                prices=changed.prices,
                by=by,
            )
        if "by" in given:
            batches.set_deadline(session, batch.id, changed.deadline_at, by=by)
        return batch.id
