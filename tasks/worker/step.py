"""Runs one step from claim to finish, for every stage and for steps of evaluation runs.

Nothing is believed because a message says it: the claim asks the row, the finish holds only for the attempt that is
current, and a message that finds nothing to do cuts the rest of its chain.

Generating stands alone: its task ends where the GPU can take the next clip (see ``tasks.worker.overlap``), and the
finish comes after that, with the clip's next chain.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, TypeVar

from celery import Celery, Task
from sqlalchemy.orm import Session

from db.clips import segments
from db.queue import finishing, leases, outcomes
from db.queue.outcomes import Finished
from db.scheduling import worker_presets
from db.scheduling.dispatch import StepMessage
from pipeline import failpoints
from pipeline.errors import (
    FailureClass,
    FatalError,
    SegmentLostError,
    ServiceUnavailableError,
    StageError,
    StoppedError,
)
from pipeline.generators.base import OnMade
from pipeline.generators.frames_file import frames_size
from pipeline.states import Stage, is_after
from pipeline.work import AnyClaim, AnyResult, Claim, Outcome, ScoreClaim, StageContext, StageFunction
from tasks.messages import send
from tasks.worker import contexts, crashes
from tasks.worker.announcements import announce
from tasks.worker.checkpoint_rows import ClaimedRows, remove_objects
from tasks.worker.context import WorkerContext
from tasks.worker.lease_keeper import LeaseKeeper
from tasks.worker.overlap import ReleaseWorker

logger = logging.getLogger(__name__)
Value = TypeVar("Value")
AClaim = TypeVar("AClaim", Claim, ScoreClaim)
Recorder = Callable[[Session, AClaim], Finished]
"""Records, in a transaction, what came of a claim."""

_MAKE_FRAMES_AGAIN = frozenset({"handoff_lost", "frames_corrupt", "publish_missing"})
"""The errors of a stage whose input from an earlier stage is gone: that stage is done again."""
_NO_ROOM, _NO_ROOM_WAIT_MS = "handoff_full", 2_000
"""Back-pressure, not failure: the step waits so long and is charged nothing."""
_ROOM_POLL_S, _ROOM_POLL_AT_MOST_S, _ROOM_WAIT_S = 0.1, 1.0, 10.0
"""A GPU worker polls for room in the hand-off after this time, then after twice as long each time; after the last of
these it asks for a clip all the same."""
_RETRY_DATABASE_S = (0.1, 0.3, 1.0, 2.0, 5.0)


class _Recorded(NamedTuple):
    """A step whose attempt was recorded, with whatever outcome."""

    claimed: Claim
    result: AnyResult | None
    finished: Finished
    failure: str | None
    """The code of what failed or was refused, for Flower; a message might hold a prompt."""


class StepFailedError(Exception):
    """Ends the task of an attempt that failed, so that Flower shows it as failed; the rows know already."""


def run_step(task: Task, stage: Stage, job_id: str, segment: int) -> None:
    """Claim the step, do its work, record it, and let the chain go on or cut it."""
    runtime = contexts.context_of(task)
    if stage is Stage.GENERATE:
        _generate(task.app, runtime, job_id, segment)
        return
    recorded = _do(runtime, stage, job_id, segment)
    if recorded is None or recorded.finished.queue is None:
        _cut(task)
    if recorded is not None:
        _clear_up(runtime, recorded)
        _tell_failure(recorded)


def _tell_failure(recorded: _Recorded) -> None:
    """Raises StepFailedError where the attempt failed or its prompt was refused."""
    if recorded.failure is not None and recorded.finished.recorded:
        raise StepFailedError(recorded.failure)


def _generate(app: Celery, runtime: WorkerContext, job_id: str, segment: int) -> None:
    """Make a clip, and begin its next chain once it is handed over, while the worker makes the next clip."""

    def make(release_worker: ReleaseWorker) -> None:
        with _reservation(runtime) as reservation:
            recorded = _do(runtime, Stage.GENERATE, job_id, segment, reservation, release_worker)
        if recorded is not None:
            _deliver(app, runtime, recorded)
            _clear_up(runtime, recorded)
            _tell_failure(recorded)

    runtime.overlap.run(make)


def _deliver(app: Celery, runtime: WorkerContext, recorded: _Recorded) -> None:
    """Send the chain that encodes the clip and all after that. Should it fail, the row waits again."""
    work, finished = recorded.claimed.work, recorded.finished
    if finished.next_stage is None or finished.queue is None:
        return
    last = segments.is_last(work)
    scored = work.options.score is not None
    # Where the clip was made more than once, so may the steps after it have been.
    place = (work.job_id, work.segment, finished.next_stage, finished.queue)
    message = StepMessage(*place, scored, last, work.roll, attempts=work.attempt - 1)
    send(app, runtime.database, [message])


def _cut(task: Task) -> None:
    """Send nothing after this task. Raising Ignore would leave it unfinished in Flower for ever."""
    task.request.chain = None
    task.request.callbacks = None


@contextlib.contextmanager
def _reservation(runtime: WorkerContext) -> Iterator[Path | None]:
    """Reserve room in the hand-off for one clip like the last, before it is claimed; None where its size is unknown.

    Without it each claim would be released at once, several times a second for as long as the encoders are behind.
    """
    reservation = _reserve(runtime)
    try:
        yield reservation
    finally:
        if reservation is not None:
            reservation.unlink(missing_ok=True)  # it has another name once the clip has it


def _reserve(runtime: WorkerContext) -> Path | None:
    until, size, pause_s = time.monotonic() + _ROOM_WAIT_S, runtime.expected_frames_bytes, _ROOM_POLL_S
    while size and time.monotonic() < until and runtime.stopping() is None:
        try:
            return runtime.handoff.make_reservation(size)
        except StageError as error:
            if error.code != _NO_ROOM:
                return None  # the next clip's attempt reports what is wrong
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _ROOM_POLL_AT_MOST_S)
    return None


def _do(
    runtime: WorkerContext,
    stage: Stage,
    job_id: str,
    segment: int,
    reservation: Path | None = None,
    release_worker: ReleaseWorker | None = None,
) -> _Recorded | None:
    """Claim the step, do its work and record it; None when there is nothing to do, or nothing could be recorded."""
    lease_ms = int(runtime.settings.worker.lease_s * 1000)
    began_at = time.monotonic()

    def take(session: Session) -> Claim | None:
        return leases.claim(
            session,
            job_id=job_id,
            segment=segment,
            stage=stage,
            queues=runtime.claimable,
            worker=runtime.name,
            lease_ms=lease_ms,
        )

    released_at, results, failures = list[float](), list[AnyResult](), list[str]()

    def on_made() -> None:
        released_at.append(time.monotonic())
        if release_worker is not None:
            release_worker()

    def work(claimed: Claim, keeper: LeaseKeeper) -> Recorder[Claim]:
        if stage is Stage.GENERATE:
            runtime.expected_frames_bytes = frames_size(claimed.work.spec)
        result = _run_stage(runtime, claimed, keeper, reservation, on_made)
        results.append(result)
        if result.outcome in (Outcome.BLOCKED, Outcome.REJECTED):
            failures.append(f"{result.outcome.value} by {stage.value}")
        if stage is Stage.GENERATE:
            runtime.crashes.clear()
        return lambda session, held: finishing.finish(session, held, result)

    def explain(claimed: Claim, error: StageError, keeper: LeaseKeeper) -> Recorder[Claim]:
        if error.code != _NO_ROOM:
            failures.append(error.code)
        return _recorder(runtime, claimed, error, keeper.check)

    def ended(claimed: Claim) -> Claim:
        overlapped_s = time.monotonic() - released_at[0] if released_at else 0.0
        return replace(claimed, overlapped_ms=int(overlapped_s * 1000))

    recorded = perform(runtime, stage.value, take, work, explain, ended)
    if recorded is None:
        return None
    _announce(stage, job_id, time.monotonic() - began_at, failures, stopped=not results and not failures)
    return _Recorded(recorded[0], next(iter(results), None), recorded[1], next(iter(failures), None))


def _announce(stage: Stage, job_id: str, seconds: float, failures: list[str], *, stopped: bool) -> None:
    """Write a line for a clip that was made or published, and for whatever did not end well."""
    if failures:
        announce(f"{job_id}: {stage.value} failed after {seconds:.1f} s", code=failures[0])
    elif stopped:
        announce(f"{job_id}: {stage.value} was given back after {seconds:.1f} s")
    elif stage in (Stage.GENERATE, Stage.PUBLISH):
        announce(f"{job_id}: {'generated' if stage is Stage.GENERATE else 'published'} in {seconds:.1f} s")


def perform(
    runtime: WorkerContext,
    name: str,
    take: Callable[[Session], AClaim | None],
    work: Callable[[AClaim, LeaseKeeper], Recorder[AClaim]],
    explain: Callable[[AClaim, StageError, LeaseKeeper], Recorder[AClaim]] | None = None,
    ended: Callable[[AClaim], AClaim] | None = None,
) -> tuple[AClaim, Finished] | None:
    """Claim a step, do its work under its lease, and record what came of it, in a transaction each.

    ``work`` returns what records its result, ``explain`` what records an error (``outcomes.fail`` where it is not
    given); ``ended`` completes the claim at the end. None when there is nothing to do, or nothing could be recorded.
    """
    claimed = persist(runtime, take)
    if claimed is None:
        return None
    failpoints.hit("after_claim", name)
    record: Recorder[AClaim]
    with LeaseKeeper(runtime, claimed) as keeper:
        try:
            record = work(claimed, keeper)
        except StoppedError:
            record = outcomes.release
        except StageError as error:
            facts = {"step": name, **claimed.work.log_data, "code": error.code, "reason": str(error)}
            logger.info("step failed", extra=facts)
            record = failing(error) if explain is None else explain(claimed, error, keeper)
        except Exception as error:
            logger.exception("step failed unexpectedly", extra={"step": name, **claimed.work.log_data})
            fatal = FatalError(f"{type(error).__name__}: {error}")
            record = failing(fatal) if explain is None else explain(claimed, fatal, keeper)
    failpoints.hit("after_work", name)
    finished = persist(runtime, lambda session: record(session, ended(claimed) if ended else claimed))
    failpoints.hit("after_finish", name)
    return None if finished is None else (claimed, finished)


def failing(error: StageError) -> Callable[[Session, AnyClaim], Finished]:
    """What records the error as the attempt's end."""
    return lambda session, held: outcomes.fail(session, held, error)


