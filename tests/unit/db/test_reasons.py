"""Why something waits: a table of situations, and the rows that it is read from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from db import events
from db.clips import batches, jobs
from db.models import Batch, Worker
from db.queue import outcomes, pauses
from db.reading import waiting
from db.reading.reasons import BatchFacts, Code, LiveWorker, Needs, OpenStep, Pause, Situation, explain
from db.reading.waiting import Wait
from db.session import Database
from pipeline.errors import RetryableError
from pipeline.policy.routes import CPU_QUEUE, IO_QUEUE, encode_queue, gpu_queue
from pipeline.presets import all_presets
from pipeline.states import Stage
from pipeline.work import Outcome
from tests.unit.db.line import GPU, Line, result_of

_IO = LiveWorker("io", [IO_QUEUE, CPU_QUEUE], dispatches=True)
_GPU = LiveWorker("gpu0", [gpu_queue("cpu")], gpu_type="cpu", assigned_preset="idle", loaded="idle", assigned_since=1)
_NOW = Situation(now=100_000, solo=False, presets=all_presets(), workers=[_IO, _GPU])
_BATCH = BatchFacts("b1")
_CLIP = OpenStep(Stage.GENERATE, "idle")
_ENHANCE = OpenStep(Stage.ENHANCE)


_RAISE = "vgen budget b1 --max-gpu-hours N (or --max-cost N)"
_IO_PAUSED = replace(_NOW, paused={IO_QUEUE: Pause("ada")})


def _failed(code: str, *, in_ms: int = 5_000) -> OpenStep:
    return OpenStep(Stage.PUBLISH, not_before=_NOW.now + in_ms, error_code=code, error="it said no", errors=1)


def _workers(*workers: LiveWorker) -> Situation:
    return replace(_NOW, workers=list(workers))


def _not_loaded(code: str) -> Situation:
    return _workers(_IO, replace(_GPU, loaded=None, failed={"idle": (code, "")}))


@pytest.mark.parametrize(
    ("code", "step", "batch", "now", "mend"),
    [
        (Code.ALL_PAUSED, _CLIP, _BATCH, replace(_NOW, paused={"*": Pause("ada", 7)}), "vgen resume --all"),
        (Code.BATCH_PAUSED, _CLIP, replace(_BATCH, paused=Pause("ada", 7)), _NOW, "vgen resume b1"),
        (Code.OVER_BUDGET, _CLIP, replace(_BATCH, over_budget=True), _NOW, _RAISE),
        (Code.NOBODY_AT_WORK, _CLIP, _BATCH, _workers(), "vgen worker"),
        (Code.NOBODY_AT_WORK, _CLIP, _BATCH, _workers(replace(_GPU, draining=True)), "vgen worker"),
        (Code.NOBODY_AT_WORK, _CLIP, _BATCH, replace(_workers(), solo=True), "vgen run"),
        (Code.QUEUE_PAUSED, _ENHANCE, _BATCH, _IO_PAUSED, "vgen resume --queue vgen.io"),
        (Code.QUEUE_PAUSED, _CLIP, _BATCH, replace(_NOW, paused={"vgen.gpu": Pause()}), "vgen resume --queue vgen.gpu"),
        (Code.NO_WORKER, OpenStep(Stage.GENERATE, "idle h200"), _BATCH, _NOW, "vgen worker"),
        (Code.NO_WORKER, OpenStep(Stage.ENCODE), _BATCH, _NOW, "vgen worker"),
        (Code.NO_WORKER, _CLIP, replace(_BATCH, priced=frozenset({"h200"})), _NOW, "vgen worker"),
        (Code.MODEL_MISSING, _CLIP, _BATCH, _not_loaded("model_missing"), "vgen models pull idle"),
        (Code.MODEL_UNUSABLE, _CLIP, _BATCH, _not_loaded("model_damaged"), "vgen models check idle"),
        (Code.RESERVED, _CLIP, _BATCH, _workers(_IO, replace(_GPU, reserved_for="s1")), None),
        (Code.IN_TURN, _CLIP, _BATCH, _workers(_IO, replace(_GPU, reserved_for="b1")), None),
        (Code.IN_TURN, replace(_CLIP, error_code="generator_crashed", error="it died", errors=1), _BATCH, _NOW, None),
        (Code.BROKER_AWAY, _CLIP, _BATCH, replace(_NOW, broker_away_since=5), "vgen doctor"),
        (Code.STORE_AWAY, _failed("temporarily_unavailable"), _BATCH, _NOW, "vgen doctor"),
        (Code.LANGUAGE_MODEL_AWAY, _failed("enhance_unavailable"), _BATCH, _NOW, "vgen doctor"),
        (Code.CLASSIFIER_AWAY, _failed("classifier_unavailable"), _BATCH, _NOW, "vgen doctor"),
        (Code.DISK_FULL, _failed("disk_full"), _BATCH, _NOW, "vgen sweep (or make room)"),
        (Code.HANDOFF_FULL, replace(_CLIP, not_before=_NOW.now + 1, error_code="handoff_full"), _BATCH, _NOW, None),
        (Code.WORKER_LOST, replace(_CLIP, error_code="worker_lost", error="it is gone"), _BATCH, _NOW, None),
        (Code.BACKOFF, _failed("encoder_failed"), _BATCH, _NOW, None),
        (Code.NO_DISPATCHER, _CLIP, _BATCH, _workers(_GPU), "vgen dispatcher (or vgen worker with IO work)"),
        (Code.LOADING, _CLIP, _BATCH, _workers(_IO, replace(_GPU, loaded=None)), None),
        (Code.IN_TURN, _CLIP, _BATCH, _NOW, None),
        (Code.IN_TURN, _CLIP, _BATCH, _workers(_IO, replace(_GPU, assigned_preset="other", loaded="other")), None),
        (Code.SENT, replace(_ENHANCE, queue=IO_QUEUE, dispatched_at=_NOW.now - 1_000), _BATCH, _NOW, None),
        (Code.NOT_TAKEN, replace(_ENHANCE, queue=IO_QUEUE, dispatched_at=1), _BATCH, _NOW, "vgen doctor"),
    ],
)  # fmt: skip
def test_each_situation_has_its_reason_and_what_mends_it(
    code: Code, step: OpenStep, batch: BatchFacts, now: Situation, mend: str | None
) -> None:
    reason = explain(step, batch, now)

    assert (reason.code, reason.mend) == (code, mend)
    assert (reason.needs is Needs.NOTHING) == (mend is None), "whatever needs somebody says what to do"
    assert reason.text


def test_a_long_message_in_a_busy_queue_is_no_lost_one() -> None:
    step = replace(_ENHANCE, queue=IO_QUEUE, dispatched_at=1)
    assert explain(step, _BATCH, replace(_NOW, running={IO_QUEUE: 1})).code is Code.SENT


def test_a_pause_says_who_and_when_and_a_backoff_until_when() -> None:
    paused = explain(_CLIP, replace(_BATCH, paused=Pause("ada", 7)), _NOW)
    assert ("by ada" in paused.text, paused.since) == (True, 7)
    assert explain(_failed("disk_full"), _BATCH, _NOW).until == _NOW.now + 5_000
    assert explain(_failed("disk_full", in_ms=-1), _BATCH, _NOW).until is None


@pytest.fixture
def line(database: Database) -> Line:
    return Line(database)


def _waits(line: Line, batch_id: str) -> list[Wait]:
    with line.database.reading() as session:
        now = waiting.situation(session, all_presets(), solo=False)
        return waiting.of_batch(session, batches.get(session, batch_id), now)


def _codes(line: Line, batch_id: str) -> list[tuple[int, Code]]:
    return [(wait.jobs, wait.reason.code) for wait in _waits(line, batch_id)]


def _of_job(line: Line, job_id: str) -> Code | None:
    with line.database.reading() as session:
        now = waiting.situation(session, all_presets(), solo=False)
        reason = waiting.of_jobs(session, [jobs.get(session, job_id)], now).get(job_id)
        return None if reason is None else reason.code


def _change(line: Line, entity: Any, key: str, **values: Any) -> None:
    with line.database.transaction() as session:
        row = session.get(entity, key)
        for name, value in values.items():
            setattr(row, name, value)


def test_rows_give_the_reasons_of_a_batch_and_of_its_jobs(line: Line) -> None:
    batch_id = line.submit(count=3)
    job_id = f"{batch_id}-000000"
    assert _codes(line, batch_id) == [(3, Code.NOBODY_AT_WORK)]

    line.worker()
    claimed = line.go_on(job_id, Stage.GENERATE)
    assert _of_job(line, job_id) is None, "it runs"
    with line.database.transaction() as session:
        outcomes.fail(session, claimed, RetryableError("no space left", code="disk_full"))
    assert _of_job(line, job_id) is Code.DISK_FULL
    assert _codes(line, batch_id)[0] == (1, Code.DISK_FULL)
    assert sum(jobs for jobs, _ in _codes(line, batch_id)) == 3

    with line.database.transaction() as session:
        pauses.pause_batch(session, batch_id, by="ada")
        pauses.pause_queue(session, GPU, by="eve")
    [wait] = {item.reason for item in _waits(line, batch_id)}
    assert (wait.code, wait.text) == (Code.BATCH_PAUSED, "the batch was paused by ada")
    with line.database.transaction() as session:
        pauses.resume_batch(session, batch_id, by="ada")
    _change(line, Batch, batch_id, over_budget=True)
    assert _of_job(line, job_id) is Code.OVER_BUDGET


def test_a_failed_load_a_held_job_and_a_broker_that_is_away(line: Line) -> None:
    line.worker(IO_QUEUE, CPU_QUEUE, encode_queue("abcd"), name="w1")
    line.worker(GPU, name="g1")
    batch_id = line.submit(count=2)
    held = line.go_on(f"{batch_id}-000000", Stage.SCREEN)
    line.finish(held, result_of(held, Outcome.HELD))
    assert (1, Code.HELD) in _codes(line, batch_id)
    assert _of_job(line, f"{batch_id}-000000") is Code.HELD

    with line.database.transaction() as session:
        events.record_broker(session, away=True, reason="refused")
        events.record_broker(session, away=True, reason="refused")
    assert (1, Code.BROKER_AWAY) in _codes(line, batch_id)
    with line.database.transaction() as session:
        events.record_broker(session, away=False)
        assert events.broker_away_since(session) is None

    line.finish(line.go_on(f"{batch_id}-000001", Stage.SCREEN))
    failure = {"at": 2**60, "code": "model_missing", "error": "not there"}
    _change(line, Worker, "g1", loaded=None, failed_presets={"idle": failure})
    assert (1, Code.MODEL_MISSING) in _codes(line, batch_id)


def test_what_waits_for_room_in_the_handoff_says_so_and_a_later_release_forgets_it(line: Line) -> None:
    _, job_id, claimed = line.bring_to(Stage.GENERATE)
    with line.database.transaction() as session:
        outcomes.release(session, claimed, delay_ms=5_000, error_code="handoff_full", error="full")
    assert _of_job(line, job_id) is Code.HANDOFF_FULL
    claimed = line.go_on(job_id, Stage.GENERATE)
    with line.database.transaction() as session:
        outcomes.release(session, claimed)
    assert _of_job(line, job_id) is Code.IN_TURN
