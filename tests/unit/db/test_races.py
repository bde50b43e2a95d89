"""Two or more at one instant, each in a transaction of its own: one outcome or the other, never both, never none."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from db import invariants
from db.clips import cancel_retry_approve as requests
from db.queue import leases, recovery
from db.queue import outcomes as attempts
from db.session import Database
from pipeline.errors import CrashError, FatalError, RefusedError
from pipeline.states import JobState, Stage, StepState
from pipeline.work import Claim
from tests.unit.db.line import Line

_REPEATS, _MOST = 3, 100
"""Runs of each race, and the most until both orders have happened: a coin decides which side starts a little later."""
_HEAD_START_S = 0.004


@pytest.fixture
def line(database: Database) -> Line:
    return Line(database)


def _at_once(line: Line, *calls: Callable[[], Any]) -> list[Any]:
    """What each call returned or raised; all began at one instant, all but one of them a moment late."""
    start, first = threading.Barrier(len(calls)), random.randrange(len(calls))

    def run(number: int, call: Callable[[], Any]) -> Any:
        start.wait(30)
        if number != first:
            threading.Event().wait(random.random() * _HEAD_START_S)
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        answers = [pool.submit(run, number, call) for number, call in enumerate(calls)]
    found = [answer.result() for answer in answers]
    assert invariants.violations(line.database) == []
    return found


def _in_transaction(line: Line, function: Callable[..., Any], *arguments: Any, **named: Any) -> Callable[[], Any]:
    def call() -> Any:
        with line.database.transaction() as session:
            return function(session, *arguments, **named)

    return call


def _until_both_happen(outcomes: list[Any]) -> Iterator[None]:
    """Goes on until the races that were run have had different outcomes."""
    while len(outcomes) < _REPEATS or len(set(outcomes)) < 2:
        assert len(outcomes) < _MOST, f"only {outcomes[0]} in {len(outcomes)} tries: no race was run"
        yield


def _running(line: Line, stage: Stage) -> tuple[str, Claim]:
    """A new job whose step of that stage is running, and its claim."""
    job_id = f"{line.submit({'prompt': 'a cat'}, again=True)}-000000"
    line.worker(slots=500)  # those that earlier races left behind fill no line
    return job_id, line.go_on(job_id, stage)


def test_one_of_many_claims_wins(line: Line) -> None:
    for _ in range(_REPEATS):
        batch_id = line.submit({"prompt": "a"}, again=True)
        line.admit()

        taken = _at_once(line, *[partial(line.try_claim, f"{batch_id}-000000", Stage.SCREEN)] * 4)

        assert sum(claim is not None for claim in taken) == 1
        assert line.step(f"{batch_id}-000000", Stage.SCREEN).attempt == 1


@pytest.mark.parametrize("stage", [Stage.GENERATE, Stage.PUBLISH])
def test_cancel_against_finish(line: Line, stage: Stage) -> None:
    outcomes: list[Any] = []
    for _ in _until_both_happen(outcomes):
        job_id, claimed = _running(line, stage)

        asked, finished = _at_once(line, _in_transaction(line, requests.cancel, job_id), partial(line.finish, claimed))

        state = line.job(job_id).state
        assert finished.recorded
        if stage is Stage.PUBLISH:  # only a finished publish beats a cancel, and then it was too late or is no more
            assert state is JobState.SUCCEEDED
            outcomes.append(asked)
        else:
            assert (asked, state) == (True, JobState.CANCELLED)
            outcomes.append(line.step(job_id, stage).state)
            assert finished.next_stage is (Stage.ENCODE if outcomes[-1] is StepState.DONE else None)


def test_retry_against_cancel(line: Line) -> None:
    outcomes: list[Any] = []
    for _ in _until_both_happen(outcomes):
        job_id, claimed = _running(line, Stage.GENERATE)
        with line.database.transaction() as session:
            attempts.fail(session, claimed, RefusedError("bug", code="bug"))

        retried, cancelled = _at_once(
            line, _in_transaction(line, requests.retry, job_id), _in_transaction(line, requests.cancel, job_id)
        )

        # A cancel that came first found nothing to stop.
        assert retried
        assert line.job(job_id).state is (JobState.CANCELLED if cancelled else JobState.WAITING)
        outcomes.append(cancelled)


def test_two_retries_make_one(line: Line) -> None:
    for _ in range(_REPEATS):
        job_id, claimed = _running(line, Stage.SCREEN)
        with line.database.transaction() as session:
            attempts.fail(session, claimed, RefusedError("bug", code="bug"))

        assert sorted(_at_once(line, *[_in_transaction(line, requests.retry, job_id)] * 2)) == [False, True]
        assert line.events(job_id).count("retry_requested") == 1


@pytest.mark.parametrize("error", [None, FatalError("bug"), CrashError("died")])
def test_the_end_of_a_lease_against_the_end_of_the_work(line: Line, error: FatalError | CrashError | None) -> None:
    outcomes: list[Any] = []
    for _ in _until_both_happen(outcomes):
        job_id, claimed = _running(line, Stage.GENERATE)
        line.expire(job_id)
        ends = partial(line.finish, claimed) if error is None else _in_transaction(line, attempts.fail, claimed, error)

        _, ended = _at_once(line, _in_transaction(line, recovery.end_leases), ends)

        step = line.step(job_id, Stage.GENERATE)
        assert step.losses == (0 if ended.recorded else 1)
        assert step.attempt == 1
        assert line.events(job_id).count("fenced") == (0 if ended.recorded else 1)
        assert line.events(job_id).count("lease_ended") == (0 if ended.recorded else 1)
        outcomes.append(ended.recorded)


def test_renewal_against_the_end_of_the_lease(line: Line) -> None:
    outcomes: list[Any] = []
    for _ in _until_both_happen(outcomes):
        job_id, claimed = _running(line, Stage.GENERATE)
        line.expire(job_id)

        _, told = _at_once(
            line,
            _in_transaction(line, recovery.end_leases),
            _in_transaction(line, leases.renew, claimed, lease_ms=60_000),
        )

        expected = StepState.RUNNING if told.held else StepState.WAITING
        assert line.step(job_id, Stage.GENERATE).state is expected
        outcomes.append(told.held)


def test_a_duplicate_message_against_the_finish_of_the_same_step(line: Line) -> None:
    for _ in range(_REPEATS):
        job_id, claimed = _running(line, Stage.GENERATE)

        second, finished = _at_once(
            line, partial(line.try_claim, job_id, Stage.GENERATE), partial(line.finish, claimed)
        )

        assert second is None
        assert finished.recorded


def test_a_lost_message_that_comes_after_all(line: Line) -> None:
    outcomes: list[Any] = []
    for _ in _until_both_happen(outcomes):
        batch_id = line.submit({"prompt": "a"}, again=True)
        job_id = f"{batch_id}-000000"
        line.admit()

        again, claimed = _at_once(
            line,
            _in_transaction(line, recovery.redispatch, ["vgen.cpu"], older_than_ms=-1_000),
            partial(line.try_claim, job_id, Stage.SCREEN),
        )

        assert bool(again) == (claimed is None)
        assert line.job(job_id).state is (JobState.WAITING if claimed is None else JobState.IN_FLIGHT)
        outcomes.append(claimed is None)
        with line.database.transaction() as session:
            requests.cancel(session, job_id)


def test_cancel_against_admission(line: Line) -> None:
    for _ in range(_REPEATS):
        batch_id = line.submit(count=3, again=True)
        ids = [f"{batch_id}-{number:06d}" for number in range(3)]

        _at_once(line, line.admit, *(_in_transaction(line, requests.cancel, job_id) for job_id in ids))

        assert {line.job(job_id).state for job_id in ids} == {JobState.CANCELLED}
        line.admit()  # two last jobs that ended at one instant leave it to the next look
        assert not line.batch(batch_id).active


def test_everything_at_once_comes_to_an_end(line: Line) -> None:
    """Workers, dispatchers, reconcilers and a person, all over the same few jobs."""
    line.worker(slots=500)
    batch_id = line.submit(count=6)
    ids = [f"{batch_id}-{number:06d}" for number in range(6)]
    over = threading.Event()

    def person() -> None:
        for _ in range(30):
            verb = random.choice((requests.cancel, requests.retry))
            _in_transaction(line, verb, random.choice(ids))()
        over.set()

    def worker() -> None:
        while not over.is_set():
            claimed = line.try_claim(random.choice(ids), random.choice(list(Stage)))
            if claimed is not None:
                line.finish(claimed)

    def upkeep() -> None:
        while not over.is_set():
            line.admit()
            with line.database.transaction() as session:
                recovery.end_leases(session, all_of_them=True)
            with line.database.transaction() as session:
                recovery.redispatch(session, ["vgen.cpu", "vgen.io"], older_than_ms=-1_000)
            assert invariants.violations(line.database) == []

    def safely(work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            over.set()  # or the others would wait for ever

    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(safely, work) for work in (person, worker, worker, worker, upkeep, upkeep)]
    for answer in answers:
        answer.result()

    with line.database.transaction() as session:
        requests.retry_all(session, ids)
        recovery.end_leases(session, all_of_them=True)
    for job_id in ids:
        if line.job(job_id).state is not JobState.SUCCEEDED:
            with line.database.transaction() as session:
                recovery.redispatch(session, ["vgen.cpu", "vgen.io", "vgen.gpu.cpu"], older_than_ms=-1_000)
            line.finish_job(job_id)
    assert {line.job(job_id).state for job_id in ids} == {JobState.SUCCEEDED}
