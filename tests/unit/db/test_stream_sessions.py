"""A session's batch: segments in order, what becomes of those after a lost one, the joined clip, the end."""

from __future__ import annotations

import contextlib
import json
import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import delete, update

from db import events, invariants
from db.clips import batch_deletion, retention
from db.clips import cancel_retry_approve as requests
from db.events import MEDIA_REMOVED
from db.models import ApiKey, Batch, ContinuationState, Job, StreamSession
from db.queue import outcomes
from db.scheduling import capacity
from db.session import Database
from pipeline.errors import (
    ConflictError,
    GpuUnavailableError,
    InputError,
    NotFoundError,
    QuotaError,
    RefusedError,
    SessionRejectedError,
)
from pipeline.settings import load_settings
from pipeline.states import JobState, Stage, StepState
from pipeline.wiring import make_storage
from pipeline.work import Outcome
from server.health import pool
from service import rerun, sessions
from service.sessions import SessionChoices
from tests.moves import watched
from tests.unit.db.line import result_of
from tests.unit.db.session_line import SessionLine, state_of

_HOUR_MS = 3_600_000


@pytest.fixture
def line(database: Database) -> Iterator[SessionLine]:
    made = SessionLine(database)
    made.worker(slots=1)
    with watched(database):
        made.submit(count=1, owner="bob")  # a stranger's clip, which nothing here may touch
        made.admit()
        yield made
    assert invariants.violations(database) == []


def test_a_segment_is_generated_once_the_one_before_left_its_frames_and_not_before(line: SessionLine) -> None:
    opened = line.open(seed=7)
    assert (opened.state, opened.segments, opened.joined_job) == ("queued", [], None)

    # Given two segments that were asked for at once: both are screened
    for number in (0, 1):
        line.ask(opened.id, number)
    line.make(opened.id, 0, Stage.SCREEN)
    line.make(opened.id, 1, Stage.SCREEN)
    second = f"{opened.batch_id}-000001"
    line.admit()
    assert line.states(second)[Stage.GENERATE] is StepState.PENDING
    assert invariants.violations(line.database) == []

    # When the first one's frames are there, the second may begin, whether the first is encoded or not
    line.make(opened.id, 0, Stage.GENERATE)
    claimed = line.take(opened.id, 1, Stage.GENERATE)
    assert claimed.work.continuation is not None
    assert claimed.work.continuation.payload["number"] == 0
    assert claimed.work.spec.extends == f"{opened.batch_id}-000000"
    assert claimed.work.spec.seed != 7
    assert line.states(f"{opened.batch_id}-000000")[Stage.ENCODE] is not StepState.DONE

    # And one that is asked for after the frames are there begins at once
    line.finish(claimed, line.made(claimed))
    line.ask(opened.id, 2)
    third = line.take(opened.id, 2, Stage.GENERATE)
    assert third.work.continuation is not None
    assert third.work.continuation.payload["number"] == 1
    shown = line.view(opened.id)
    assert [each.generated for each in shown.segments] == [True, True, False]
    assert shown.continuation is not None
    assert shown.continuation["segment"] == 1


def test_a_segment_is_asked_for_once_however_often_the_request_comes(line: SessionLine) -> None:
    opened = line.open(segment_cap=2)
    first = line.ask(opened.id, 0, "a fox", source="curated")

    assert line.ask(opened.id, 0, "a fox", source="curated").job_id == first.job_id
    with pytest.raises(ConflictError, match="another prompt"):
        line.ask(opened.id, 0, "a hen", source="curated")
    with pytest.raises(InputError, match="2 is not the next one, which is 1"):
        line.ask(opened.id, 2)
    line.ask(opened.id, 1)
    with pytest.raises(ConflictError, match="has 2 segments, and may have no more"):
        line.ask(opened.id, 2)
    assert line.batch(opened.batch_id).total == 2


