"""Follows the history of a batch or job from any position; each entry comes once, and none is left out.

Rows become visible when their transaction ends, not in the order of their ids. So a reader that remembers only the last
id could pass over one that comes late. The feed reads up to an id only once every transaction has ended that might
still add a row below it: then a place in the history is a few numbers, which hold in every process and over restarts.
"""

import time
from collections import deque
from dataclasses import dataclass

from sqlalchemy import exists, func, or_, select, text
from sqlalchemy.orm import Session

from db.clips import batches
from db.models import Batch, Event, Job, ScoreRun, StageRun, Step, StreamSession
from db.reading import history
from db.reading.history import Entry, Seen
from db.session import Database
from pipeline.states import TERMINAL_JOB_STATES

SETTLE_S = 2.0
"""How long a page waits for transactions at work; what they add is then left to the next page."""
SETTLE_POLL_S = 0.05
_TABLES = (Event, StageRun, ScoreRun)
"""In the order of ``Seen``."""
_GIVEN_OUT = ", ".join(
    f"coalesce(pg_sequence_last_value(pg_get_serial_sequence('{table.__tablename__}', 'id')::regclass), 0)"
    for table in _TABLES
)
_POSITIONS = text(f"SELECT {_GIVEN_OUT}, pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
"""Ids given out so far; and the transaction before which all have ended (PostgreSQL, 9.27)."""
_BEGIN_ONE = text("SELECT pg_current_xact_id()::text::bigint")
"""A transaction that begins now: after all that have begun. A snapshot's xmax is none: it is one after the last that
has ended, and those that work on may come after it."""
_NEWEST = select(*(func.coalesce(select(func.max(table.id)).scalar_subquery(), 0) for table in _TABLES))


@dataclass(frozen=True, slots=True)
class News:
    """What a poll of the feed brought."""

    entries: list[Entry]
    running: list[tuple[Step, int]]
    """The steps that workers hold now, each with the number of its clip's segments."""
    more: bool
    """True if another poll at once would bring more."""
    ended: bool
    """True if the batch or job has ended."""
    finished: bool
    """True once every entry of what has ended was read."""


class Feed:
    """Reads the history of one batch or job from a place on. Nothing is open between two polls.

    Args:
        after: the entries up to here were read before.
    """

    def __init__(self, database: Database, batch_id: str, job_id: str | None = None, after: Seen | None = None) -> None:
        self.place = after or Seen()
        self._database = database
        self.batch_id = batch_id
        self.job_id = job_id
        self._settled = Seen()
        self._marks: deque[tuple[Seen, int | None]] = deque()
        self._end: Seen | None = None

    def poll(self, limit: int = 500) -> News:
        """Return the next entries, at most so many. What was committed just now may come with a later poll.

        Raises:
            ServiceUnavailableError: the database is away; another poll may follow.
        """
        with self._database.reading(one_instant=self._database.is_sqlite) as session:
            ended = self._has_ended(session)
            given_out = self._settle(session)
            entries = self._next_entries(session, limit)
            running = batches.running_steps(session, self.batch_id)
        for entry in entries:
            self.place = self.place.with_entry(entry)
        if len(entries) < limit:
            self.place = self.place.further(self._settled)
        self._end = (self._end or given_out) if ended else None
        return News(
            entries,
            [step for step in running if self.job_id in (None, step[0].job_id)],
            more=len(entries) == limit,
            ended=ended,
            finished=self._end is not None and len(entries) < limit and self.has_settled(self._end),
        )

    def poll_settled(self, limit: int = 500) -> News:
        """Poll once all that was there at this call can be read, or after two seconds: the next poll has what is late.

        Raises:
            ServiceUnavailableError: the database is away; another poll may follow.
        """
        now, give_up_at = self.mark(), time.monotonic() + SETTLE_S
        while not self.has_settled(now) and time.monotonic() < give_up_at:
            time.sleep(SETTLE_POLL_S)
            self.mark()
        return self.poll(limit)

    def mark(self) -> Seen:
        """Return a place that has every row that can be read now; once it ``has_settled`` a poll brings them all."""
        with self._database.reading(one_instant=self._database.is_sqlite) as session:
            return self._settle(session)

    def has_settled(self, place: Seen) -> bool:
        """Return whether no row up to this place can come late any more."""
        return self._settled.reaches(place)

    def _next_entries(self, session: Session, limit: int) -> list[Entry]:
        if self.place.reaches(self._settled):
            return []
        return history.page(
            session,
            batch_id=None if self.job_id else self.batch_id,
            job_id=self.job_id,
            after=self.place,
            until=self._settled,
            limit=limit,
        )

    def _has_ended(self, session: Session) -> bool:
        if self.job_id is not None:
            state = session.scalars(select(Job.state).where(Job.id == self.job_id)).one_or_none()
            return state is None or state in TERMINAL_JOB_STATES
        # A session's batch is stored with its first segment.
        growing = exists().where(StreamSession.batch_id == self.batch_id, StreamSession.settled_at.is_(None))
        at_work = exists().where(Batch.id == self.batch_id, Batch.active)
        return not session.scalars(select(or_(at_work, growing))).one()

    def _settle(self, session: Session) -> Seen:
        """Move on to the ids below which no row can appear any more; return those that are given out now."""
        if self._database.is_sqlite:  # has one writer at a time
            self._settled = Seen(*map(int, session.execute(_NEWEST).one()))
            return self._settled
        *ids, oldest = session.execute(_POSITIONS).one()
        if self._marks and self._marks[-1][1] is None:
            # Taken later than the ids: whoever had been given one of them had begun by now.
            self._marks[-1] = (self._marks[-1][0], session.scalars(_BEGIN_ONE).one())
        while self._marks and self._marks[0][1] is not None and self._marks[0][1] <= oldest:
            self._settled = self._marks.popleft()[0]
        given_out = Seen(*ids)
        if given_out != (self._marks[-1][0] if self._marks else self._settled):
            self._marks.append((given_out, None))
        return given_out
