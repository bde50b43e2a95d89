"""The order of steps in a clip of several segments: which step may run when.

Its prompts are enhanced and screened together with the first segment's. Each segment is generated once the one before
has left what it goes on from, and encoded meanwhile; the last is encoded once all others are, joins them, and goes on
alone. A step that has to wait for another segment's is ``pending``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

from sqlalchemy import Insert, Table, exists, select
from sqlalchemy.orm import Session

from db.base import upsert
from db.clips import continuations
from db.models import Job, Segment, Step
from db.moves import moving
from db.session import now_ms
from pipeline.outputs import GenerateOutput, StageOutputs
from pipeline.spec import JobSpec
from pipeline.states import Stage, StepState
from pipeline.work import StepWork

OF_THE_CLIP = (Stage.ENHANCE, Stage.SCREEN)
"""Stages that a clip passes once, whatever segments it has; their steps are the first segment's."""
_SEGMENTS = cast(Table, Segment.__table__)
_STATES = dict[tuple[int, Stage], StepState]


def branches(work: StepWork) -> bool:
    """Return whether more than the next stage of this segment follows from the step, or less."""
    if work.spec.segments == 1:
        return False
    return work.stage is Stage.GENERATE or (work.stage is Stage.ENCODE and not is_last(work))


def is_last(work: StepWork) -> bool:
    return work.segment == work.spec.segments - 1


def record(session: Session, work: StepWork, output: GenerateOutput) -> bool:
    """Write the segment's row; return whether the next one was made from other frames than these are now."""
    connection = session.connection()
    changed = (
        work.spec.segments > 1 and not is_last(work) and _frames_of(session, work) not in (None, output.frames_sha256)
    )
    connection.execute(
        _recording(connection.dialect.name),
        {
            "job_id": work.job_id,
            "roll": work.roll,
            "segment": work.segment,
            "prompt": output.prompt,
            "num_frames": output.num_frames,
            "frames_sha256": output.frames_sha256,
            "numerics": output.numerics,
        },
    )
    return changed


@lru_cache(maxsize=2)
def _recording(dialect: str) -> Insert:
    columns = ("prompt", "num_frames", "frames_sha256", "numerics", "created_at")
    return upsert(dialect, _SEGMENTS, ("job_id", "roll", "segment"), columns, created_at=now_ms())


def _frames_of(session: Session, work: StepWork) -> str | None:
    this_segment = (Segment.job_id == work.job_id) & (Segment.roll == work.roll) & (Segment.segment == work.segment)
    return session.scalars(select(Segment.frames_sha256).where(this_segment)).one_or_none()


def may_encode(session: Session, work: StepWork) -> bool:
    """Return whether a generated segment can be encoded now: the last one waits for all others."""
    if not is_last(work):
        return True
    states = _states(session, work.job_id, work.roll)
    return all(states.get((segment, Stage.ENCODE)) is StepState.DONE for segment in range(work.segment))


def next_is_due(session: Session, work: StepWork) -> bool:
    """Return whether the next segment is to be generated: it never was, or has to be again."""
    if is_last(work):
        return False
    state = _states(session, work.job_id, work.roll).get((work.segment + 1, Stage.GENERATE))
    return state is None or state is StepState.PENDING


def unblock(session: Session, job_id: str, roll: int) -> None:
    """Set those pending steps waiting whose turn has come. The job's row is locked by the caller."""
    states = _states(session, job_id, roll)
    done = {place for place, state in states.items() if state in (StepState.DONE, StepState.SKIPPED)}
    spec = JobSpec.model_validate(session.scalars(select(Job.spec).where(Job.id == job_id)).one())
    due = []
    for (segment, stage), state in states.items():
        if state is not StepState.PENDING:
            continue
        if stage is Stage.GENERATE:
            needed = {(segment - 1, Stage.GENERATE)} if segment > 0 else {(0, Stage.SCREEN)}
        elif stage is Stage.ENCODE:
            needed = {(segment, Stage.GENERATE)}
            if segment == spec.segments - 1:
                needed |= {(other, Stage.ENCODE) for other in range(segment)}
        else:
            continue
        if needed <= done:
            due.append((Step.segment == segment) & (Step.stage == stage))
    for place in due:
        ready = moving(Step, StepState.WAITING, StepState.PENDING)
        session.connection().execute(ready.where(Step.job_id == job_id, Step.roll == roll, place))


def _states(session: Session, job_id: str, roll: int) -> _STATES:
    rows = session.execute(select(Step.segment, Step.stage, Step.state).where(Step.job_id == job_id, Step.roll == roll))
    return {(segment, stage): state for segment, stage, state in rows}


def add_pending(session: Session, work: StepWork, stage: Stage) -> None:
    """Make a step of the segment that waits for another segment's, unless it is there."""
    states = _states(session, work.job_id, work.roll)
    if (work.segment, stage) not in states:
        session.add(
            Step(
                job_id=work.job_id,
                batch_id=work.batch_id,
                roll=work.roll,
                segment=work.segment,
                stage=stage,
                state=StepState.PENDING,
                priority=work.spec.priority,
            )
        )
        session.flush()


def one_runs(session: Session, job_id: str) -> bool:
    """Return whether a worker holds one of the job's steps."""
    return bool(session.scalars(select(exists().where(Step.job_id == job_id, Step.state == StepState.RUNNING))).one())


def outputs(session: Session, job_id: str, roll: int, *, before: int) -> tuple[StageOutputs, ...]:
    """Return the outputs of generate and encode for each segment before that one."""
    by_segment: list[dict[Stage, dict[str, Any]]] = [{} for _ in range(before)]
    rows = session.execute(
        select(Step.segment, Step.stage, Step.output).where(
            Step.job_id == job_id,
            Step.roll == roll,
            Step.segment < before,
            Step.stage.in_((Stage.GENERATE, Stage.ENCODE)),
        )
    )
    for segment, stage, output in rows:
        by_segment[segment][stage] = output
    return tuple(StageOutputs.from_rows(stored) for stored in by_segment)


def clear(session: Session, work: StepWork) -> tuple[str, ...]:
    """Forget what only unpublished segments need; the keys of their encoded files, which no row will name."""
    if work.spec.segments == 1:
        return ()
    continuations.drop(session, work.job_id, keep=work.segment)
    earlier = outputs(session, work.job_id, work.roll, before=work.segment)
    parts = [item.encode.part for item in earlier if item.encode and item.encode.part]
    return tuple(ref.key for part in parts for ref in (part, part.sound) if ref is not None)
