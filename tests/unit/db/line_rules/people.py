"""What people ask of a line."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from db import control, jobs
from pipeline.states import JobState
from tests.unit.db.line import QUEUES
from tests.unit.db.line_rules.base import QUEUE_OF, LineAndModel, pick

ASKED_OF = {
    "cancel": {JobState.WAITING, JobState.HELD, JobState.IN_FLIGHT},
    "retry": {JobState.FAILED, JobState.CANCELLED},
    "approve": {JobState.HELD},
    "reject": {JobState.HELD},
}


class People(LineAndModel):
    """Jobs are cancelled, retried and judged; batches and queues paused and resumed."""

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