def test_what_a_client_gets_wrong_is_said_with_field_and_rule(line: SessionLine) -> None:
    with pytest.raises(InputError, match=r"preset: .*unknown"):
        line.open(preset="unknown")
    with pytest.raises(InputError, match=r"timeout_s: -1.*more than 0"):
        line.open(timeout_s=-1)
    with pytest.raises(InputError, match="continuation_state: is not a continuation state"):
        line.open(continuation={"kind": "last_frames"})
    opened = line.open()
    with pytest.raises(InputError, match="prompt: is empty"):
        line.ask(opened.id, 0, " ")
    with pytest.raises(InputError, match="source: 'nobody' is not a source"):
        line.ask(opened.id, 0, source="nobody")
    with pytest.raises(NotFoundError):
        line.ask(opened.id, 0, owner="bob")


@pytest.mark.parametrize("how", ["failed", "blocked", "cancelled"])
def test_segments_after_one_that_ends_otherwise_than_succeeded_are_cancelled(line: SessionLine, how: str) -> None:
    opened = line.open()
    for number in range(4):
        line.ask(opened.id, number)
    line.make(opened.id, 0)

    # When the second ends without a clip
    lost = f"{opened.batch_id}-000001"
    if how == "blocked":
        screened = line.take(opened.id, 1, Stage.SCREEN)
        line.finish(screened, result_of(screened, Outcome.BLOCKED))
    elif how == "failed":
        claimed = line.take(opened.id, 1, Stage.GENERATE)
        with line.database.transaction() as session:
            outcomes.fail(session, claimed, RefusedError("no"))
    else:
        with line.database.transaction() as session:
            requests.cancel(session, lost)
    line.poll()

    # Then those after it are cancelled with the reason, and the session goes on from what was made
    shown = line.view(opened.id)
    assert [each.state for each in shown.segments] == ["succeeded", how, "cancelled", "cancelled"]
    assert shown.segments[2].error_code == "segment_before_ended"
    line.ask(opened.id, 4)
    again = line.take(opened.id, 4, Stage.GENERATE)
    assert again.work.spec.extends == f"{opened.batch_id}-000000"
    line.finish(again, line.made(again))
    line.make(opened.id, 4)
    sessions.close_session(line.database, opened.id)
    joined = line.take_job(line.view(opened.id).joined_job or "", Stage.ENCODE, line.queues(opened.id))
    assert [clip.job_id[-1] for clip in joined.work.joins] == ["0", "4"]


def test_a_closed_session_is_joined_by_a_last_job_and_its_batch_closes_with_it(line: SessionLine) -> None:
    opened = line.open()
    line.ask(opened.id, 0)
    line.make(opened.id, 0)
    line.ask(opened.id, 1)
    # Between segments, and while one is at work after the close, the batch is open
    line.poll()
    assert line.batch(opened.batch_id).active
    closed = sessions.close_session(line.database, opened.id)
    assert (closed.state, closed.settled, closed.joined_job) == ("complete", False, None)
    with pytest.raises(ConflictError, match="has ended"):
        line.ask(opened.id, 2)

    line.make(opened.id, 1)
    assert line.batch(opened.batch_id).active
    line.poll()
    shown = line.view(opened.id)
    assert shown.settled
    assert shown.joined_job == f"{opened.batch_id}-000002"
    claimed = line.take_job(shown.joined_job, Stage.ENCODE, line.queues(opened.id))
    assert claimed.queue == "vgen.cpu"
    assert claimed.work.spec.num_frames == 10
    line.finish(claimed, line.made(claimed))
    line.finish(line.take_job(shown.joined_job, Stage.PUBLISH, line.queues(opened.id)))

    assert line.job(shown.joined_job).state is JobState.SUCCEEDED
    assert not line.batch(opened.batch_id).active
    assert line.states(shown.joined_job) == {Stage.ENCODE: StepState.DONE, Stage.PUBLISH: StepState.DONE}


def test_a_session_without_a_clip_is_settled_without_a_joined_one(line: SessionLine) -> None:
    empty, cancelled = line.open(), line.open()
    line.ask(cancelled.id, 0)

    assert sessions.close_session(line.database, empty.id).settled
    shown = sessions.close_session(line.database, cancelled.id, cancel_open=True)

    assert (shown.settled, shown.joined_job) == (True, None)
    assert [each.state for each in shown.segments] == ["cancelled"]
    assert not line.batch(cancelled.batch_id).active


