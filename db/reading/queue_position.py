"""Counts the clips that will be made before a waiting one."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate

from sqlalchemy import Integer, and_, bindparam, func, or_, select
from sqlalchemy.orm import Session

from db.models import Batch, Job
from db.reading.remaining import TO_DO

MOST = 1_000
"""More than so many are not counted for each question, but by stretches, for all questions at once."""
_STRETCH = 1_000
"""So many jobs of a batch, one after the other, are counted together."""


_PRIORITY = bindparam("own_priority", type_=Integer)
_AHEAD = select(func.count()).select_from(
    select(Job.id)
    .join(Batch, Batch.id == Job.batch_id)
    .where(
        Batch.active,
        ~Batch.paused,
        Job.state.in_(TO_DO),
        or_(Job.priority > _PRIORITY, and_(Job.priority == _PRIORITY, Job.id < bindparam("own_id"))),
    )
    .limit(MOST + 1)
    .subquery()
)


def queue_position(session: Session, job: Job) -> int | None:
    """Count the unfinished jobs of higher priority, and the older ones of the same; None: more than ``MOST``.

    Owners take turns, and so do an owner's batches: a small batch is often reached earlier than this says.
    """
    count = int(session.connection().execute(_AHEAD, {"own_priority": job.priority, "own_id": job.id}).scalar_one())
    return None if count > MOST else count


@dataclass(frozen=True, slots=True)
class Queue:
    """How many jobs wait in each stretch of each batch, as it was at one moment."""

    places: Mapping[int, list[tuple[str, int]]]
    """By priority: each stretch with jobs to do, as (batch id, number), in order."""
    sums: Mapping[int, list[int]]
    """By priority: how many jobs there are before each of them, and at the end how many in all."""

    def before(self, job: Job) -> int:
        """Return how many jobs are ahead of the stretch that a job is in."""
        higher = sum(sums[-1] for priority, sums in self.sums.items() if priority > job.priority)
        places = self.places.get(job.priority, [])
        return higher + self.sums.get(job.priority, [0])[bisect_left(places, (job.batch_id, job.seq // _STRETCH))]


def queue(session: Session) -> Queue:
    """Count what is to be done, in one query that reads every job that waits."""
    stretch = Job.seq // _STRETCH
    rows = session.execute(
        select(Job.priority, Job.batch_id, stretch, func.count())
        .join(Batch, Batch.id == Job.batch_id)
        .where(Batch.active, ~Batch.paused, Job.state.in_(TO_DO))
        .group_by(Job.priority, Job.batch_id, stretch)
    )
    counts: dict[int, list[tuple[tuple[str, int], int]]] = defaultdict(list)
    for priority, batch_id, number, count in rows:
        counts[priority].append(((batch_id, number), count))
    ordered = {priority: sorted(items) for priority, items in counts.items()}
    return Queue(
        {priority: [place for place, _ in items] for priority, items in ordered.items()},
        {priority: [0, *accumulate(count for _, count in items)] for priority, items in ordered.items()},
    )


def positions(session: Session, waiting: Iterable[Job], known: Queue) -> dict[str, int]:
    """Return the position of each of some jobs; within its stretch it is counted now, before that it is as known."""
    jobs = list(waiting)
    starts = {(job.batch_id, job.seq // _STRETCH) for job in jobs if job.seq % _STRETCH}
    within: dict[tuple[str, int, int], list[int]] = defaultdict(list)
    if starts:
        last = {start: max(job.seq for job in jobs if (job.batch_id, job.seq // _STRETCH) == start) for start in starts}
        of_stretch = [
            and_(Job.batch_id == batch_id, Job.seq >= number * _STRETCH, Job.seq < last[batch_id, number])
            for batch_id, number in starts
        ]
        query = (
            select(Job.batch_id, Job.seq, Job.priority)
            .join(Batch, Batch.id == Job.batch_id)
            .where(or_(*of_stretch), Batch.active, ~Batch.paused, Job.state.in_(TO_DO))
            .order_by(Job.seq)
        )
        for batch_id, seq, priority in session.execute(query):
            within[batch_id, seq // _STRETCH, priority].append(seq)
    return {
        job.id: known.before(job) + bisect_left(within[job.batch_id, job.seq // _STRETCH, job.priority], job.seq)
        for job in jobs
    }
