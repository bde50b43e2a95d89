"""What workers do to a line."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from sqlalchemy import update

from db import admission, claims, failures, releases, rewinds
from db.claims import Claim
from db.models import Step
from db.session import now_ms
from pipeline.errors import (
    CrashError,
    FailureClass,
    FatalError,
    OutOfMemoryError,
    RefusedError,
    RetryableError,
    StageError,
)
from pipeline.presets import all_presets
from pipeline.stages.base import Outcome
from pipeline.states import Stage, StepState
from tests.unit.db.line import GPU, LEASE_MS, QUEUES, result_of
from tests.unit.db.line_rules.base import QUEUE_OF, LineAndModel, pick

ERRORS: tuple[StageError, ...] = (
    RetryableError("busy"),
    FatalError("bug"),
    CrashError("died"),
    OutOfMemoryError("full"),
    RefusedError("no"),
)
OUTCOMES = {
    Stage.ENHANCE: (Outcome.DONE, Outcome.SKIPPED),
    Stage.SCREEN: (Outcome.DONE, Outcome.DONE, Outcome.SKIPPED, Outcome.HELD, Outcome.BLOCKED),
}
_LONG_MS = 3_600_000


class Workers(LineAndModel):
    """Messages arrive, steps are claimed, and end in every way; attempts that are over speak up too."""

    @precondition(lambda self: self.jobs)
    @rule(number=pick, stage=st.sampled_from(Stage), queues=st.sampled_from((QUEUES, (GPU,), ("vgen.other",))))
    def message(self, number: int, stage: Stage, queues: tuple[str, ...]) -> None:
        """Any message at any time: expected, duplicate, late, of another queue, of a step that does not exist."""
        self.try_claim(list(self.jobs)[number % len(self.jobs)], stage, queues)

    @precondition(lambda self: self.dispatched())
    @rule(number=pick)
    def next_message(self, number: int) -> None:
        waiting = self.dispatched()
        self.try_claim(*waiting[number % len(waiting)], QUEUES)

    def try_claim(self, job_id: str, stage: Stage, queues: tuple[str, ...]) -> Claim | None:
        job, claimed = self.jobs[job_id], self.line.try_claim(job_id, stage, queues=queues)
        step = job.steps.get(stage)
        free = (
            step is not None
            and step.state is StepState.DISPATCHED
            and not job.cancel
            and step.queue is not None
            and step.queue in queues
            and not self.is_paused(step.queue)
            and job.batch_id not in self.paused_batches
        )
        assert (claimed is not None) == free
        if claimed is not None:
            assert step is not None
            assert (claimed.attempt, claimed.queue, claimed.work.stage) == (job.claim(stage), step.queue, stage)
            done = job.in_state(StepState.DONE, StepState.SKIPPED)
            assert set(claimed.work.outputs) == {stage.value for stage in done}
            self.claims.append(claimed)
        return claimed

    @precondition(lambda self: self.claims)
    @rule(number=pick, outcome=pick, goes_on=st.booleans())
    def finish(self, number: int, outcome: int, goes_on: bool) -> None:
        self.finish_claim(self.chosen_claim(number), outcome, goes_on)

    @precondition(lambda self: self.current())
    @rule(number=pick, goes_on=st.booleans())
    def finish_well(self, number: int, goes_on: bool) -> None:
        current = self.current()
        self.finish_claim(current[number % len(current)], 0, goes_on)

    def finish_claim(self, claimed: Claim, number: int, goes_on: bool) -> None:
        """End the step, and in the same transaction send the chain on, as a task does."""
        work, job = claimed.work, self.jobs[claimed.work.job_id]
        possible = OUTCOMES.get(work.stage, (Outcome.DONE,))
        outcome = possible[number % len(possible)]
        finished = self.line.finish(
            claimed, result_of(claimed, outcome), hop=admission.Hops(all_presets) if goes_on else None
        )
        self.told(finished.recorded, job.is_current(work.stage, claimed.attempt))
        if finished.recorded and outcome is Outcome.DONE and not (job.cancel and work.stage is not Stage.PUBLISH):
            self.ends.append((claimed.queue, claimed.step_id, work.job_id, True))
        assert (finished.recorded, finished.next_stage) == job.finish(work.stage, claimed.attempt, outcome)
        if finished.next_stage is None:
            return
        if finished.next_stage is not Stage.GENERATE:  # a GPU's line may be full
            assert (finished.queue is not None) == (goes_on and self.can_go(job, finished.next_stage))
        if finished.queue is not None:
            assert goes_on
            assert self.can_go(job, finished.next_stage)
            assert finished.queue == QUEUE_OF[finished.next_stage]
            job.dispatch(finished.next_stage, finished.queue)

    def told(self, recorded: bool, expected: bool) -> None:
        """An attempt that is not the current one is refused, and that is recorded."""
        assert recorded == expected
        self.fenced += not recorded

    @precondition(lambda self: self.claims)
    @rule(number=pick, error=st.sampled_from(ERRORS))
    def fail(self, number: int, error: StageError) -> None:
        claimed = self.chosen_claim(number)
        with self.database.transaction() as session:
            recorded = failures.fail(session, claimed, error).recorded
            # Backoffs end when `backoffs_pass` says so, however slow this machine is.
            later = update(Step).where(Step.not_before > now_ms()).values(not_before=now_ms() + _LONG_MS)
            session.execute(later)
        job = self.jobs[claimed.work.job_id]
        crashed = error.failure_class is FailureClass.CRASH
        proven, cancelled = crashed and self.proven(claimed), job.cancel
        stage, rung = claimed.work.stage, claimed.work.memory_rung
        expected = job.fail(stage, claimed.attempt, error.failure_class, proven=proven, rung=rung)
        self.told(recorded, expected)
        if crashed and recorded and not cancelled:
            self.ends.append((claimed.queue, claimed.step_id, claimed.work.job_id, False))

    def proven(self, claimed: Claim) -> bool:
        """The one worker here crashed with this step before, and did another job's on that queue since."""
        ends = [end for end in self.ends if end[0] == claimed.queue]
        crashes = [number for number, end in enumerate(ends) if end[1] == claimed.step_id and not end[3]]
        return bool(crashes) and any(done and job != claimed.work.job_id for _, _, job, done in ends[crashes[-1] :])

    @precondition(lambda self: self.claims)
    @rule(number=pick)
    def release(self, number: int) -> None:
        claimed = self.chosen_claim(number)
        with self.database.transaction() as session:
            recorded = releases.release(session, claimed).recorded
        self.told(recorded, self.jobs[claimed.work.job_id].release(claimed.work.stage, claimed.attempt))

    @precondition(lambda self: any(item.work.stage in (Stage.ENCODE, Stage.PUBLISH) for item in self.claims))
    @rule(number=pick)
    def rewind(self, number: int) -> None:
        claimed = self.chosen_claim(number, (Stage.ENCODE, Stage.PUBLISH))
        with self.database.transaction() as session:
            recorded = rewinds.rewind(session, claimed, to=Stage.GENERATE, reason="gone").recorded
        self.told(recorded, self.jobs[claimed.work.job_id].rewind(claimed.work.stage, claimed.attempt))

    @precondition(lambda self: self.claims)
    @rule(number=pick, progress=st.integers(0, 3))
    def renew(self, number: int, progress: int) -> None:
        claimed = self.chosen_claim(number)
        job = self.jobs[claimed.work.job_id]
        with self.database.transaction() as session:
            told = claims.renew(session, claimed, lease_ms=LEASE_MS, phase="denoise", step=progress, total=3)
            assert claims.look(session, claimed) == told
        assert told.held == job.is_current(claimed.work.stage, claimed.attempt)
        if told.held:
            step = job.steps[claimed.work.stage]
            step.progress, step.expired = progress, False
            paused = job.batch_id in self.paused_batches or self.is_paused(step.queue)
            assert (told.cancel, told.pause) == (job.cancel, paused)