def test_what_a_client_has_seen_is_in_its_clip_though_it_stops_the_session_at_once(line: SessionLine) -> None:
    opened = line.open()
    for number in (0, 1, 2):
        line.ask(opened.id, number)
    line.make(opened.id, 0, Stage.GENERATE)

    shown = sessions.close_session(line.database, opened.id, cancel_open=True)

    assert [each.state for each in shown.segments] == ["in_flight", "cancelled", "cancelled"]
    line.make(opened.id, 0)
    line.poll()
    shown = line.view(opened.id)
    assert shown.segments[0].state == "succeeded"
    assert (shown.settled, shown.joined_job) == (True, f"{opened.batch_id}-000003")


def test_silence_ends_a_session_but_not_while_a_worker_has_a_segment_in_hand(line: SessionLine) -> None:
    opened = line.open(timeout_s=60)
    line.ask(opened.id, 0)
    claimed = line.take(opened.id, 0, Stage.GENERATE)
    line.silence(opened.id, 61)
    line.poll()
    assert line.view(opened.id).state not in ("timeout", "complete")

    line.finish(claimed, line.made(claimed))
    line.silence(opened.id, 61)
    assert sessions.touch(line.database, opened.id)
    line.poll()
    assert line.row(opened.id).ended_at is None
    line.silence(opened.id, 61)
    line.poll()
    shown = line.view(opened.id)
    assert (shown.state, shown.end_reason) == ("timeout", "session_timeout")
    assert not sessions.touch(line.database, opened.id)


@pytest.mark.parametrize("stopped_by", ["pause", "hold"])
def test_a_client_alone_does_not_keep_a_session_in_which_nothing_can_be_made(
    line: SessionLine, stopped_by: str
) -> None:
    opened = line.open(timeout_s=60)
    line.ask(opened.id, 0)
    screened = line.take(opened.id, 0, Stage.SCREEN)
    if stopped_by == "hold":
        line.finish(screened, result_of(screened, Outcome.HELD))
    else:
        line.finish(screened)
        with line.database.transaction() as session:
            session.execute(update(Batch).where(Batch.id == opened.batch_id).values(paused=True))
    line.silence(opened.id, 61)

    assert sessions.touch(line.database, opened.id)  # it has not ended yet
    line.poll()

    assert line.view(opened.id).end_reason == "session_timeout"


def test_one_segment_that_is_held_does_not_silence_a_session_that_makes_another(line: SessionLine) -> None:
    opened = line.open(timeout_s=60)
    for number in (0, 1):
        line.ask(opened.id, number)
    line.make(opened.id, 0, Stage.SCREEN)
    screened = line.take(opened.id, 1, Stage.SCREEN)
    line.finish(screened, result_of(screened, Outcome.HELD))
    line.silence(opened.id, 61)

    assert sessions.touch(line.database, opened.id)
    line.poll()

    assert line.view(opened.id).ended_at is None


def test_what_is_not_generated_when_the_budget_is_used_up_is_cancelled_and_the_session_settles(
    line: SessionLine,
) -> None:
    # Given a segment whose frames wait to be encoded, and one that waits for the GPU
    opened = line.open(max_gpu_s=100)
    for number in (0, 1):
        line.ask(opened.id, number)
    line.make(opened.id, 0, Stage.GENERATE)
    line.make(opened.id, 1, Stage.SCREEN)

    # When the budget is used up
    with line.database.transaction() as session:
        session.execute(update(Batch).where(Batch.id == opened.batch_id).values(over_budget=True, gpu_ms=100_000))
    line.poll()

    # Then the first one's clip is still made, the other is not waited for, and what was made is joined
    shown = line.view(opened.id)
    assert (shown.end_reason, [each.state for each in shown.segments][1]) == ("budget_reached", "cancelled")
    line.make(opened.id, 0)
    line.poll()
    shown = line.view(opened.id)
    assert (shown.segments[0].state, shown.settled, shown.joined_job is None) == ("succeeded", True, False)


