"""A request that is sent again is answered with what the first one made."""

from __future__ import annotations

from sqlalchemy import update

from db.clips import request_keys
from db.clips.request_keys import Answered, Repetition
from db.models import RequestKey
from db.session import Database
from tests.unit.db.line import Line

HOUR_MS = 3_600_000


def request(fingerprint: str = "f1", *, repeated: bool = False, by_key: bool = False) -> Repetition:
    key = "key:k" if by_key else f"fields:{fingerprint}"
    return Repetition("ada", key, fingerprint, HOUR_MS, repeated=repeated, by_key=by_key)


def record(database: Database, one: Repetition, batch_id: str, since_ms: int = 0) -> Answered | None:
    with database.transaction() as session:
        return request_keys.record(session, one, batch_id, since_ms=since_ms)


def age(database: Database, milliseconds: int) -> None:
    with database.transaction() as session:
        session.execute(update(RequestKey).values(created_at=RequestKey.created_at - milliseconds))


def test_a_repetition_gets_the_first_ones_batch_and_another_request_a_batch_of_its_own(database: Database) -> None:
    line = Line(database)
    first, second, third = (line.submit(count=1) for _ in range(3))
    assert record(database, request(), first) is None

    # The same fields once more, which say that they are a repetition
    assert record(database, request(repeated=True), second) == Answered(first, "f1")
    with database.reading() as session:
        assert request_keys.answered(session, request(repeated=True)) == Answered(first, "f1")
        assert request_keys.answered(session, request()) is None

    # The same fields, asked for anew
    assert record(database, request(), third) is None
    assert record(database, request(repeated=True), second) == Answered(third, "f1")


def test_a_request_that_its_own_repetition_overtook_makes_nothing(database: Database) -> None:
    line = Line(database)
    first, second = line.submit(count=1), line.submit(count=1)
    assert record(database, request(repeated=True), first) is None
    age(database, 500)

    assert record(database, request(), second, since_ms=60_000) == Answered(first, "f1")
    assert record(database, request(), second, since_ms=10) is None


def test_a_clients_own_key_counts_whatever_the_request_says(database: Database) -> None:
    line = Line(database)
    first, second = line.submit(count=1), line.submit(count=1)
    assert record(database, request(by_key=True), first) is None

    assert record(database, request("f2", by_key=True), second) == Answered(first, "f1")
    age(database, 2 * HOUR_MS)
    assert record(database, request("f2", by_key=True), second) is None


def test_old_ones_are_forgotten(database: Database) -> None:
    line = Line(database)
    record(database, request(), line.submit(count=1))
    record(database, request("f2"), line.submit(count=1))
    with database.transaction() as session:
        assert request_keys.drop_old(session, older_than_ms=HOUR_MS) == 0
    age(database, 2 * HOUR_MS)
    with database.transaction() as session:
        assert request_keys.drop_old(session, older_than_ms=HOUR_MS) == 2
