"""What retention removes of the history that belongs to no batch."""

from __future__ import annotations

from sqlalchemy import select, update

from db import events
from db.clips import retention
from db.models import Event
from db.session import Database
from tests.unit.db.line import Line

HOUR_MS = 3_600_000


def test_old_events_of_no_batch_go_and_the_last_sweep_stays(database: Database) -> None:
    Line(database).submit(count=1)
    with database.transaction() as session:
        for kind in ("api_key_created", retention.SWEPT, "queue_paused", retention.SWEPT):
            events.record(session, kind, removed={})
        session.execute(update(Event).values(at=Event.at - 2 * HOUR_MS))
        events.record(session, "api_key_revoked")

    def removed(*, dry_run: bool) -> int:
        with database.transaction() as session:
            return retention.drop_lone_events(session, older_than_ms=HOUR_MS, dry_run=dry_run)

    assert [removed(dry_run=True), removed(dry_run=False), removed(dry_run=False)] == [3, 3, 0]
    with database.reading() as session:
        left = session.scalars(select(Event.kind).order_by(Event.id)).all()
    assert left == ["submitted", retention.SWEPT, "api_key_revoked"]
