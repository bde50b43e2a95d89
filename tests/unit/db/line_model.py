"""What the row functions promise, in plain Python: jobs and steps as values, and what each call makes of them.

No SQL, no clock: time passes when a test says so. ``tests/unit/db/test_state_machine.py`` compares it with the rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.errors import FailureClass
from pipeline.policy.memory_ladder import Rung
from pipeline.policy.retry import MAX_LOSSES, MAX_OTHER, decide
from pipeline.states import TERMINAL_JOB_STATES, JobState, Stage, StepState, next_stage
from pipeline.work import Outcome, StepWork
from tests.unit.db.line_values import Ended, ModelBatch, ModelStep, Place, place_of

_ORDER = list(Stage)
_GENERATE = _ORDER.index(Stage.GENERATE)
_OPEN = (StepState.WAITING, StepState.DISPATCHED, StepState.RUNNING)
_LIVE = (StepState.DISPATCHED, StepState.RUNNING)
_MADE = (StepState.DONE, StepState.SKIPPED)


@dataclass
class ModelJob:
    """One job with its steps of each roll."""

    batch_id: str
    batch: ModelBatch
    segments: int
    extends: bool
    steps: dict[Place, ModelStep]
    """Of the current roll."""
    roll: int = 1
    past: dict[tuple[int, Place], ModelStep] = field(default_factory=dict)
    """Steps of rejected rolls."""
    state: JobState = JobState.WAITING
    cancel: bool = False
    held: bool = False
    approved: bool = False
    turned_down: bool = False
    """It failed because the gate rejected its last roll."""
    frames: dict[int, str] = field(default_factory=dict)
    """The digest that each segment's frames had last, in this roll."""
    checkpoints: set[int] = field(default_factory=set)
    """Segments of this roll that would go on from a saved state."""

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL_JOB_STATES

    @property
    def every_step(self) -> dict[tuple[int, Place], ModelStep]:
        """Of every roll."""
        return {**self.past, **{(self.roll, place): step for place, step in self.steps.items()}}

    @property
    def is_open_to_work(self) -> bool:
        return self.state in (JobState.WAITING, JobState.IN_FLIGHT) and not self.cancel

    @property
    def last(self) -> int:
        return self.segments - 1

    def in_state(self, *states: StepState) -> list[Place]:
        return [place for place in self._places() if self.steps[place].state in states]

    def is_current(self, work: StepWork, attempt: int) -> bool:
        step = self.steps.get(place_of(work))
        return (
            step is not None and work.roll == self.roll and step.state is StepState.RUNNING and step.attempt == attempt
        )

    def _places(self) -> list[Place]:
        return sorted(self.steps, key=lambda place: (place[0], _ORDER.index(place[1])))

    # What workers do

    def dispatch(self, place: Place, queue: str) -> None:
        step = self.steps[place]
        assert (step.state, self.is_open_to_work) == (StepState.WAITING, True)
        step.state, step.queue, self.state = StepState.DISPATCHED, queue, JobState.IN_FLIGHT

    def claim(self, place: Place) -> int:
        step = self.steps[place]
        assert (step.state, self.cancel) == (StepState.DISPATCHED, False)
        step.state, step.attempt, step.progress, step.expired = StepState.RUNNING, step.attempt + 1, 0, False
        step.hours = 0
        return step.attempt

    def outputs(self, place: Place) -> set[str]:
        """The stages whose outputs a claim of this step is given."""
        mine = [where for where in self.in_state(*_MADE) if where[0] == place[0]]
        of_clip = [where for where in self.in_state(*_MADE) if where[1] in (Stage.ENHANCE, Stage.SCREEN)]
        return {stage.value for _, stage in (*mine, *of_clip)}

    def finish(self, work: StepWork, attempt: int, outcome: Outcome, sha: str) -> Ended:
        if not self.is_current(work, attempt):
            return Ended(False)
        place = place_of(work)
        segment, stage = place
        if self.cancel and stage is not Stage.PUBLISH:
            return Ended(self._stop(place))
        self._leave(place, StepState.SKIPPED if outcome is Outcome.SKIPPED else StepState.DONE)
        if outcome is Outcome.REJECTED:
            return self._turn_down(place)
        if outcome is Outcome.BLOCKED:
            return self._conclude(JobState.BLOCKED)
        if stage is Stage.GENERATE:
            self._record_frames(segment, sha)
        if self.segments > 1 and (stage is Stage.GENERATE or (stage is Stage.ENCODE and segment != self.last)):
            return self._finish_segment(place)
        following = next_stage(stage, scored=self.batch.reroll is not None)
        if following is None:
            return self._conclude(JobState.SUCCEEDED)
        self._queue((segment, following))
        if outcome is Outcome.HELD:
            self.state, self.held = JobState.HELD, True
            self._keep_back()
            return Ended(True)
        self._settle()
        return Ended(True, following, ((segment, following),))

    def _turn_down(self, place: Place) -> Ended:
        assert self.batch.reroll is not None
        if self.roll <= self.batch.reroll:
            self._next_roll()
            self._settle()
            return Ended(True, Stage.GENERATE)
        self.steps[place].state, self.turned_down = StepState.FAILED, True
        return self._conclude(JobState.FAILED)

    def _next_roll(self) -> None:
        for place, step in self.steps.items():
            if step.state is StepState.PENDING:  # of a pass that was begun again, and will not come there
                step.state = StepState.CANCELLED
            self.past[self.roll, place] = step
        carried = {
            place: ModelStep(step.state)
            for place, step in self.steps.items()
            if place[1] in (Stage.ENHANCE, Stage.SCREEN) and step.state in _MADE
        }
        self.roll, self.frames, self.checkpoints = self.roll + 1, {}, set()
        self.steps = {**carried, (0, Stage.GENERATE): ModelStep()}

    def _record_frames(self, segment: int, sha: str) -> None:
        """What went on from other frames than these is made again."""
        was, self.frames[segment] = self.frames.get(segment), sha
        if segment != self.last and was not in (None, sha):
            later = [place for place in self.steps if place[0] > segment]
            self._set_aside(place for place in later if self.steps[place].state in (*_OPEN, StepState.DONE))

    def _finish_segment(self, place: Place) -> Ended:
        segment, stage = place
        follows: list[Place] = []
        if stage is Stage.GENERATE:
            if segment != self.last or all(self._is_done((other, Stage.ENCODE)) for other in range(segment)):
                follows.append((segment, Stage.ENCODE))
            else:
                self.steps.setdefault((segment, Stage.ENCODE), ModelStep(StepState.PENDING))
            after = (segment + 1, Stage.GENERATE)
            if segment != self.last and (after not in self.steps or self.steps[after].state is StepState.PENDING):
                follows.append(after)
            for one in follows:
                self._queue(one)
        else:
            self._unblock()
        self._settle()
        return Ended(True, follows=tuple(follows))

    def _queue(self, place: Place) -> None:
        step = self.steps.setdefault(place, ModelStep(StepState.PENDING))
        assert step.state is StepState.PENDING
        step.state, step.queue = StepState.WAITING, None

    def _is_done(self, place: Place) -> bool:
        return place in self.steps and self.steps[place].state in _MADE

    def _unblock(self) -> None:
        """Set those steps waiting that waited for another segment's."""
        due = []
        for segment, stage in self.in_state(StepState.PENDING):
            if stage is Stage.GENERATE:
                needed = {(segment - 1, Stage.GENERATE) if segment else (0, Stage.SCREEN)}
            elif stage is Stage.ENCODE:
                others = range(segment) if segment == self.last else ()
                needed = {(segment, Stage.GENERATE), *((other, Stage.ENCODE) for other in others)}
            else:
                continue
            if all(map(self._is_done, needed)):
                due.append((segment, stage))
        for place in due:
            self._queue(place)

    def fail(
        self, work: StepWork, attempt: int, failure: FailureClass, *, proven: bool = False, rung: Rung = Rung.PLAIN
    ) -> bool:
        if not self.is_current(work, attempt):
            return False
        place = place_of(work)
        if self.cancel:
            return self._stop(place)
        step = self.steps[place]
        if failure is FailureClass.OUT_OF_MEMORY and work.stage is Stage.GENERATE:
            # Tried at once in another way, as long as there is one: the model's line has one GPU type.
            if rung is Rung.OFFLOADED:
                step.faults += 1
                return self._fail(place)
            return self._wait(place)
        counter = {FailureClass.CRASH: "crashes", FailureClass.RETRYABLE: "errors"}.get(failure, "faults")
        setattr(step, counter, getattr(step, counter) + 1)
        if decide(failure, getattr(step, counter), proven=proven).again:
            step.due = False
            return self._wait(place)
        return self._fail(place)

    def release(self, work: StepWork, attempt: int) -> bool:
        if not self.is_current(work, attempt):
            return False
        place = place_of(work)
        self.steps[place].due = True
        return self._stop(place) if self.cancel else self._wait(place)

    def rewind(self, work: StepWork, attempt: int, segment: int) -> bool:
        """The frames of that segment are gone."""
        if not self.is_current(work, attempt):
            return False
        place = place_of(work)
        if self.cancel:
            return self._stop(place)
        step = self.steps[place]
        if step.losses + 1 >= MAX_LOSSES:
            return self._fail(place)
        step.losses += 1
        self._leave(place, StepState.PENDING)
        self.make_again(segment)
        return True

    def save(self, work: StepWork, attempt: int) -> bool:
        """A state within the clip, to go on from."""
        saved = self.is_current(work, attempt) and not self.cancel
        if saved:
            self.checkpoints.add(work.segment)
        return saved

    # What reconcilers do

    def make_again(self, segment: int) -> None:
        """Back to generate, since the segment's frames are gone."""
        generate = (segment, Stage.GENERATE)
        after = [place for place in self.steps if place[0] == segment and _ORDER.index(place[1]) > _GENERATE]
        self._set_aside(
            place for place in after if self.steps[place].state not in (StepState.FAILED, StepState.CANCELLED)
        )
        if self.steps[generate].state is StepState.DONE:
            self.steps[generate].state, self.steps[generate].queue = StepState.WAITING, None
        self._settle()

    def lose_lease(self, place: Place, *, charged: bool = True) -> None:
        step = self.steps[place]
        step.losses += charged
        step.crashes += charged and not step.progress
        if self.cancel:
            self._stop(place)
        elif step.losses >= MAX_LOSSES or step.crashes >= MAX_OTHER:
            self._fail(place)
        else:
            self._wait(place)

    def back_in_line(self, place: Place) -> None:
        self._wait(place)

    # What people do

    def ask_to_stop(self) -> bool:
        if self.ended:
            return False
        self.cancel = True
        for place in self.in_state(StepState.PENDING, StepState.WAITING, StepState.DISPATCHED):
            self.steps[place].state = StepState.CANCELLED
        if not self.in_state(StepState.RUNNING):
            self._conclude(JobState.CANCELLED)
        return True

    def retry(self) -> bool:
        if self.state not in (JobState.FAILED, JobState.CANCELLED):
            return False
        self.cancel = False
        if self.turned_down:
            self._next_roll()
        else:
            for position, place in enumerate(self.in_state(StepState.FAILED, StepState.CANCELLED)):
                step = self.steps[place]
                step.state = StepState.PENDING if position else StepState.WAITING
                step.errors = step.crashes = step.faults = step.losses = 0
                step.due, step.queue = True, None
        self.turned_down = False
        if self.segments > 1:
            self._unblock()
        self.state = JobState.HELD if self.held and not self.approved else JobState.WAITING
        if self.state is JobState.HELD:
            self._keep_back()
        return True

    def approve(self) -> bool:
        if self.state is not JobState.HELD:
            return False
        for place in self.in_state(StepState.PENDING):
            self.steps[place].state = StepState.WAITING
        self.state, self.approved = JobState.WAITING, True
        return True

    def reject(self) -> bool:
        if self.state is not JobState.HELD:
            return False
        for place in self.in_state(StepState.WAITING, StepState.PENDING):
            self.steps[place].state = StepState.CANCELLED
        self._conclude(JobState.BLOCKED)
        return True

    def _keep_back(self) -> None:
        for place in self.in_state(StepState.WAITING):
            self.steps[place].state = StepState.PENDING

    # How steps and jobs move

    def _leave(self, place: Place, state: StepState) -> None:
        """End the attempt at work, if there is one, and count its GPU time."""
        step = self.steps[place]
        if step.state is StepState.RUNNING and place[1] is Stage.GENERATE:
            self.batch.used += step.hours
        step.state = state
        if state in (StepState.WAITING, StepState.PENDING):
            step.queue = None

    def _set_aside(self, places: Iterable[Place]) -> None:
        for place in list(places):
            self._leave(place, StepState.PENDING)

    def _settle(self) -> None:
        self.state = JobState.IN_FLIGHT if self.in_state(*_LIVE) else JobState.WAITING

    def _conclude(self, state: JobState) -> Ended:
        self.state = state
        if state is not JobState.FAILED:
            self.checkpoints = set()
        return Ended(True)

    def _wait(self, place: Place) -> bool:
        self._leave(place, StepState.WAITING)
        self._settle()
        return True

    def _stop(self, place: Place) -> bool:
        self._leave(place, StepState.CANCELLED)
        if not self.in_state(StepState.RUNNING):  # else the last of them ends the job
            self._conclude(JobState.CANCELLED)
        return True

    def _fail(self, place: Place) -> bool:
        self._leave(place, StepState.FAILED)
        self._set_aside(self.in_state(*_OPEN))
        self._conclude(JobState.FAILED)
        return True
