"""What time brings: leases and backoffs end, messages and hosts are lost, GPUs are used."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from sqlalchemy import update

from db import workers
from db.models import Step
from db.queue import recovery
from pipeline.states import Stage
from tests.unit.db.line import QUEUES
from tests.unit.db.line_rules.base import QUEUE_OF, LineAndModel, pick
from tests.unit.db.line_rules.people import HOUR_MS


class Time(LineAndModel):
    """Leases run out, and what was lost is found again."""

    @precondition(lambda self: self.current())
    @rule(number=pick)
    def lease_runs_out(self, number: int) -> None:
        claimed = self.current()[number % len(self.current())]
        with self.database.transaction() as session:
            session.execute(update(Step).where(Step.id == claimed.step_id).values(lease_until=1))
        step = self.step_of(claimed)
        assert step is not None
        step.expired = True

    @precondition(lambda self: self.current())
    @rule(number=pick, hours=st.integers(1, 2))
    def hours_pass_on_a_gpu(self, number: int, hours: int) -> None:
        generating = [item for item in self.current() if item.work.stage is Stage.GENERATE]
        if not generating:
            return
        claimed = generating[number % len(generating)]
        earlier = update(Step).where(Step.id == claimed.step_id).values(started_at=Step.started_at - hours * HOUR_MS)
        with self.database.transaction() as session:
            session.execute(earlier)
        step = self.step_of(claimed)
        assert step is not None
        step.hours += hours

    @precondition(lambda self: self.claims)
    @rule(solo_run=st.sampled_from((False, False, True)))
    def end_leases(self, solo_run: bool) -> None:
        with self.database.transaction() as session:
            ended = recovery.end_leases(session, all_of_them=solo_run)
        over = [item for item in self.current() if solo_run or getattr(self.step_of(item), "expired", False)]
        assert ended == len(over)
        for claimed in sorted(over, key=lambda item: item.step_id):
            if self.is_current(claimed):  # the end of another may have set it aside
                work = claimed.work
                self.jobs[work.job_id].lose_lease((work.segment, work.stage), charged=not solo_run)

    @precondition(lambda self: self.dispatched())
    @rule(queue=st.sampled_from(QUEUES))
    def messages_lost(self, queue: str) -> None:
        with self.database.transaction() as session:
            counts = recovery.dispatched_counts(session, older_than_ms=-1_000)
            again = recovery.redispatch(session, [queue], older_than_ms=-1_000)
        lost = [(key, place) for key, place in self.dispatched() if QUEUE_OF[place[1]] == queue]
        assert counts.get(queue, (0, 0)) == (len(lost), len(lost))
        assert again == len(lost)
        for key, place in lost:
            self.jobs[key].back_in_line(place)

    @precondition(lambda self: self.dispatched())
    @rule()
    def host_with_frames_lost(self) -> None:
        with self.database.transaction() as session:
            workers.leave(session, "w1")
            recovery.move_lost_scores(session, gone_ms=-1_000)
            recovery.rewind_lost_handoffs(session, gone_ms=-1_000)
        self.line.worker()
        for key, (segment, stage) in self.dispatched():
            if stage is Stage.SCORE:
                self.jobs[key].back_in_line((segment, stage))
            elif stage is Stage.ENCODE:
                self.jobs[key].make_again(segment)

    @rule()
    def backoffs_pass(self) -> None:
        with self.database.transaction() as session:
            session.execute(update(Step).values(not_before=0))
        for job in self.jobs.values():
            for step in job.steps.values():
                step.due = True
