"""Rows and model side by side, and what every rule needs to know of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine

from db.scheduling.dispatch import StepMessage
from db.session import Database
from pipeline.policy.routes import CPU_QUEUE, IO_QUEUE, encode_queue
from pipeline.states import Stage, StepState
from pipeline.work import Claim
from tests.unit.db.line import GPU, HANDOFF, Line
from tests.unit.db.line_model import ModelJob
from tests.unit.db.line_values import ModelBatch, ModelStep, Place

QUEUE_OF = {
    Stage.ENHANCE: IO_QUEUE,
    Stage.SCREEN: CPU_QUEUE,
    Stage.GENERATE: GPU,
    Stage.ENCODE: encode_queue(HANDOFF),
    Stage.SCORE: encode_queue(HANDOFF),
    Stage.PUBLISH: IO_QUEUE,
}
MOST_JOBS = 5
pick = st.integers(min_value=0, max_value=10**6)
"""Chooses one of what there is, by the remainder."""
_Value = TypeVar("_Value")


class LineAndModel(RuleBasedStateMachine):
    """The rows of a line, and what they should be."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        self.line = Line(database)
        self.batches: dict[str, ModelBatch] = {}
        self.jobs: dict[str, ModelJob] = {}
        self.paused_queues: set[str] = set()
        self.claims: list[Claim] = []
        """Every claim ever made: those that are over speak up too."""
        self.fenced = 0
        self.ends: list[tuple[str, int, str, bool]] = []
        self.admitted: list[StepMessage] = []

    def step_of(self, claimed: Claim) -> ModelStep | None:
        """The step that the claim is of, while its roll is the current one."""
        job = self.jobs[claimed.work.job_id]
        return job.steps[claimed.work.segment, claimed.work.stage] if claimed.work.roll == job.roll else None

    def can_go(self, job: ModelJob, place: Place) -> bool:
        """Whether a dispatcher may send the step."""
        step = job.steps.get(place)
        return (
            step is not None
            and (step.state, step.due) == (StepState.WAITING, True)
            and job.is_open_to_work
            and self.has_way(job, place[1])
            and not (place[1] is Stage.GENERATE and job.batch.over)
        )

    def has_way(self, job: ModelJob, stage: Stage) -> bool:
        return not job.batch.paused and not self.is_paused(QUEUE_OF[stage])

    def is_paused(self, queue: str | None) -> bool:
        assert queue is not None
        return any(name in ("*", queue) or queue.startswith(f"{name}.") for name in self.paused_queues)

    def in_flight(self, queue: str) -> int:
        return sum(
            QUEUE_OF[stage] == queue
            for job in self.jobs.values()
            for _, stage in job.in_state(StepState.DISPATCHED, StepState.RUNNING)
        )

    def dispatched(self) -> list[tuple[str, Place]]:
        return [(key, place) for key, job in self.jobs.items() for place in job.in_state(StepState.DISPATCHED)]

    def is_current(self, claimed: Claim) -> bool:
        return self.jobs[claimed.work.job_id].is_current(claimed.work, claimed.attempt)

    def current(self) -> list[Claim]:
        return [item for item in self.claims if self.is_current(item)]

    def chosen_claim(self, number: int, which: Callable[[Claim], bool] = lambda claimed: True) -> Claim | None:
        """Mostly one that holds its lease, now and then one that lost it."""
        known, current = ([item for item in some if which(item)] for some in (self.claims, self.current()))
        choice = current if current and number % 4 else known
        return choice[number // 4 % len(choice)] if choice else None

    def at_once(self, *calls: Callable[[], _Value]) -> Sequence[_Value]:
        """What the calls return, each made by a thread of its own."""
        with ThreadPoolExecutor(len(calls)) as pool:
            return [future.result() for future in [pool.submit(call) for call in calls]]
