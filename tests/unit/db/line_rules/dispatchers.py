"""What dispatchers do to a line."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from db import admission
from pipeline.plan import CPU_QUEUE, IO_QUEUE
from pipeline.states import Stage, StepState
from tests.unit.db.line import GPU, QUEUES
from tests.unit.db.line_rules.base import QUEUE_OF, LineAndModel, pick


class Dispatchers(LineAndModel):
    """Steps are admitted, and taken back where the broker was away."""

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
