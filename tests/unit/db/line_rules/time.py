"""What time brings: leases and backoffs end, messages and hosts are lost."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from sqlalchemy import update

from db import reconciliation, workers
from db.models import Step
from pipeline.states import Stage, StepState
from tests.unit.db.line import QUEUES
from tests.unit.db.line_rules.base import QUEUE_OF, LineAndModel, pick


class Time(LineAndModel):
    """Leases run out, and what was lost is found again."""

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
