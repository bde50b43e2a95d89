"""Record a stage's result, and what comes next: the next step, a new roll, the next segment, or the job's end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from db.base import EnumText, Json
from db.clips import continuations, jobs, memory_ladder, rerolls, scores, segments, spending
from db.models import Batch, Job
from db.queue.attempt_endings import DispatchedStep, Finished, end_attempt, end_cancelled, ending_update
from db.queue.enqueue import queue_step
from db.session import now_ms
from pipeline.outputs import GenerateOutput, ScoreOutput, ScreenOutput, StageOutput
from pipeline.policy.routes import need_of
from pipeline.states import AttemptOutcome, JobState, Stage, StepState, next_stage
from pipeline.work import AnyResult, Claim, Outcome, StepWork

Route = Callable[[Session, StepWork, Stage, StageOutput | None], str | None]
"""Returns the next step's queue if it has room now, else None, from finished work, next stage and output."""

_DONE = ending_update(
    state=bindparam("p_state", type_=EnumText(StepState)),
    finished_at=now_ms(),
    output=bindparam("p_output", type_=Json),
    error_code=None,
    error=None,
)
_LOCK = (
    select(Job.cancel_requested, Batch.paused, spending.limited())
    .join(Batch, Batch.id == Job.batch_id)
    .where(Job.id == bindparam("p_job_id"))
    .with_for_update(of=Job)
)


def finish(session: Session, claimed: Claim, result: AnyResult, *, route: Route | None = None) -> Finished:
    """Record a stage's result, and make the next step's row: dispatched where ``route`` has a queue, else ``waiting``.

    Cancel wins over everything but a finished publish.
    """
    work = claimed.work
    cancelled, paused, limited = session.connection().execute(_LOCK, {"p_job_id": work.job_id}).one()
    if cancelled and work.stage is not Stage.PUBLISH:
        return end_cancelled(session, claimed)
    if result.outcome is Outcome.REJECTED:
        return _reject(session, claimed, result)
    state = StepState.SKIPPED if result.outcome is Outcome.SKIPPED else StepState.DONE
    values = {"p_state": state, "p_output": _stored(result)}
    if not end_attempt(session, claimed, AttemptOutcome(result.outcome.value), _DONE, values):
        return Finished(recorded=False)
    if result.outcome is Outcome.BLOCKED:
        assert isinstance(result.output, ScreenOutput)
        error = result.output.reason
        jobs.conclude(session, work.job_id, JobState.BLOCKED, error_code="unsafe_prompt", error=error)
        return Finished(recorded=True)
    if result.continuation is not None:
        continuations.record(session, work, result.continuation)
    if isinstance(result.output, GenerateOutput):
        segments.record(session, work, result.output)
        memory_ladder.note_made(session, claimed.queue, work.spec, work.memory_rung)
    scores.record(session, work.job_id, work.roll, result.scores)
    if segments.branches(work):
        not_now = {Stage.GENERATE: paused or limited, Stage.ENCODE: paused}
        return _finish_segment(session, work, result.output, route, not_now)
    following = next_stage(work.stage, scored=work.options.score is not None)
    if following is None:
        unneeded = jobs.publish(session, work.job_id, work.roll, result.artifacts)
        return Finished(recorded=True, unneeded=unneeded + segments.clear(session, work))
    held = result.outcome is Outcome.HELD
    # Whether a budget allows one more clip is the dispatcher's to say, which sees all that is in flight.
    waits = held or paused or (limited and following is Stage.GENERATE)
    queue = None if waits or route is None else route(session, work, following, result.output)
    need = need_of(work.spec) if following is Stage.GENERATE else ""
    queue_step(session, work.job_id, work.batch_id, work.roll, work.segment, following, work.spec.priority, queue, need)
    if held:
        jobs.move(session, work.job_id, JobState.HELD)
        return Finished(recorded=True)
    if queue is None:
        jobs.move(session, work.job_id, JobState.WAITING)
    return Finished(recorded=True, next_stage=following, queue=queue)


def _stored(result: AnyResult) -> dict[str, Any]:
    return {} if result.output is None else result.output.as_json()


def _reject(session: Session, claimed: Claim, result: AnyResult) -> Finished:
    """Record a clip that the gate rejected: the job's next roll begins, or it fails. Its row is locked."""
    assert isinstance(result.output, ScoreOutput)
    work, reason, code = claimed.work, str(result.output.reason), "gate_failed"
    more = work.options.score is not None and work.roll <= work.options.score.reroll
    problem: dict[str, Any] = {} if more else {"error_code": code, "error": reason[:4000]}
    ending = ending_update(
        state=StepState.DONE if more else StepState.FAILED, finished_at=now_ms(), output=_stored(result), **problem
    )
    if not end_attempt(session, claimed, AttemptOutcome.REJECTED, ending, error_code=code, error=reason[:4000]):
        return Finished(recorded=False)
    scores.record(session, work.job_id, work.roll, result.scores)
    if not more:
        message = f"roll {work.roll} was rejected and is the last: {reason}"
        jobs.conclude(session, work.job_id, JobState.FAILED, error_code=code, error=message)
        return Finished(recorded=True)
    unneeded = rerolls.start_next_roll(session, work.job_id, reason=reason)
    jobs.move(session, work.job_id, JobState.WAITING)
    return Finished(recorded=True, next_stage=Stage.GENERATE, unneeded=unneeded)


def _finish_segment(
    session: Session, work: StepWork, output: StageOutput | None, route: Route | None, waits: dict[Stage, bool]
) -> Finished:
    """Go on after a segment that is not the clip's last: encode it while the next one is generated."""
    encode_queue: str | None = None
    others: tuple[DispatchedStep, ...] = ()

    def send(segment: int, stage: Stage) -> str | None:
        queue = None if waits[stage] or route is None else route(session, work, stage, output)
        need = need_of(work.spec) if stage is Stage.GENERATE else ""
        queue_step(session, work.job_id, work.batch_id, work.roll, segment, stage, work.spec.priority, queue, need)
        return queue

    if work.stage is Stage.GENERATE:
        if segments.may_encode(session, work):
            encode_queue = send(work.segment, Stage.ENCODE)
        else:
            segments.add_pending(session, work, Stage.ENCODE)
        if segments.next_is_due(session, work):
            next_queue = send(work.segment + 1, Stage.GENERATE)
            others = (DispatchedStep(work.segment + 1, Stage.GENERATE, next_queue),) if next_queue is not None else ()
    else:
        segments.unblock(session, work.job_id, work.roll)
    jobs.move(session, work.job_id, JobState.WAITING)
    return Finished(True, next_stage=None if encode_queue is None else Stage.ENCODE, queue=encode_queue, others=others)
