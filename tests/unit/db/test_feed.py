"""The history as a feed: each entry once, none left out, wherever a reader stops and goes on."""

import random
import threading
import time
from collections import Counter

import pytest
from sqlalchemy import update

from db import events
from db.clips import retention
from db.models import Job
from db.reading.feed import Feed
from db.reading.history import Entry, Seen
from db.session import Database
from pipeline.states import Stage
from tests.unit.db.line import Line


@pytest.fixture
def line(database: Database) -> Line:
    return Line(database)


def _until_finished(feed: Feed) -> list[Entry]:
    entries: list[Entry] = []
    while True:
        news = feed.poll(limit=3)
        entries += news.entries
        if news.finished:
            return entries
        time.sleep(0.01)


def _polled(feed: Feed, times: int = 5) -> list[str]:
    return [entry.kind for _ in range(times) for entry in feed.poll().entries]


def test_a_batch_is_told_to_its_end(line: Line) -> None:
    batch_id, job_id, claimed = line.bring_to(Stage.PUBLISH)
    line.finish(claimed)

    of_batch = _until_finished(Feed(line.database, batch_id))
    of_job = _until_finished(Feed(line.database, batch_id, job_id))

    assert of_batch[0].kind == "submitted"
    assert sum(entry.kind == "attempt" for entry in of_batch) == 4
    assert [entry for entry in of_batch if entry.job_id == job_id] == sorted(of_job, key=of_batch.index)


def test_it_goes_on_from_any_place(line: Line) -> None:
    batch_id, _, claimed = line.bring_to(Stage.PUBLISH)
    line.finish(claimed)
    whole, place = _until_finished(Feed(line.database, batch_id)), Seen()

    for number, entry in enumerate(whole):
        assert _until_finished(Feed(line.database, batch_id, after=place)) == whole[number:]
        place = place.with_entry(entry)
    assert _until_finished(Feed(line.database, batch_id, after=place)) == []


def test_what_works_on_is_not_finished(line: Line) -> None:
    batch_id, job_id, _ = line.bring_to(Stage.GENERATE)
    feed = Feed(line.database, batch_id, job_id)

    polls = [feed.poll() for _ in range(4)]

    assert not any(news.finished or news.ended for news in polls)
    assert {step.job_id for step, _ in polls[-1].running} == {job_id}


def test_no_entry_is_passed_over_when_the_history_of_another_batch_is_removed(line: Line) -> None:
    old, _, claimed = line.bring_to(Stage.PUBLISH)
    line.finish(claimed)
    batch_id = line.submit(count=1, again=True)
    feed = Feed(line.database, batch_id)
    told = _polled(feed)
    with line.database.transaction() as session:
        session.execute(update(Job).where(Job.batch_id == old).values(finished_at=1))
        assert retention.drop_history(session, old, older_than_ms=1_000, dry_run=False)

    line.finish_job(f"{batch_id}-000000")
    told += _polled(feed)

    assert told.count("attempt") == 4
    assert told == [entry.kind for entry in _until_finished(Feed(line.database, batch_id))]


def test_an_entry_that_becomes_visible_late_is_not_passed_over(postgres_database: Database) -> None:
    line = Line(postgres_database)
    batch_id = line.submit(count=1)
    feed = Feed(postgres_database, batch_id)
    assert _polled(feed) == ["submitted"]

    with postgres_database.transaction() as slow:
        events.record(slow, "first", batch_id=batch_id)
        with postgres_database.transaction() as quick:
            events.record(quick, "second", batch_id=batch_id)
        while_it_works = _polled(feed)

    assert while_it_works == []
    assert _polled(feed) == ["first", "second"]


def test_an_entry_of_the_newest_transaction_is_not_passed_over(postgres_database: Database) -> None:
    line = Line(postgres_database)
    batch_id = line.submit(count=1)
    postgres_database.notifier.close()  # its notice is a transaction too
    feed = Feed(postgres_database, batch_id)

    with postgres_database.transaction() as slow:  # none that began later has ended when it is polled
        events.record(slow, "first", batch_id=batch_id)
        while_it_works = _polled(feed)

    assert while_it_works + _polled(feed) == ["submitted", "first"]


def test_one_that_was_rolled_back_holds_nothing_up(postgres_database: Database) -> None:
    line = Line(postgres_database)
    batch_id = line.submit(count=1)
    feed = Feed(postgres_database, batch_id)

    with postgres_database.transaction() as session:
        events.record(session, "never", batch_id=batch_id)
        session.rollback()
    with postgres_database.transaction() as session:
        events.record(session, "then", batch_id=batch_id)

    assert _polled(feed) == ["submitted", "then"]


def test_with_many_writers_each_is_told_once_to_readers_that_come_and_go(postgres_database: Database) -> None:
    line = Line(postgres_database)
    batch_id = line.submit(count=1)
    chance = random.Random(7)
    waits = [[chance.random() * 0.02 for _ in range(20)] for _ in range(4)]

    def write(writer: int) -> None:
        for number, seconds in enumerate(waits[writer]):
            with postgres_database.transaction() as session:
                events.record(session, "written", batch_id=batch_id, writer=writer, number=number)
                time.sleep(seconds)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(len(waits))]
    for thread in writers:
        thread.start()
    told: Counter[tuple[int, int]] = Counter()
    place, give_up_at = Seen(), time.monotonic() + 60
    while time.monotonic() < give_up_at and (any(thread.is_alive() for thread in writers) or told.total() < 80):
        feed = Feed(postgres_database, batch_id, after=place)  # as after a restart
        for _ in range(chance.randint(1, 6)):
            for entry in feed.poll(limit=chance.randint(1, 9)).entries:
                if entry.kind == "written":
                    told[entry.data["writer"], entry.data["number"]] += 1
        place = feed.place
    for thread in writers:
        thread.join()

    assert told == Counter({(writer, number): 1 for writer in range(4) for number in range(20)})
