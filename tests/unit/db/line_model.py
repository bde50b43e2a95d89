"""What the row functions promise, in plain Python: jobs and steps as values, and what each call makes of them.

No SQL, no clock: time passes when a test says so. ``tests/unit/db/test_state_machine.py`` compares it with the rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.errors import FailureClass
from pipeline.memory import Rung
from pipeline.retry import MAX_LOSSES, MAX_OTHER, decide
from pipeline.stages.base import Outcome
from pipeline.states import TERMINAL_JOB_STATES, JobState, Stage, StepState, next_stage

_ORDER = list(Stage)


@dataclass
class ModelStep:
    state: StepState = StepState.WAITING
    attempt: int = 0
    errors: int = 0
    crashes: int = 0
    faults: int = 0
    losses: int = 0
    progress: int = 0
    due: bool = True
    """False during a backoff."""
    expired: bool = False
    queue: str | None = None


@dataclass
class ModelJob:
    """One job with its steps, and every attempt that was recorded for it."""

    batch_id: str
    steps: dict[Stage, ModelStep]
    state: JobState = JobState.WAITING
    cancel: bool = False
    held: bool = False
    approved: bool = False
    committed: list[Stage] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL_JOB_STATES

    def in_state(self, *states: StepState) -> list[Stage]:
        return [stage for stage in _ORDER if stage in self.steps and self.steps[stage].state in states]

    def is_current(self, stage: Stage, attempt: int) -> bool:
        step = self.steps[stage]
        return step.state is StepState.RUNNING and step.attempt == attempt

    # What workers do

    def dispatch(self, stage: Stage, queue: str) -> None:
        step = self.steps[stage]
        assert (step.state, self.state, self.cancel) == (StepState.WAITING, JobState.WAITING, False)
        step.state, step.queue, self.state = StepState.DISPATCHED, queue, JobState.IN_FLIGHT

    def claim(self, stage: Stage) -> int:
        step = self.steps[stage]
        assert (step.state, self.cancel) == (StepState.DISPATCHED, False)
        step.state, step.attempt, step.progress, step.expired = StepState.RUNNING, step.attempt + 1, 0, False
        return step.attempt

    def finish(self, stage: Stage, attempt: int, outcome: Outcome) -> tuple[bool, Stage | None]:
        """(recorded, next stage)."""
        if not self.is_current(stage, attempt):
            return False, None
        if self.cancel and stage is not Stage.PUBLISH:
            return self._stop(stage), None
        self.steps[stage].state = StepState.SKIPPED if outcome is Outcome.SKIPPED else StepState.DONE
        self.committed.append(stage)
        following = next_stage(stage)
        if outcome is Outcome.BLOCKED:
            self.state = JobState.BLOCKED
            return True, None
        if following is None:
            self.state = JobState.SUCCEEDED
            return True, None
        step = self.steps.setdefault(following, ModelStep())
        step.state, step.queue = StepState.WAITING, None
        self.state = JobState.HELD if outcome is Outcome.HELD else JobState.WAITING
        self.held |= outcome is Outcome.HELD
        return True, None if outcome is Outcome.HELD else following

    def fail(
        self, stage: Stage, attempt: int, failure: FailureClass, *, proven: bool = False, rung: Rung = Rung.PLAIN
    ) -> bool:
        if not self.is_current(stage, attempt):
            return False
        if self.cancel:
            return self._stop(stage)
        step = self.steps[stage]
        if failure is FailureClass.OUT_OF_MEMORY and stage is Stage.GENERATE:
            # Tried at once in another way, as long as there is one: the model's line has one GPU type.
            if rung is Rung.OFFLOADED:
                step.faults += 1
                return self._fail(stage)
            return self._wait(stage)
        counter = {FailureClass.CRASH: "crashes", FailureClass.RETRYABLE: "errors"}.get(failure, "faults")
        setattr(step, counter, getattr(step, counter) + 1)
        if decide(failure, getattr(step, counter), proven=proven).again:
            step.due = False
            return self._wait(stage)
        return self._fail(stage)

    def fail_for_good(self, stage: Stage, attempt: int) -> bool:
        return self.is_current(stage, attempt) and self._fail(stage)

    def release(self, stage: Stage, attempt: int) -> bool:
        if not self.is_current(stage, attempt):
            return False
        return self._stop(stage) if self.cancel else self._wait(stage)

    def rewind(self, stage: Stage, attempt: int) -> bool:
        if not self.is_current(stage, attempt):
            return False
        if self.cancel:
            return self._stop(stage)
        step = self.steps[stage]
        if step.losses + 1 >= MAX_LOSSES:
            return self._fail(stage)
        step.losses += 1
        self.make_again()
        return True

    # What reconcilers do

    def make_again(self) -> None:
        """Back to generate, since its frames are gone."""
        for stage in (Stage.ENCODE, Stage.PUBLISH):
            if stage in self.steps:
                self.steps[stage].state, self.steps[stage].queue = StepState.PENDING, None
        self._wait(Stage.GENERATE)

    def lose_lease(self, stage: Stage, *, charged: bool = True) -> None:
        step = self.steps[stage]
        step.losses += charged
        step.crashes += charged and not step.progress
        if self.cancel:
            self._stop(stage)
        elif step.losses >= MAX_LOSSES or step.crashes >= MAX_OTHER:
            self._fail(stage)
        else:
            self._wait(stage)

    def back_in_line(self, stage: Stage) -> None:
        self._wait(stage)

    # What people do

    def ask_to_stop(self) -> bool:
        if self.ended:
            return False
        self.cancel = True
        for stage in self.in_state(StepState.PENDING, StepState.WAITING, StepState.DISPATCHED):
            self.steps[stage].state = StepState.CANCELLED
        if not self.in_state(StepState.RUNNING):
            self.state = JobState.CANCELLED
        return True

    def retry(self) -> bool:
        if self.state not in (JobState.FAILED, JobState.CANCELLED):
            return False
        self.state = JobState.HELD if self.held and not self.approved else JobState.WAITING
        self.cancel = False
        for position, stage in enumerate(self.in_state(StepState.FAILED, StepState.CANCELLED)):
            step = self.steps[stage]
            step.state = StepState.PENDING if position else StepState.WAITING
            step.errors = step.crashes = step.faults = step.losses = 0
            step.due, step.queue = True, None
        return True

    def approve(self) -> bool:
        if self.state is not JobState.HELD:
            return False
        self.state, self.approved = JobState.WAITING, True
        return True

    def reject(self) -> bool:
        if self.state is not JobState.HELD:
            return False
        for stage in self.in_state(StepState.WAITING):
            self.steps[stage].state = StepState.CANCELLED
        self.state = JobState.BLOCKED
        return True

    def _wait(self, stage: Stage) -> bool:
        self.steps[stage].state, self.steps[stage].queue = StepState.WAITING, None
        self.state = JobState.WAITING
        return True

    def _stop(self, stage: Stage) -> bool:
        self.steps[stage].state, self.state = StepState.CANCELLED, JobState.CANCELLED
        return True

    def _fail(self, stage: Stage) -> bool:
        self.steps[stage].state, self.state = StepState.FAILED, JobState.FAILED
        return True
