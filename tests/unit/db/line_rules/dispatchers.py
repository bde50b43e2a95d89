"""What dispatchers do to a line."""

from __future__ import annotations

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from db.scheduling import dispatch
from pipeline.policy.routes import CPU_QUEUE, IO_QUEUE
from pipeline.states import Stage, StepState
from tests.unit.db.line import GPU, QUEUES
from tests.unit.db.line_rules.base import QUEUE_OF, LineAndModel, pick


class Dispatchers(LineAndModel):
    """Steps are admitted, and taken back where the broker was away."""

    @precondition(lambda self: self.jobs)
    @rule(window=st.integers(1, 4))
    def admit(self, window: int) -> None:
        self.line.worker()  # it reports itself every few seconds
        ready = {
            (job_id, *place) for job_id, job in self.jobs.items() for place in job.steps if self.can_go(job, place)
        }
        before = {queue: self.in_flight(queue) for queue in QUEUES}
        self.admitted = self.line.admit(window=window)
        chosen = {(item.job_id, item.segment, item.stage) for item in self.admitted}
        assert len(chosen) == len(self.admitted)
        assert chosen <= ready
        for item in self.admitted:
            job = self.jobs[item.job_id]
            assert (item.queue, item.scored) == (QUEUE_OF[item.stage], job.batch.reroll is not None)
            assert item.last_segment == (item.stage is not Stage.ENCODE or item.segment == job.last)
            job.dispatch((item.segment, item.stage), item.queue)
        for queue in (CPU_QUEUE, IO_QUEUE):  # as many as there is room for, and no more
            wanted = sum(QUEUE_OF[stage] == queue for *_, stage in ready)
            assert self.in_flight(queue) == max(before[queue], min(before[queue] + wanted, window))
        # Encode and score are bounded by the hand-off's size, and by what one look takes.
        sent, could = (Counter(stage for *_, stage in some) for some in (chosen, ready))
        for stage in (Stage.ENCODE, Stage.SCORE):
            assert sent[stage] == min(window, could[stage])
        # An idle GPU is given something.
        if could[Stage.GENERATE] and not before[GPU]:
            assert self.in_flight(GPU)

    @precondition(lambda self: self.jobs)
    @rule(window=st.integers(1, 4))
    def two_admit(self, window: int) -> None:
        """Two dispatchers at once send no step twice."""
        self.line.worker()

        def look() -> list[dispatch.StepMessage]:
            return self.line.admit(window=window)

        self.admitted = [item for found in self.at_once(look, look) for item in found]
        for item in self.admitted:
            job = self.jobs[item.job_id]
            assert self.can_go(job, (item.segment, item.stage))
            job.dispatch((item.segment, item.stage), item.queue)

    @precondition(lambda self: self.admitted)
    @rule(number=pick)
    def undispatch(self, number: int) -> None:
        """The broker was away: some of what the last look admitted is taken back, whatever became of it since."""
        items = self.admitted[: 1 + number % len(self.admitted)]
        with self.database.transaction() as session:
            dispatch.undispatch(session, items)
        for item in items:
            step = self.jobs[item.job_id].steps.get((item.segment, item.stage))
            if step is not None and step.state is StepState.DISPATCHED:
                self.jobs[item.job_id].back_in_line((item.segment, item.stage))