def test_owners_have_so_many_sessions_and_an_id_is_one_owners(line: SessionLine) -> None:
    line.settings = load_settings(stream={"sessions_per_owner": 2})
    first = line.open()
    line.open()
    with pytest.raises(SessionRejectedError, match="ada has 2 open sessions"):
        line.open()
    line.open(owner="bob")
    again = sessions.open_session(line.database, line.settings, SessionChoices(), owner="ada", session_id=first.id)
    assert again.id == first.id
    with pytest.raises(ConflictError, match="another owner"):
        sessions.open_session(line.database, line.settings, SessionChoices(), owner="bob", session_id=first.id)
    with pytest.raises(NotFoundError):
        sessions.session_view(line.database, first.id, owner="bob")
    sessions.close_session(line.database, first.id)
    line.open()


def test_no_session_is_opened_where_no_gpu_could_be_reserved(line: SessionLine) -> None:
    with pytest.raises(GpuUnavailableError, match="GPU of type h200"):
        line.open(gpu=("h200",))
    line.settings = load_settings(stream={"gpu_share": 0})
    with pytest.raises(GpuUnavailableError, match="VGEN_STREAM_GPU_SHARE is 0"):
        line.open()


def test_a_session_goes_on_from_what_another_left(line: SessionLine) -> None:
    line.settings = load_settings(stream={"gpu_share": 1})
    line.worker(name="w2")
    first = line.open(width=64, height=64)
    line.ask(first.id, 0)
    line.make(first.id, 0, Stage.GENERATE)
    left = sessions.snapshot(line.database, first.id)
    assert left is not None
    with pytest.raises(NotFoundError, match=r"not in this server's store \('states/b+'"):
        line.open(width=64, height=64, continuation=left)
    line.keep_state()

    more = {"fps": 8, "preset": "idle", "model_revision": None, "prompt": "a fox", "other": "x" * 9999}
    given = {**left, "payload": {**left["payload"], **more}, "other": 1}
    second = line.open(width=64, height=64, continuation=given)
    line.ask(second.id, 0)
    claimed = line.take(second.id, 0, Stage.GENERATE)

    assert claimed.work.continuation is not None
    # Only what the line itself keeps with a state is kept of what a client hands in
    size = {"frames": 1, "height": 64, "width": 64}
    assert claimed.work.continuation.payload == {**size, "fps": 8, "preset": "idle", "prompt": "a fox"}
    assert claimed.work.spec.extends == f"{first.batch_id}-000000"


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("version",), math.inf),
        (("job_id",), "a\0b"),
        (("payload", "frames"), True),
        (("payload", "height"), 64.0),
        (("payload", "fps"), math.nan),
        (("payload", "fps"), "8"),
        (("payload", "prompt"), "a\0b"),
        (("payload", "preset"), "\ud800"),
        (("payload", "model_revision"), {"a": 1}),
        (("blobs", "frames", "size"), 768),
        (("blobs", "frames", "size"), math.inf),
        (("blobs",), []),
    ],
)
def test_a_state_with_what_no_row_can_hold_is_turned_down(
    line: SessionLine, where: tuple[str, ...], value: Any
) -> None:
    line.keep_state()
    state = state_of(0)
    given = {"kind": state.kind, "version": state.version, "payload": state.payload, "blobs": state.blobs}
    given = json.loads(json.dumps({**given, "job_id": "0123456789abc-000000"}))
    place = given
    for name in where[:-1]:
        place = place[name]
    place[where[-1]] = value
    with pytest.raises(InputError, match="continuation_state: "):
        line.open(width=64, height=64, continuation=given)


def test_text_that_no_row_can_hold_is_not_kept_with_a_session(line: SessionLine) -> None:
    with pytest.raises(InputError, match=r"extra\.client_id: .*holds a NUL"):
        line.open(extra={"client_id": "a\0b"})
    with pytest.raises(InputError, match=r"extra\.at: nan is not possible"):
        line.open(extra={"at": math.nan})


