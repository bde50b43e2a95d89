"""Rows and model side by side, and what every rule needs to know of them."""

from __future__ import annotations

from collections.abc import Container

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from db.admission import Admitted
from db.claims import Claim
from db.session import Database
from pipeline.plan import CPU_QUEUE, IO_QUEUE, encode_queue
from pipeline.states import JobState, Stage, StepState
from tests.unit.db.line import GPU, HANDOFF, Line
from tests.unit.db.line_model import ModelJob, ModelStep

QUEUE_OF = {
    Stage.ENHANCE: IO_QUEUE,
    Stage.SCREEN: CPU_QUEUE,
    Stage.GENERATE: GPU,
    Stage.ENCODE: encode_queue(HANDOFF),
    Stage.PUBLISH: IO_QUEUE,
}
pick = st.integers(min_value=0, max_value=10**6)
"""Chooses one of what there is, by the remainder."""


class LineAndModel(RuleBasedStateMachine):
    """The rows of a line, what they should be, and the rule that gives it work."""

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

    @rule(enhanced=st.lists(st.booleans(), min_size=1, max_size=3), priority=st.integers(-1, 1))
    def submit(self, enhanced: list[bool], priority: int) -> None:
        if len(self.jobs) >= 6:
            return
        lines = [{"prompt": f"clip {n}", "enhance": on, "priority": priority} for n, on in enumerate(enhanced)]
        batch_id = self.line.submit(*lines, again=True, owner=f"owner {len(self.jobs) % 2}")
        for number, on in enumerate(enhanced):
            first = Stage.ENHANCE if on else Stage.SCREEN
            self.jobs[f"{batch_id}-{number:06d}"] = ModelJob(batch_id, {first: ModelStep()})

    def can_go(self, job: ModelJob, stage: Stage) -> bool:
        step = job.steps.get(stage)
        return (
            step is not None
            and (step.state, job.state, job.cancel, step.due) == (StepState.WAITING, JobState.WAITING, False, True)
            and job.batch_id not in self.paused_batches
            and not self.is_paused(QUEUE_OF[stage])
        )

    def is_paused(self, queue: str) -> bool:
        return any(name in ("*", queue) or queue.startswith(f"{name}.") for name in self.paused_queues)

    def in_flight(self, queue: str) -> int:
        return sum(
            QUEUE_OF[stage] == queue
            for job in self.jobs.values()
            for stage in job.in_state(StepState.DISPATCHED, StepState.RUNNING)
        )

    def dispatched(self) -> list[tuple[str, Stage]]:
        return [(key, stage) for key, job in self.jobs.items() for stage in job.in_state(StepState.DISPATCHED)]

    def current(self) -> list[Claim]:
        return [item for item in self.claims if self.jobs[item.work.job_id].is_current(item.work.stage, item.attempt)]

    def chosen_claim(self, number: int, stages: Container[Stage] = tuple(Stage)) -> Claim:
        """Mostly one that holds its lease, now and then one that lost it."""
        known, current = ([c for c in some if c.work.stage in stages] for some in (self.claims, self.current()))
        choice = current if current and number % 4 else known
        return choice[number // 4 % len(choice)]
