"""Records a stage's result and what comes next: the next step, a new roll, the next segment, or the job's end."""

from typing import Any

from sqlalchemy import String, bindparam, select
from sqlalchemy.orm import Session

from db.base import Json
from db.clips import continuations, jobs, memory_ladder, rerolls, scores, segments, succession
from db.models import Job, Step
from db.queue.enqueue import queue_step
from db.queue.leases import held_by, not_paused
from db.queue.outcomes import Finished, end, end_cancelled, ending, redo_after
from pipeline.outputs import GenerateOutput, ScoreOutput, ScreenOutput
from pipeline.policy.routes import need_of, route
from pipeline.states import AttemptOutcome, JobState, Stage, StepState, next_stage
from pipeline.work import AnyResult, Claim, Outcome, StepWork

_ENDINGS = {
    state: ending(Step, state, output=bindparam("p_output", type_=Json), error_code=None, error=None)
    for state in (StepState.DONE, StepState.SKIPPED)
}
_LOCK = (
    select(Job.cancel_requested, ~not_paused(bindparam("p_queue", type_=String), Job.batch_id))
    .where(Job.id == bindparam("p_job_id"))
    .with_for_update(of=Job)
)


def finish(session: Session, claimed: Claim, result: AnyResult) -> Finished:
    """Record a stage's result, and make the next step's row: ``dispatched`` where its chain goes on, else ``waiting``.

    What generates waits for the dispatcher, and so does what is held or paused. Cancel wins over everything but a
    finished publish.
    """
    work = claimed.work
    following = next_stage(work.stage, scored=work.options.score is not None)
    queue = None if following is None else route(following, _handoff_id(work, result))
    locked = session.connection().execute(_LOCK, {"p_job_id": work.job_id, "p_queue": queue or ""}).one()
    cancelled, paused = locked
    if cancelled and work.stage is not Stage.PUBLISH:
        return end_cancelled(session, claimed)
    if result.outcome is Outcome.REJECTED:
        return _reject(session, claimed, result)
    ended = _ENDINGS[StepState.SKIPPED if result.outcome is Outcome.SKIPPED else StepState.DONE]
    outcome = AttemptOutcome(result.outcome.value)
    if not end(session, held_by(claimed), outcome, ended, {"p_output": _stored(result)}):
        return Finished(recorded=False)
    if result.outcome is Outcome.BLOCKED:
        assert isinstance(result.output, ScreenOutput)
        error = result.output.reason
        jobs.conclude(session, work.job_id, JobState.BLOCKED, error_code="unsafe_prompt", error=error)
        return Finished(recorded=True)
    _keep_made(session, claimed, result)
    scores.record(session, work.job_id, work.roll, result.scores)
    held = result.outcome is Outcome.HELD
    if held or paused:
        queue = None
    if segments.branches(work):
        return _finish_segment(session, work, queue)
    if following is None:
        unneeded = jobs.publish(session, work.job_id, work.roll, result.artifacts)
        return Finished(recorded=True, unneeded=unneeded + segments.clear(session, work))
    _queue(session, work, work.segment, following, queue)
    if held:
        jobs.keep_back(session, [work.job_id])
        jobs.move(session, work.job_id, JobState.HELD)
        return Finished(recorded=True)
    if queue is None:
        jobs.move(session, work.job_id, JobState.WAITING)
    return Finished(recorded=True, next_stage=following, queue=queue)


def _keep_made(session: Session, claimed: Claim, result: AnyResult) -> None:
    """Record what others go on from: a segment's frames, and the state that it left."""
    work = claimed.work
    if result.continuation is not None:
        continuations.record(session, work, result.continuation)
        if work.options.session is not None:
            succession.hand_on(session, work, result.continuation)
    if isinstance(result.output, GenerateOutput):
        if segments.record(session, work, result.output):
            redo_after(session, work)
        memory_ladder.note_made(session, claimed.queue, work.spec, work.memory_rung)


def _handoff_id(work: StepWork, result: AnyResult) -> str | None:
    """The hand-off where the clip's frames are."""
    generated = result.output if isinstance(result.output, GenerateOutput) else work.outputs.generate
    return generated.handoff_id if generated else None


def _queue(session: Session, work: StepWork, segment: int, stage: Stage, queue: str | None) -> None:
    if stage is Stage.GENERATE and succession.must_wait(session, work):
        succession.wait_for_state(session, work)
        return
    need = need_of(work.spec) if stage is Stage.GENERATE else ""
    queue_step(session, work.job_id, work.batch_id, work.roll, segment, stage, work.spec.priority, queue, need)


def _stored(result: AnyResult) -> dict[str, Any]:
    return {} if result.output is None else result.output.as_json()


def _reject(session: Session, claimed: Claim, result: AnyResult) -> Finished:
    """Record a clip that the gate rejected: the job's next roll begins, or it fails. Its row is locked."""
    assert isinstance(result.output, ScoreOutput)
    work, reason, code = claimed.work, str(result.output.reason), "gate_failed"
    more = work.options.score is not None and work.roll <= work.options.score.reroll
    problem = {} if more else {"error_code": code, "error": reason[:4000]}
    ended = ending(Step, StepState.DONE if more else StepState.FAILED, output=_stored(result), **problem)
    held = held_by(claimed)
    if not end(session, held, AttemptOutcome.REJECTED, ended, error_code=code, error=reason[:4000]):
        return Finished(recorded=False)
    scores.record(session, work.job_id, work.roll, result.scores)
    if not more:
        message = f"roll {work.roll} was rejected and is the last: {reason}"
        jobs.conclude(session, work.job_id, JobState.FAILED, error_code=code, error=message)
        return Finished(recorded=True)
    unneeded = rerolls.start_next_roll(session, work.job_id, reason=reason)
    jobs.move(session, work.job_id, JobState.WAITING)
    return Finished(recorded=True, next_stage=Stage.GENERATE, unneeded=unneeded)


def _finish_segment(session: Session, work: StepWork, queue: str | None) -> Finished:
    """Go on after a segment that is not the clip's last: it is encoded, to ``queue``, while the next is made."""
    if work.stage is Stage.ENCODE:
        segments.unblock(session, work.job_id, work.roll)
        queue = None
    else:
        if segments.may_encode(session, work):
            _queue(session, work, work.segment, Stage.ENCODE, queue)
        else:
            segments.add_pending(session, work, Stage.ENCODE)
            queue = None
        if segments.next_is_due(session, work):
            _queue(session, work, work.segment + 1, Stage.GENERATE, None)
    jobs.move(session, work.job_id, JobState.WAITING)
    return Finished(recorded=True, next_stage=None if queue is None else Stage.ENCODE, queue=queue)
