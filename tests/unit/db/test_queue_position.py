"""How many clips are before one that waits: counted one by one, or by stretches of batches."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update

from db.clips import cancel_retry_approve
from db.models import Batch, Job
from db.reading import queue_position as module
from db.reading.queue_position import positions, queue, queue_position
from db.session import Database
from tests.unit.db.line import Line


@pytest.mark.parametrize("stretch", [1, 3, 1000])
def test_counting_by_stretches_says_what_counting_one_by_one_says(
    database: Database, monkeypatch: pytest.MonkeyPatch, stretch: int
) -> None:
    monkeypatch.setattr(module, "_STRETCH", stretch)
    line = Line(database)

    # Given batches of several priorities, one of them paused, and clips among them that have ended
    line.submit(count=5)
    line.submit(*({"prompt": str(number), "priority": number % 3 - 1} for number in range(8)))
    paused = line.submit(count=4, again=True)
    last = line.submit({"prompt": "urgent", "priority": 1}, count=7)
    with database.transaction() as session:
        session.execute(update(Batch).where(Batch.id == paused).values(paused=True))
        for number in (0, 3, 4):
            cancel_retry_approve.cancel(session, f"{last}-{number:06d}")

    with database.reading() as session:
        waiting = session.scalars(select(Job).where(Job.state == "waiting")).all()
        exact = {job.id: queue_position(session, job) for job in waiting}
        assert positions(session, waiting, queue(session)) == exact
    assert len(set(exact.values())) >= 17
