"""The marks on a batch's timeline: what interrupted its work, and where it resumed."""

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import select
from sqlalchemy.orm import Session

from db.models import Job, StageRun, Step
from pipeline.states import AttemptOutcome, Stage

_MOST = 500
"""More marks than this are a blot; a report says that there are more."""


class MarkKind(StrEnum):
    """What a mark says."""

    KILLED = "killed"
    """The worker no longer renewed its lease: it was killed, or its host is gone."""
    TRIED_AGAIN = "tried again"
    FAILED = "failed"
    REWOUND = "rewound"
    """Something that the step needs was gone: the job went back to an earlier stage."""
    RESUMED = "resumed"
    """The attempt went on from a checkpoint of the one before."""


_OF_OUTCOME = {
    AttemptOutcome.LEASE_ENDED: MarkKind.KILLED,
    AttemptOutcome.RETRIED: MarkKind.TRIED_AGAIN,
    AttemptOutcome.FAILED: MarkKind.FAILED,
    AttemptOutcome.REWOUND: MarkKind.REWOUND,
}


@dataclass(frozen=True, slots=True)
class Mark:
    """One instant on a worker's timeline."""

    at: int
    """The database's milliseconds."""
    kind: MarkKind
    worker: str
    stage: Stage
    job_id: str
    note: str


def marks(session: Session, batch_id: str) -> list[Mark]:
    """Return the batch's marks in the order of time, the first 500 of those that end attempts and of resumes."""
    ended = session.scalars(
        select(StageRun)
        .join(Job, Job.id == StageRun.job_id)
        .where(Job.batch_id == batch_id, StageRun.outcome.in_(_OF_OUTCOME))
        .order_by(StageRun.ended_at, StageRun.id)
        .limit(_MOST)
    )
    ends = [
        Mark(run.ended_at, _OF_OUTCOME[run.outcome], run.worker or "", run.stage, run.job_id, _note(run))
        for run in ended
    ]
    return sorted([*ends, *_resumes(session, batch_id)], key=lambda mark: mark.at)


def _note(run: StageRun) -> str:
    return ": ".join(text for text in (run.error_code, run.error) if text)


def _resumes(session: Session, batch_id: str) -> list[Mark]:
    from_step = Step.output["facts", "resumed_from_step"].as_integer()
    rows = session.execute(
        select(StageRun.started_at, StageRun.worker, StageRun.job_id, from_step)
        .join(Step, (Step.id == StageRun.step_id) & (Step.attempt == StageRun.attempt))
        .where(Step.batch_id == batch_id, Step.stage == Stage.GENERATE, from_step.is_not(None))
        .order_by(StageRun.started_at)
        .limit(_MOST)
    )
    return [
        Mark(at, MarkKind.RESUMED, worker or "", Stage.GENERATE, job_id, f"from step {step}")
        for at, worker, job_id, step in rows
    ]