def test_sessions_that_are_opened_at_once_keep_to_the_owners_limit(
    line: SessionLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    line.settings = load_settings(stream={"sessions_per_owner": 1})
    both, counted = threading.Barrier(2), capacity.gpu_capacity

    def count_together(*arguments: Any) -> Any:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.5)
        return counted(*arguments)

    monkeypatch.setattr(capacity, "gpu_capacity", count_together)

    def attempt(_: int) -> bool:
        try:
            line.open()
        except SessionRejectedError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(attempt, range(2))) == [False, True]
    assert len(line.all_sessions()) == 1


def test_nothing_is_stored_for_a_session_that_is_not_admitted(line: SessionLine, tmp_path: Path) -> None:
    picture = tmp_path / "fox.png"
    Image.new("RGB", (64, 64), "red").save(picture)
    line.settings = load_settings(stream={"sessions_per_owner": 1})
    first = line.open()
    storage = make_storage(line.settings)
    with pytest.raises(SessionRejectedError):
        line.open(preset="shapes-wan-i2v", image="fox.png", files={"fox.png": picture})
    assert list(storage.list("inputs/")) == []
    sessions.close_session(line.database, first.id)
    line.open(preset="shapes-wan-i2v", image="fox.png", files={"fox.png": picture})
    assert len(list(storage.list("inputs/"))) == 1


def test_retried_segments_wait_for_each_other_again(line: SessionLine) -> None:
    opened = line.open()
    for number in range(2):
        line.ask(opened.id, number)
    claimed = line.take(opened.id, 0, Stage.GENERATE)
    line.make(opened.id, 1, Stage.SCREEN)
    with line.database.transaction() as session:
        outcomes.fail(session, claimed, RefusedError("no"))
    line.poll()
    ids = [f"{opened.batch_id}-00000{number}" for number in range(2)]

    with line.database.transaction() as session:
        assert requests.retry_all(session, ids) == ids
    line.admit()

    assert line.states(ids[1])[Stage.GENERATE] is StepState.PENDING
    assert invariants.violations(line.database) == []
    line.make(opened.id, 0)
    line.make(opened.id, 1)


