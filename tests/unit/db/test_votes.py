"""Stars, notes and votes: one row a person and clip or pair, which others' deletions and states respect."""

from __future__ import annotations

import pytest

from db import events
from db.clips import batch_deletion, deletion, votes
from db.models import ClipRating, ClipVote
from db.reading import clips
from db.reading.clips import Filter, Order
from db.session import Database
from pipeline.errors import ConflictError, NotFoundError
from tests.unit.db.line import Line


@pytest.fixture
def made(database: Database) -> str:
    """A batch of four clips, of which the last is not made."""
    line = Line(database)
    line.worker()
    batch_id = line.submit(count=4)
    for number in range(3):
        line.finish_job(f"{batch_id}-{number:06}")
    return batch_id


def rate(database: Database, job_id: str, rater: str = "ada", **changes: object) -> ClipRating | None:
    with database.transaction() as session:
        return votes.rate(session, job_id, rater=rater, changes=changes)


def vote(database: Database, first: str, second: str, preferred: str | None, rater: str = "ada") -> ClipVote:
    with database.transaction() as session:
        return votes.vote(session, (first, second), preferred, rater=rater)


def test_what_is_not_named_stays_and_what_says_nothing_has_no_row(database: Database, made: str) -> None:
    job_id = f"{made}-000000"
    rate(database, job_id, stars=4)
    row = rate(database, job_id, note="the tail is missing")
    assert row is not None
    assert (row.stars, row.note) == (4, "the tail is missing")

    assert rate(database, job_id, stars=None) is not None
    assert rate(database, job_id, note=None) is None
    with database.reading() as session:
        assert votes.opinions(session, [job_id]) == {}
        told = [event.data for event in events.of_job(session, job_id) if event.kind == votes.RATED]
    assert [(event["stars"], event["note"], event["by"]) for event in told] == [
        (4, False, "ada"), (4, True, "ada"), (None, True, "ada"), (None, False, "ada"),
    ]  # fmt: skip


def test_saying_the_same_again_is_no_event(database: Database, made: str) -> None:
    job_id = f"{made}-000000"
    for _ in range(3):
        rate(database, job_id, stars=4)
    with database.reading() as session:
        assert [event.kind for event in events.of_job(session, job_id)].count(votes.RATED) == 1


def test_a_pair_has_one_vote_of_a_person_whichever_side_a_clip_was_on(database: Database, made: str) -> None:
    one, two, three = (f"{made}-{number:06}" for number in range(3))
    vote(database, one, two, one)
    vote(database, two, one, two)
    vote(database, one, two, None, rater="bob")
    vote(database, three, two, two)

    with database.reading() as session:
        said = votes.opinions(session, [one, two, three])
        assert {job: (of.won, of.lost, of.tied) for job, of in said.items()} == {
            one: (0, 1, 1), two: (2, 0, 1), three: (0, 1, 0),
        }  # fmt: skip
        assert [row.rater for row in votes.votes_among(session, [one, two], "bob")] == ["bob"]
        kinds = [event.kind for event in events.of_job(session, three)]
    assert kinds.count(votes.VOTED) == 1


def test_stars_and_votes_are_for_clips_that_were_made_and_notes_for_any(database: Database, made: str) -> None:
    waiting = f"{made}-000003"
    assert rate(database, waiting, note="why is it not made?") is not None
    for refused in (lambda: rate(database, waiting, stars=1), lambda: vote(database, f"{made}-000000", waiting, None)):
        with pytest.raises(ConflictError, match="stars and votes"):
            refused()
    with pytest.raises(NotFoundError):
        rate(database, "none-000000", stars=1)

    with database.transaction() as session:
        deletion.request(session, f"{made}-000000", by="ada")
    with pytest.raises(ConflictError, match="was deleted"):
        rate(database, f"{made}-000000", note="too late")


def test_clips_are_filtered_and_sorted_by_the_mean_of_all_stars(database: Database, made: str) -> None:
    rate(database, f"{made}-000002", stars=5)
    rate(database, f"{made}-000002", "bob", stars=4)
    rate(database, f"{made}-000001", stars=3)
    rate(database, f"{made}-000000", note="no stars")

    def shown(chosen: Filter) -> list[str]:
        place, ids = None, list[str]()
        while True:
            with database.reading() as session:
                page = clips.page(session, made, chosen, Order.STARS, after=place, limit=1)
            ids += [job.id[-1] for job in page.jobs]
            if (place := page.next) is None:
                return ids

    assert shown(Filter()) == ["2", "1", "0", "3"]
    assert shown(Filter(stars=4.5)) == ["2"]
    assert shown(Filter(stars=3)) == ["2", "1"]


def test_a_deleted_batch_takes_what_was_said_of_it_along_also_votes_with_clips_of_others(
    database: Database, made: str
) -> None:
    line = Line(database)
    other = line.submit(count=1, again=True)
    line.finish_job(f"{other}-000000")
    line.finish_job(f"{made}-000003")
    rate(database, f"{made}-000000", stars=1)
    rate(database, f"{other}-000000", stars=2)
    vote(database, f"{made}-000000", f"{other}-000000", None)

    with database.transaction() as session:
        batch_deletion.delete_batch(session, made, by="ada")
    with database.reading() as session:
        assert votes.judged_jobs(session, other) == [f"{other}-000000"]
        assert list(votes.votes_of_batch(session, other)) == []
