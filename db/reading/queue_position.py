"""How many clips are to be made before one that waits."""

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from db.models import Batch, Job
from db.reading.remaining import TO_DO

MOST = 1_000
"""More than so many are not counted: who waits behind them need not know how many exactly."""


def queue_position(session: Session, job: Job) -> int | None:
    """Count the unfinished jobs of higher priority, and the older ones of the same; None: more than ``MOST``.

    Owners take turns, and so do an owner's batches: a small batch is often reached earlier than this says.
    """
    ahead = (
        select(Job.id)
        .join(Batch, Batch.id == Job.batch_id)
        .where(
            Batch.active,
            ~Batch.paused,
            Job.state.in_(TO_DO),
            or_(Job.priority > job.priority, and_(Job.priority == job.priority, Job.id < job.id)),
        )
        .limit(MOST + 1)
        .subquery()
    )
    count = session.scalars(select(func.count()).select_from(ahead)).one()
    return None if count > MOST else count
