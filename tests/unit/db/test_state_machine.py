"""Any order of calls: after each, the rows are what a plain model says, and they keep every rule.

``VGEN_TEST_STATEMACHINE_EXAMPLES=5000`` tries so many orders, each from a seed of its own; without it the same few are
tried every time: most of them on SQLite, since what differs on PostgreSQL is the statements and not their order.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from db import invariants
from db.base import Base
from db.models import Batch, Checkpoint, Event, Job, Step
from db.session import Database
from pipeline.states import JobState, Stage
from tests.moves import watched
from tests.unit.db.line import QUEUES
from tests.unit.db.line_rules.base import pick
from tests.unit.db.line_rules.dispatchers import Dispatchers
from tests.unit.db.line_rules.people import People, clips, hours, rerolls
from tests.unit.db.line_rules.time import Time
from tests.unit.db.line_rules.workers import Workers

EXAMPLES = int(os.environ.get("VGEN_TEST_STATEMACHINE_EXAMPLES", "0"))


class LineMachine(Dispatchers, Workers, Time, People):
    """Everything that may happen to a line, and what must be true after each of it."""

    @initialize(some=st.lists(clips, min_size=1, max_size=3), reroll=rerolls, limit=hours, moves=st.integers(0, 40))
    def start(self, some: list[tuple[bool, int]], reroll: int | None, limit: int | None, moves: int) -> None:
        """A line at work: rules alone would seldom bring a job to its end."""
        with self.database.transaction() as session:
            for table in reversed(Base.metadata.sorted_tables):
                session.execute(delete(table))
        self.line.worker()
        self.submit(some, reroll, limit, 0)
        self.work(moves, 1)

    @precondition(lambda self: self.jobs)
    @rule(moves=st.integers(1, 12), number=pick)
    def work(self, moves: int, number: int) -> None:
        """The line goes on for a while: messages are claimed, steps finished, more admitted."""
        for move in range(moves):
            choice, current, waiting = number * (move + 1), self.current(), self.dispatched()
            if current and choice % 3:
                claimed = current[choice % len(current)]
                rejected = claimed.work.stage is Stage.SCORE and choice % 5 == 1
                self.finish_claim(claimed, int(rejected))
            elif waiting:
                self.try_claim(*waiting[choice % len(waiting)], QUEUES)
            else:
                self.admit(1 + choice % 4)

    @invariant()
    def rows_are_what_the_model_says(self) -> None:
        with self.database.reading() as session:
            assert _jobs(session) == {
                key: (job.state, job.cancel, job.roll, frozenset(job.checkpoints)) for key, job in self.jobs.items()
            }
            assert _steps(session) == {
                (key, roll, *place): (step.state, step.attempt, step.errors, step.crashes, step.faults, step.losses)
                for key, job in self.jobs.items()
                for (roll, place), step in [
                    *job.past.items(),
                    *(((job.roll, at), one) for at, one in job.steps.items()),
                ]
            }
            assert _batches(session) == {
                key: (not all(job.ended for job in self.jobs.values() if job.batch_id == key), batch.over)
                for key, batch in self.batches.items()
            }
            assert session.scalar(select(func.count(Event.id)).where(Event.kind == "fenced")) == self.fenced
            assert invariants.violations_in(session) == []

    def teardown(self) -> None:
        """Whatever happened: once nothing is in the way, every job ends, and within a bounded number of moves."""
        if sys.exc_info()[0] is not None:  # it is told already what went wrong
            return
        self.clear_the_way()
        for _ in range(sum(len(Stage) * job.segments for job in self.jobs.values())):
            if all(job.ended for job in self.jobs.values()):
                break
            self.backoffs_pass()
            self.admit(4)
            for job_id, place in self.dispatched():
                claimed = self.try_claim(job_id, place, QUEUES)
                assert claimed is not None
                self.finish_claim(claimed, 0)
        assert all(job.ended for job in self.jobs.values())
        self.rows_are_what_the_model_says()

    def clear_the_way(self) -> None:
        """No pause, no budget, nobody whose word is awaited, no worker that holds a step."""
        for queue in set(self.paused_queues):
            self.pause_queue(queue, False)
        for number in range(len(self.batches)):
            self.pause_batch(number, False)
            self.set_budget(number, None, False)
        for number, job in enumerate(list(self.jobs.values())):
            if job.state is JobState.HELD:
                self.ask(4 * number, "approve")
        for number in reversed(range(len(self.current()))):
            self.lease_runs_out(number)
        self.end_leases(False)


def _jobs(session: Session) -> dict[str, Any]:
    saved: dict[str, set[int]] = {}
    for job_id, roll, segment in session.execute(select(Checkpoint.job_id, Checkpoint.roll, Checkpoint.segment)):
        saved.setdefault(f"{job_id} {roll}", set()).add(segment)
    rows = session.execute(select(Job.id, Job.state, Job.cancel_requested, Job.roll))
    return {key: (state, cancel, roll, frozenset(saved.get(f"{key} {roll}", ()))) for key, state, cancel, roll in rows}


def _steps(session: Session) -> dict[Any, Any]:
    columns = (Step.state, Step.attempt, Step.errors, Step.crashes, Step.faults, Step.losses)
    rows = session.execute(select(Step.job_id, Step.roll, Step.segment, Step.stage, *columns))
    return {tuple(row[:4]): tuple(row[4:]) for row in rows}


def _batches(session: Session) -> dict[str, Any]:
    return {
        row.id: (row.active, row.over_budget)
        for row in session.execute(select(Batch.id, Batch.active, Batch.over_budget))
    }


def test_any_order_of_calls_leaves_what_the_model_says(database: Database) -> None:
    with watched(database):
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            lambda: LineMachine(database),
            settings=settings(
                max_examples=EXAMPLES or (8 if database.is_sqlite else 5),
                stateful_step_count=40,
                deadline=None,
                database=None,
                derandomize=not EXAMPLES,
                print_blob=True,
                phases=(Phase.generate,),  # to look for a shorter order takes longer than a test may
                suppress_health_check=list(HealthCheck),
            ),
        )