def test_a_sessions_clips_are_kept_for_as_long_as_is_said_of_sessions(line: SessionLine) -> None:
    # Given a finished session, one that never had a segment, and another finished batch, all an hour old
    opened, empty = line.open(), line.open()
    line.ask(opened.id, 0)
    line.make(opened.id, 0)
    for each in (opened, empty):
        sessions.close_session(line.database, each.id)
    joined = line.view(opened.id).joined_job or ""
    for stage in (Stage.ENCODE, Stage.PUBLISH):
        claimed = line.take_job(joined, stage, line.queues(opened.id))
        line.finish(claimed, line.made(claimed))
    plain = line.submit(count=1, again=True)
    line.take_job(f"{plain}-000000", Stage.PUBLISH, line.queues(""))
    with line.database.transaction() as session:
        session.execute(update(Job).values(finished_at=Job.finished_at - _HOUR_MS))
        session.execute(update(StreamSession).values(settled_at=StreamSession.settled_at - _HOUR_MS))

    # Then each kind is found by itself, and the media of the session's batch go
    with line.database.transaction() as session:
        age = {"older_than_ms": _HOUR_MS // 2}
        assert retention.expired_batches(session, kind=MEDIA_REMOVED, of_sessions=True, **age) == [opened.batch_id]
        assert retention.expired_batches(session, kind=MEDIA_REMOVED, of_sessions=False, **age) == []
        assert len(retention.drop_media(session, opened.batch_id, **age, dry_run=False)) == 2
        assert retention.drop_empty_sessions(session, **age, dry_run=False) == 1
    assert [row.id for row in line.all_sessions()] == [opened.id]
    assert invariants.violations(line.database) == []

    # And the batch is deleted with its session
    with line.database.transaction() as session:
        batch_deletion.delete_batch(session, opened.batch_id, by="ada")
    assert line.all_sessions() == []


def test_what_an_open_session_was_given_is_not_swept_before_its_first_segment(line: SessionLine) -> None:
    first = line.open(width=64, height=64)
    line.ask(first.id, 0)
    line.make(first.id, 0, Stage.GENERATE)
    left = sessions.snapshot(line.database, first.id)
    line.keep_state()
    line.settings = load_settings(stream={"sessions_per_owner": 9})
    second = line.open(width=64, height=64, continuation=left)
    with line.database.transaction() as session:
        session.execute(delete(ContinuationState))
        key = f"states/{'b' * 64}"
        assert retention.unreferenced(session, [key]) == set()
        sessions_row = session.get(StreamSession, second.id)
        assert sessions_row is not None
        sessions_row.continuation = None
        session.flush()
        assert retention.unreferenced(session, [key]) == {key}
        session.rollback()


def test_a_keys_quota_counts_every_segment(line: SessionLine) -> None:
    with line.database.transaction() as session:
        session.add(ApiKey(id="k1", name="k", owner="ada", scopes=[], secret_sha256="0" * 64, created_at=1))
        session.flush()
        session.execute(update(ApiKey).values(max_active_jobs=2))
    acting = events.acting_key.set("k1")
    try:
        opened = line.open()
        for number in (0, 1):
            line.ask(opened.id, number)
        with pytest.raises(QuotaError, match="may have 2 jobs open and has 2"):
            line.ask(opened.id, 2)
        line.make(opened.id, 0)
        line.ask(opened.id, 2)
    finally:
        events.acting_key.reset(acting)
    assert line.batch(opened.batch_id).total == 3


def test_a_held_segment_waits_for_a_person_although_its_frames_could_be_made(line: SessionLine) -> None:
    opened = line.open()
    for number in (0, 1):
        line.ask(opened.id, number)
    held = line.take(opened.id, 1, Stage.SCREEN)
    line.finish(held, result_of(held, Outcome.HELD))
    line.make(opened.id, 0)
    assert line.states(held.work.job_id)[Stage.GENERATE] is StepState.PENDING
    assert invariants.violations(line.database) == []

    with line.database.transaction() as session:
        assert requests.approve(session, held.work.job_id, by="eve")
    line.make(opened.id, 1)
    assert [each.state for each in line.view(opened.id).segments] == ["succeeded", "succeeded"]


def test_a_segment_is_made_once_more_by_itself_and_the_joined_clip_is_not(line: SessionLine) -> None:
    opened = line.open()
    line.ask(opened.id, 0)
    line.make(opened.id, 0)
    joined = sessions.close_session(line.database, opened.id).joined_job or ""

    spec, options = rerun.as_made(line.database, f"{opened.batch_id}-000000")
    assert (spec.prompt, options.session) == ("a fox", None)
    with pytest.raises(ConflictError, match="joins the clips of a session"):
        rerun.as_made(line.database, joined)


def test_a_session_whose_client_goes_away_ends_soon_unless_a_client_comes_for_it(line: SessionLine) -> None:
    kept, lost = line.open(), line.open()
    line.ask(lost.id, 0)
    sessions.leave(line.database, kept.id, kept_s=0)
    sessions.update_extra(line.database, lost.id, viewer="one")
    sessions.leave(line.database, lost.id, kept_s=0, viewer="another")  # it has the session no more
    assert line.view(lost.id).ends_at > line.view(kept.id).ends_at

    sessions.leave(line.database, lost.id, kept_s=0, viewer="one")
    sessions.update_extra(line.database, kept.id, left_until=None)
    line.poll()
    line.poll()
    ended = line.view(lost.id)
    assert (ended.state, ended.end_reason) == ("complete", "client_left")
    assert [each.state for each in ended.segments] == ["cancelled"]
    assert line.view(kept.id).ended_at is None


def test_a_reserved_gpu_is_counted_with_its_session(line: SessionLine) -> None:
    view = line.open()
    with line.database.reading() as session:
        before = pool.status(session)
    line.reserve()
    with line.database.reading() as session:
        after = pool.status(session)
    assert (before.available_gpus, before.active_sessions) == (1, 0)
    assert (after.available_gpus, after.active_sessions, after.queue_size) == (0, 1, before.queue_size - 1)
    assert after.gpu_status[line.view(view.id).gpu or ""].client_count == 1
