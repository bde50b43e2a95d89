"""What workers do to a line."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from sqlalchemy import update

from db.clips import checkpoints
from db.models import Step
from db.queue import leases, outcomes
from db.scheduling.dispatch import StepMessage
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
from pipeline.states import Stage, StepState
from pipeline.work import AnyResult, CheckpointRef, Claim, ContinuationRef, Outcome, StageResult, StepWork
from tests.outputs import encoded_part, generated, recorded
from tests.unit.db.line import GPU, LEASE_MS, QUEUES, SHA, result_of
from tests.unit.db.line_rules.base import QUEUE_OF, LineAndModel, pick
from tests.unit.db.line_values import Place

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
    Stage.SCORE: (Outcome.DONE, Outcome.REJECTED),
}
_FIRST = tuple(Stage)[:3]
_LONG_MS = 3_600_000


def state_after(work: StepWork) -> ContinuationRef:
    """What the segment leaves to the next one."""
    key = f"{work.job_id}/{work.roll}/{work.segment}"
    return ContinuationRef("last_frames", 1, {"of": key}, {"frames": {"key": key, "sha256": SHA, "size": 3}})


def made_by(claimed: Claim, outcome: Outcome, sha: str) -> AnyResult:
    """What the stage hands back: with frames of that digest, and what the next segment or clip goes on from."""
    work, result = claimed.work, result_of(claimed, outcome)
    if work.stage is Stage.GENERATE:
        state = state_after(work) if work.segment < work.spec.segments - 1 else None
        return StageResult(generated(frames_sha256=sha), continuation=state)
    if work.stage is Stage.ENCODE:
        if work.segment == work.spec.segments - 1:
            return replace(result, continuation=state_after(work))
        return StageResult(encoded_part(f"media/{work.job_id}/{work.segment}.segment.mp4"))
    return result


class Workers(LineAndModel):
    """Messages arrive, steps are claimed, and end in every way; attempts that are over speak up too."""

    @precondition(lambda self: self.jobs)
    @rule(
        number=pick,
        place=st.tuples(st.integers(0, 2), st.sampled_from(Stage)),
        queues=st.sampled_from((QUEUES, (GPU,), ("vgen.other",))),
    )
    def message(self, number: int, place: Place, queues: tuple[str, ...]) -> None:
        """Any message at any time: expected, duplicate, late, of another queue, of a step that does not exist."""
        self.try_claim(list(self.jobs)[number % len(self.jobs)], place, queues)

    @precondition(lambda self: self.dispatched())
    @rule(number=pick)
    def next_message(self, number: int) -> None:
        waiting = self.dispatched()
        self.try_claim(*waiting[number % len(waiting)], QUEUES)

    @precondition(lambda self: self.dispatched())
    @rule(number=pick)
    def message_to_three(self, number: int) -> None:
        """The same message reaches three workers at once."""
        waiting = self.dispatched()
        self.try_claim(*waiting[number % len(waiting)], QUEUES, at_once=3)

    def try_claim(self, job_id: str, place: Place, queues: tuple[str, ...], *, at_once: int = 1) -> Claim | None:
        def take() -> Claim | None:
            return self.line.try_claim(job_id, place[1], queues=queues, segment=place[0])

        taken = [claimed for claimed in self.at_once(*[take] * at_once) if claimed] if at_once > 1 else [take()]
        job, claimed = self.jobs[job_id], taken[0] if taken else None
        step = job.steps.get(place)
        free = (
            step is not None
            and step.state is StepState.DISPATCHED
            and not job.cancel
            and step.queue in queues
            and not self.is_paused(step.queue)
            and not job.batch.paused
        )
        assert len(taken) <= 1
        assert (claimed is not None) == free
        if claimed is not None:
            assert step is not None
            assert (claimed.attempt, claimed.queue) == (job.claim(place), step.queue)
            assert (claimed.work.segment, claimed.work.stage, claimed.work.roll) == (*place, job.roll)
            assert recorded(claimed.work.outputs) == job.outputs(place)
            self.check_given(claimed)
            self.claims.append(claimed)
        return claimed

    def check_given(self, claimed: Claim) -> None:
        """A segment is given what the one before left, or another clip; and where an interrupted attempt got."""
        work, job = claimed.work, self.jobs[claimed.work.job_id]
        if work.stage is not Stage.GENERATE:
            assert (work.continuation, work.checkpoint) == (None, None)
            return
        assert (work.continuation is not None) == (work.segment > 0 or job.extends)
        if work.segment > 0:
            assert work.continuation is not None
            assert work.continuation.payload == {"of": f"{work.job_id}/{work.roll}/{work.segment - 1}"}
        assert (work.checkpoint is not None) == (work.segment in job.checkpoints)

    @precondition(lambda self: self.claims)
    @rule(number=pick, outcome=pick)
    def finish(self, number: int, outcome: int) -> None:
        claimed = self.chosen_claim(number)
        assert claimed is not None
        self.finish_claim(claimed, outcome)

    @precondition(lambda self: self.current())
    @rule(number=pick)
    def finish_well(self, number: int) -> None:
        current = self.current()
        self.finish_claim(current[number % len(current)], 0)

    @precondition(lambda self: self.current())
    @rule(number=pick, outcome=pick)
    def finish_twice_at_once(self, number: int, outcome: int) -> None:
        """A zombie and its successor cannot both record; here the same attempt speaks up twice at one instant."""
        current = self.current()
        self.finish_claim(current[number % len(current)], outcome, at_once=2)

    def finish_claim(self, claimed: Claim, number: int, *, at_once: int = 1) -> None:
        """End the step, and in the same transaction let its chain go on, as a task does."""
        work, job = claimed.work, self.jobs[claimed.work.job_id]
        possible = OUTCOMES.get(work.stage, (Outcome.DONE,))
        outcome, sha = possible[number % len(possible)], "ab"[number % 7 == 1] * 64

        def end() -> outcomes.Finished:
            return self.line.finish(claimed, made_by(claimed, outcome, sha))

        tries = self.at_once(*[end] * at_once) if at_once > 1 else [end()]
        finished = next((one for one in tries if one.recorded), tries[0])
        assert sum(one.recorded for one in tries) == self.is_current(claimed)
        self.fenced += sum(not one.recorded for one in tries)
        if finished.recorded and outcome is Outcome.DONE and not (job.cancel and work.stage is not Stage.PUBLISH):
            self.ends.append((claimed.queue, claimed.step_id, work.job_id, True))
        expected = job.finish(work, claimed.attempt, outcome, sha)
        assert finished.recorded == expected.recorded
        self.follow(finished, claimed, expected.follows)
        if not expected.follows:
            assert (finished.next_stage, finished.queue) == (expected.next_stage, None)

    def follow(self, finished: outcomes.Finished, claimed: Claim, follows: tuple[Place, ...]) -> None:
        """What has a way was sent on, but for a GPU's work, which the dispatcher places."""
        job = self.jobs[claimed.work.job_id]
        goes_on = [place for place in follows if place[1] is not Stage.GENERATE and self.has_way(job, place[1])]
        assert len(goes_on) <= 1
        assert finished.queue == (QUEUE_OF[goes_on[0][1]] if goes_on else None)
        for place in goes_on:
            assert (claimed.work.segment, finished.next_stage) == place
            job.dispatch(place, QUEUE_OF[place[1]])
            if claimed.work.stage is Stage.GENERATE:  # whose worker sends the next chain, and may find the broker away
                self.admitted = [StepMessage(claimed.work.job_id, *place, QUEUE_OF[place[1]])]

    def told(self, recorded: bool, expected: bool) -> None:
        """An attempt that is not the current one is refused, and that is recorded."""
        assert recorded == expected
        self.fenced += not recorded

    @precondition(lambda self: self.claims)
    @rule(number=pick, error=st.sampled_from(ERRORS))
    def fail(self, number: int, error: StageError) -> None:
        claimed = self.chosen_claim(number)
        assert claimed is not None
        with self.database.transaction() as session:
            recorded = outcomes.fail(session, claimed, error).recorded
            # Backoffs end when `backoffs_pass` says so, however slow this machine is.
            later = update(Step).where(Step.not_before > now_ms()).values(not_before=now_ms() + _LONG_MS)
            session.execute(later)
        job = self.jobs[claimed.work.job_id]
        crashed = error.failure_class is FailureClass.CRASH
        proven, cancelled = crashed and self.proven(claimed), job.cancel
        rung = claimed.work.memory_rung
        expected = job.fail(claimed.work, claimed.attempt, error.failure_class, proven=proven, rung=rung)
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
        assert claimed is not None
        with self.database.transaction() as session:
            recorded = outcomes.release(session, claimed).recorded
        self.told(recorded, self.jobs[claimed.work.job_id].release(claimed.work, claimed.attempt))

    @precondition(lambda self: self.claims)
    @rule(number=pick)
    def rewind(self, number: int) -> None:
        """What an earlier stage left is gone: of this segment, of the one that it goes on from, or of one to join."""

        def may(item: Claim) -> bool:
            return item.work.stage not in _FIRST or (item.work.stage is Stage.GENERATE and item.work.segment > 0)

        claimed = self.chosen_claim(number, may)
        if claimed is None:
            return
        work = claimed.work
        lost = work.segment
        if work.stage is Stage.GENERATE:
            lost = work.segment - 1
        elif work.stage is Stage.ENCODE and work.segment == work.spec.segments - 1:
            lost = number % work.spec.segments
        with self.database.transaction() as session:
            recorded = outcomes.rewind(session, claimed, to=Stage.GENERATE, reason="gone", segment=lost).recorded
        self.told(recorded, self.jobs[work.job_id].rewind(work, claimed.attempt, lost))

    @precondition(lambda self: any(item.work.stage is Stage.GENERATE for item in self.claims))
    @rule(number=pick)
    def save(self, number: int) -> None:
        """A checkpoint is kept of a clip that is being made."""
        claimed = self.chosen_claim(number, lambda item: item.work.stage is Stage.GENERATE)
        assert claimed is not None
        saved = CheckpointRef(1 + number % 3, 3, f"checkpoints/{number}", SHA, 1, {})
        with self.database.transaction() as session:
            kept = checkpoints.record(session, claimed, saved) is not None
        assert kept == self.jobs[claimed.work.job_id].save(claimed.work, claimed.attempt)

    @precondition(lambda self: self.claims)
    @rule(number=pick, progress=st.integers(0, 3))
    def renew(self, number: int, progress: int) -> None:
        claimed = self.chosen_claim(number)
        assert claimed is not None
        with self.database.transaction() as session:
            told = leases.renew(session, claimed, lease_ms=LEASE_MS, phase="denoise", step=progress, total=3)
            assert leases.check_control(session, claimed) == told
        job, step = self.jobs[claimed.work.job_id], self.step_of(claimed)
        assert told.held == self.is_current(claimed)
        if told.held:
            assert step is not None
            step.progress, step.expired = progress, False
            assert (told.cancel, told.pause) == (job.cancel, job.batch.paused or self.is_paused(step.queue))
