"""Any order of calls: after each, the rows are what a plain model says, and they keep every rule.

``VGEN_TEST_STATEMACHINE_EXAMPLES=5000`` tries so many orders, each from a seed of its own; without it the same few are
tried every time.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from db import events, invariants
from db.base import Base
from db.models import Batch, Job, Step
from db.session import Database
from pipeline.states import JobState, Stage
from tests.unit.db.line import QUEUES
from tests.unit.db.line_rules.base import pick
from tests.unit.db.line_rules.dispatchers import Dispatchers
from tests.unit.db.line_rules.people import People
from tests.unit.db.line_rules.time import Time
from tests.unit.db.line_rules.workers import Workers

EXAMPLES = int(os.environ.get("VGEN_TEST_STATEMACHINE_EXAMPLES", "0"))


class LineMachine(Dispatchers, Workers, Time, People):
    """Everything that may happen to a line, and what must be true after each of it."""

    @initialize(enhanced=st.lists(st.booleans(), min_size=2, max_size=4), moves=st.integers(0, 40))
    def start(self, enhanced: list[bool], moves: int) -> None:
        """A line at work: rules alone would seldom bring a job to its end."""
        with self.database.transaction() as session:
            for table in reversed(Base.metadata.sorted_tables):
                session.execute(delete(table))
        self.line.worker()
        self.submit(enhanced, 0)
        self.work(moves, 1)

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
