"""Any order of calls: after each, the rows are what a plain model says, and they keep every rule.

``VGEN_TEST_STATEMACHINE_EXAMPLES=5000`` tries so many orders, each from a seed of its own; without it the same few are
tried every time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Container
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from db import (
    admission,
    claims,
    control,
    events,
    failures,
    invariants,
    jobs,
    reconciliation,
    releases,
    rewinds,
    workers,
)
from db.admission import Admitted
from db.base import Base
from db.claims import Claim
from db.models import Batch, Job, Step
from db.session import Database, now_ms
from pipeline.errors import (
    CrashError,
    FailureClass,
    FatalError,
    OutOfMemoryError,
    RefusedError,
    RetryableError,
    StageError,
)
from pipeline.plan import CPU_QUEUE, IO_QUEUE, encode_queue
from pipeline.presets import all_presets
from pipeline.stages.base import Outcome
from pipeline.states import JobState, Stage, StepState
from tests.unit.db.line import GPU, HANDOFF, LEASE_MS, QUEUES, Line, result_of
from tests.unit.db.line_model import ModelJob, ModelStep

EXAMPLES = int(os.environ.get("VGEN_TEST_STATEMACHINE_EXAMPLES", "0"))
ERRORS: tuple[StageError, ...] = (
    RetryableError("busy"),
    FatalError("bug"),
    CrashError("died"),
    OutOfMemoryError("full"),
    RefusedError("no"),
)
QUEUE_OF = {
    Stage.ENHANCE: IO_QUEUE,
    Stage.SCREEN: CPU_QUEUE,
    Stage.GENERATE: GPU,
    Stage.ENCODE: encode_queue(HANDOFF),
    Stage.PUBLISH: IO_QUEUE,
}
OUTCOMES = {
    Stage.ENHANCE: (Outcome.DONE, Outcome.SKIPPED),
    Stage.SCREEN: (Outcome.DONE, Outcome.DONE, Outcome.SKIPPED, Outcome.HELD, Outcome.BLOCKED),
}
ASKED_OF = {
    "cancel": {JobState.WAITING, JobState.HELD, JobState.IN_FLIGHT},
    "retry": {JobState.FAILED, JobState.CANCELLED},
    "approve": {JobState.HELD},
    "reject": {JobState.HELD},
}
_LONG_MS = 3_600_000
pick = st.integers(min_value=0, max_value=10**6)
"""Chooses one of what there is, by the remainder."""


class LineMachine(RuleBasedStateMachine):
    """Rows and model side by side."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        self.line = Line(database)
        self.jobs: dict[str, ModelJob] = {}
        self.paused_batches: set[str] = set()
        self.paused_queues: set[str] = set()
        self.claims: list[Claim] = []
        """Every claim ever made: those that are over speak up too."""
        self.fenced = 0
        self.ends: list[tuple[str, int, str, bool]] = []
        self.admitted: list[Admitted] = []

    # Given

    @initialize(enhanced=st.lists(st.booleans(), min_size=2, max_size=4), moves=st.integers(0, 40))
    def start(self, enhanced: list[bool], moves: int) -> None:
        """A line at work: rules alone would seldom bring a job to its end."""
        with self.database.transaction() as session:
            for table in reversed(Base.metadata.sorted_tables):
                session.execute(delete(table))
        self.line.worker()
        self.submit(enhanced, 0)
        self.work(moves, 1)

    @rule(enhanced=st.lists(st.booleans(), min_size=1, max_size=3), priority=st.integers(-1, 1))
    def submit(self, enhanced: list[bool], priority: int) -> None:
        if len(self.jobs) >= 6:
            return
        lines = [{"prompt": f"clip {n}", "enhance": on, "priority": priority} for n, on in enumerate(enhanced)]
        batch_id = self.line.submit(*lines, again=True, owner=f"owner {len(self.jobs) % 2}")
        for number, on in enumerate(enhanced):
            first = Stage.ENHANCE if on else Stage.SCREEN
            self.jobs[f"{batch_id}-{number:06d}"] = ModelJob(batch_id, {first: ModelStep()})

    # Dispatchers

    def can_go(self, job: ModelJob, stage: Stage) -> bool:
        step = job.steps.get(stage)
        return (
            step is not None
            and (step.state, job.state, job.cancel, step.due) == (StepState.WAITING, JobState.WAITING, False, True)
            and job.batch_id not in self.paused_batches
            and not self.is_paused(QUEUE_OF[stage])
        )

    @precondition(lambda self: self.jobs)
    @rule(window=st.integers(1, 4))
    def admit(self, window: int) -> None:
        self.line.worker()  # it reports itself every few seconds
        ready = {(job_id, stage) for job_id, job in self.jobs.items() for stage in job.steps if self.can_go(job, stage)}
        before = {queue: self.in_flight(queue) for queue in QUEUES}
        self.admitted = self.line.admit(window=window)
        chosen = {(item.job_id, item.stage) for item in self.admitted}
        assert len(chosen) == len(self.admitted)
        assert chosen <= ready
        for item in self.admitted:
            assert (item.segment, item.queue) == (0, QUEUE_OF[item.stage])
            self.jobs[item.job_id].dispatch(item.stage, item.queue)
        for queue in (CPU_QUEUE, IO_QUEUE):  # as many as there is room for, and no more
            wanted = sum(QUEUE_OF[stage] == queue for _, stage in ready)
            assert self.in_flight(queue) == max(before[queue], min(before[queue] + wanted, window))
        # Encode is bounded by the hand-off's size, and by what one look takes; an idle GPU is given something.
        encoded, encodable = (sum(stage is Stage.ENCODE for _, stage in some) for some in (chosen, ready))
        assert encoded == min(window, encodable)
        if any(stage is Stage.GENERATE for _, stage in ready) and not before[GPU]:
            assert self.in_flight(GPU)

    def is_paused(self, queue: str) -> bool:
        return any(name in ("*", queue) or queue.startswith(f"{name}.") for name in self.paused_queues)

    def in_flight(self, queue: str) -> int:
        return sum(
            QUEUE_OF[stage] == queue
            for job in self.jobs.values()
            for stage in job.in_state(StepState.DISPATCHED, StepState.RUNNING)
        )

    @precondition(lambda self: self.admitted)
    @rule(number=pick)
    def undispatch(self, number: int) -> None:
        """The broker was away: some of what the last look admitted is taken back, whatever became of it since."""
        items = self.admitted[: 1 + number % len(self.admitted)]
        with self.database.transaction() as session:
            admission.undispatch(session, items)
        for item in items:
            if self.jobs[item.job_id].steps[item.stage].state is StepState.DISPATCHED:
                self.jobs[item.job_id].back_in_line(item.stage)

    # Workers

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

    def dispatched(self) -> list[tuple[str, Stage]]:
        return [(key, stage) for key, job in self.jobs.items() for stage in job.in_state(StepState.DISPATCHED)]

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

    def current(self) -> list[Claim]:
        return [item for item in self.claims if self.jobs[item.work.job_id].is_current(item.work.stage, item.attempt)]

    def chosen_claim(self, number: int, stages: Container[Stage] = tuple(Stage)) -> Claim:
        """Mostly one that holds its lease, now and then one that lost it."""
        known, current = ([c for c in some if c.work.stage in stages] for some in (self.claims, self.current()))
        choice = current if current and number % 4 else known
        return choice[number // 4 % len(choice)]

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

    @precondition(lambda self: self.jobs)
    @rule(moves=st.integers(1, 12), number=pick)
    def work(self, moves: int, number: int) -> None:
        """The line goes on for a while: messages are claimed, steps finished, more admitted."""
        for move in range(moves):
            choice, current, waiting = number * (move + 1), self.current(), self.dispatched()
            if current and choice % 3:
                self.finish_claim(current[choice % len(current)], 0, choice % 2 == 0)
            elif waiting:
                self.try_claim(*waiting[choice % len(waiting)], QUEUES)
            else:
                self.admit(1 + choice % 4)

    # Time and what it brings

    @precondition(lambda self: self.claims)
    @rule(number=pick)
    def lease_runs_out(self, number: int) -> None:
        claimed = self.chosen_claim(number)
        step = self.jobs[claimed.work.job_id].steps[claimed.work.stage]
        if step.state is StepState.RUNNING:
            with self.database.transaction() as session:
                session.execute(update(Step).where(Step.id == claimed.step_id).values(lease_until=1))
            step.expired = True

    @precondition(lambda self: self.claims)
    @rule(solo_run=st.sampled_from((False, False, True)))
    def end_leases(self, solo_run: bool) -> None:
        with self.database.transaction() as session:
            ended = reconciliation.end_leases(session, all_of_them=solo_run)
        over = [
            (job, stage)
            for job in self.jobs.values()
            for stage in job.in_state(StepState.RUNNING)
            if solo_run or job.steps[stage].expired
        ]
        assert ended == len(over)
        for job, stage in over:
            job.lose_lease(stage, charged=not solo_run)

    @precondition(lambda self: self.dispatched())
    @rule(queue=st.sampled_from(QUEUES))
    def messages_lost(self, queue: str) -> None:
        with self.database.transaction() as session:
            counts = reconciliation.dispatched_counts(session, older_than_ms=-1_000)
            again = reconciliation.redispatch(session, [queue], older_than_ms=-1_000)
        lost = [(key, stage) for key, stage in self.dispatched() if QUEUE_OF[stage] == queue]
        assert counts.get(queue, (0, 0)) == (len(lost), len(lost))
        assert again == len(lost)
        for key, stage in lost:
            self.jobs[key].back_in_line(stage)

    @precondition(lambda self: self.dispatched())
    @rule()
    def host_with_frames_lost(self) -> None:
        with self.database.transaction() as session:
            workers.leave(session, "w1")
            reconciliation.rewind_lost_handoffs(session, gone_ms=-1_000)
        self.line.worker()
        for key, stage in self.dispatched():
            if stage is Stage.ENCODE:
                self.jobs[key].make_again()

    @rule()
    def backoffs_pass(self) -> None:
        with self.database.transaction() as session:
            session.execute(update(Step).values(not_before=0))
        for job in self.jobs.values():
            for step in job.steps.values():
                step.due = True

    # People

    @precondition(lambda self: self.jobs)
    @rule(number=pick, verb=st.sampled_from(("cancel", "retry", "retry", "approve", "approve", "reject")))
    def ask(self, number: int, verb: str) -> None:
        applies = [key for key, job in self.jobs.items() if job.state in ASKED_OF[verb]]
        choice = applies if applies and number % 4 else list(self.jobs)  # mostly those to whom it applies
        job_id = choice[number // 4 % len(choice)]
        job = self.jobs[job_id]
        with self.database.transaction() as session:
            match verb:
                case "cancel":
                    done, expected = jobs.cancel(session, job_id), job.ask_to_stop()
                case "retry":
                    done, expected = jobs.retry(session, job_id), job.retry()
                case "approve":
                    done, expected = jobs.approve(session, job_id, by="ada"), job.approve()
                case _:
                    done, expected = jobs.reject(session, job_id, by="ada"), job.reject()
        assert done == expected

    @precondition(lambda self: self.jobs)
    @rule(number=pick, paused=st.booleans())
    def pause_batch(self, number: int, paused: bool) -> None:
        batch_id = list(self.jobs.values())[number % len(self.jobs)].batch_id
        change = control.pause_batch if paused else control.resume_batch
        with self.database.transaction() as session:
            assert change(session, batch_id, by="ada") == (paused != (batch_id in self.paused_batches))
        (self.paused_batches.add if paused else self.paused_batches.discard)(batch_id)

    @rule(queue=st.sampled_from((*QUEUES, "vgen.gpu", "*")), paused=st.sampled_from((True, False, False, False)))
    def pause_queue(self, queue: str, paused: bool) -> None:
        change = control.pause_queue if paused else control.resume_queue
        with self.database.transaction() as session:
            assert change(session, queue, by="ada") == (paused != (queue in self.paused_queues))
        (self.paused_queues.add if paused else self.paused_queues.discard)(queue)

    @precondition(lambda self: self.paused_batches or self.paused_queues)
    @rule()
    def withdraw(self) -> None:
        with self.database.transaction() as session:
            taken_back = control.withdraw(session)
        paused = [
            (key, stage)
            for key, stage in self.dispatched()
            if self.is_paused(QUEUE_OF[stage]) or self.jobs[key].batch_id in self.paused_batches
        ]
        assert taken_back == len(paused)
        for key, stage in paused:
            self.jobs[key].back_in_line(stage)

    # Then

    @invariant()
    def rows_are_what_the_model_says(self) -> None:
        with self.database.reading() as session:
            found = _rows(session)
            active = {row.id: row.active for row in session.execute(select(Batch.id, Batch.active))}
            fenced = sum(event.kind == "fenced" for key in self.jobs for event in events.of_job(session, key))
            broken = invariants.violations_in(session)
        assert found == {
            key: (
                job.state,
                job.cancel,
                {
                    stage: (step.state, step.attempt, step.errors, step.crashes, step.faults, step.losses)
                    for stage, step in job.steps.items()
                },
            )
            for key, job in self.jobs.items()
        }
        assert broken == []
        assert fenced == self.fenced
        assert active == {
            job.batch_id: any(not other.ended for other in self.jobs.values() if other.batch_id == job.batch_id)
            for job in self.jobs.values()
        }

    def teardown(self) -> None:
        """Whatever happened: once nothing is in the way, every job ends, and within a bounded number of moves."""
        if sys.exc_info()[0] is not None:  # it is told already what went wrong
            return
        for queue in set(self.paused_queues):
            self.pause_queue(queue, False)
        for batch_id in set(self.paused_batches):
            number = next(n for n, job in enumerate(self.jobs.values()) if job.batch_id == batch_id)
            self.pause_batch(number, False)
        for number, job in enumerate(list(self.jobs.values())):
            if job.state is JobState.HELD:
                self.ask(4 * number, "approve")
        for claimed in self.current():
            with self.database.transaction() as session:
                session.execute(update(Step).where(Step.id == claimed.step_id).values(lease_until=1))
            self.jobs[claimed.work.job_id].steps[claimed.work.stage].expired = True
        self.end_leases(False)
        for _ in range(len(self.jobs) * len(Stage)):
            if all(job.ended for job in self.jobs.values()):
                break
            self.backoffs_pass()
            self.admit(4)
            for job_id, stage in self.dispatched():
                claimed = self.try_claim(job_id, stage, QUEUES)
                assert claimed is not None
                self.finish_claim(claimed, 0, False)
        assert all(job.ended for job in self.jobs.values())
        self.rows_are_what_the_model_says()


def _rows(session: Session) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for job_id, state, cancel in session.execute(select(Job.id, Job.state, Job.cancel_requested)):
        found[job_id] = (state, cancel, {})
    columns = (Step.job_id, Step.stage, Step.state, Step.attempt, Step.errors, Step.crashes, Step.faults, Step.losses)
    for job_id, stage, *values in session.execute(select(*columns)):
        found[job_id][2][stage] = tuple(values)
    return found


def test_any_order_of_calls_leaves_what_the_model_says(database: Database) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: LineMachine(database),
        settings=settings(
            max_examples=EXAMPLES or 10,
            stateful_step_count=40,
            deadline=None,
            database=None,
            derandomize=not EXAMPLES,
            print_blob=True,
            phases=(Phase.generate,),  # to look for a shorter order takes longer than a test may
            suppress_health_check=list(HealthCheck),
        ),
    )