def _clear_up(runtime: WorkerContext, recorded: _Recorded) -> None:
    result, finished = recorded.result, recorded.finished
    if finished.recorded and result is not None and result.after_commit is not None:
        result.after_commit()
    remove_objects(runtime, finished.unneeded)


def _run_stage(
    runtime: WorkerContext, claimed: Claim, keeper: LeaseKeeper, reservation: Path | None, on_made: OnMade
) -> AnyResult:
    if claimed.work.stage is Stage.GENERATE:
        runtime.models.release_scorers()  # what scored on this GPU: its memory is the generator's now
    context = StageContext(
        settings=runtime.settings,
        storage=runtime.storage,
        handoff=runtime.handoff,
        models=runtime.models,
        on_progress=keeper.on_progress,
        check=keeper.check,
        generator=runtime.generator if claimed.work.stage is Stage.GENERATE else None,
        gpu_type=runtime.gpu_type,
        worker_name=runtime.name,
        checkpoints=ClaimedRows(runtime, claimed),
        reservation=reservation,
        on_made=on_made,
    )
    failpoints.hit("before_work", claimed.work.stage.value)
    if claimed.work.stage is Stage.GENERATE and claimed.work.options.session is not None:
        from tasks.worker.live_feed import start_live_feed  # noqa: PLC0415 - what other clips have no use for

        start_live_feed(runtime.settings, runtime.database, claimed.work, context.handoff, runtime.gpu_type)
    return stage_function(claimed.work.stage)(claimed.work, context)


def stage_function(stage: Stage) -> StageFunction:
    """The stage's ``run``, loaded when it is first needed: an io worker needs no encoder."""
    function: StageFunction = import_module(f"pipeline.stages.{stage.value}").run
    return function


def _recorder(runtime: WorkerContext, claimed: Claim, error: StageError, check: Callable[[], None]) -> Recorder[Claim]:
    if isinstance(error, SegmentLostError):
        reason = f"{error.code}: {error}"
        segment = error.segment
        return lambda session, held: outcomes.rewind(session, held, to=Stage.GENERATE, reason=reason, segment=segment)
    if error.code in _MAKE_FRAMES_AGAIN and is_after(claimed.work.stage, Stage.GENERATE):
        reason = f"{error.code}: {error}"
        to = Stage.ENCODE if claimed.work.joins else Stage.GENERATE
        return lambda session, held: outcomes.rewind(session, held, to=to, reason=reason)
    if error.code == _NO_ROOM:
        return lambda session, held: outcomes.release(
            session, held, delay_ms=_NO_ROOM_WAIT_MS, error_code=error.code, error=str(error)
        )
    is_crash = claimed.work.stage is Stage.GENERATE and error.failure_class is FailureClass.CRASH
    if is_crash and crashes.is_broken(runtime, claimed, check):
        return lambda session, held: _fail_and_drain(session, runtime, held, error)
    return failing(error)


def _fail_and_drain(session: Session, runtime: WorkerContext, claimed: Claim, error: StageError) -> Finished:
    """Record the crash, and drain the worker: its GPU is most likely broken."""
    logger.error("worker drains itself", extra={"worker": runtime.name, "jobs": runtime.crashes.jobs})
    worker_presets.drain(session, runtime.name, f"{len(runtime.crashes)} different jobs crashed here in a row")
    return outcomes.fail(session, claimed, error)


def persist(runtime: WorkerContext, change: Callable[[Session], Value]) -> Value | None:
    """Run a transaction, waiting for a database that is away; None when the worker has to stop meanwhile.

    Finished work is worth waiting for: nothing is lost while this process lives, and the row's lease says the rest.
    """
    for attempt in itertools.count():
        try:
            with runtime.database.transaction() as session:
                return change(session)
        except ServiceUnavailableError as error:
            delay = _RETRY_DATABASE_S[min(attempt, len(_RETRY_DATABASE_S) - 1)]
            logger.warning("database away, trying again", extra={"reason": str(error), "delay_s": delay})
            if runtime.must_stop_now():
                return None
            time.sleep(delay)
    raise AssertionError("unreachable")
