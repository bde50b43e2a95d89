"""The values of the line's model: a step, a batch, and what comes of a finish."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.states import Stage, StepState
from pipeline.work import StepWork

Place = tuple[int, Stage]
"""A segment, and a stage of it."""


def place_of(work: StepWork) -> Place:
    return work.segment, work.stage


@dataclass
class ModelStep:
    state: StepState = StepState.WAITING
    attempt: int = 0
    errors: int = 0
    crashes: int = 0
    faults: int = 0
    losses: int = 0
    progress: int = 0
    hours: int = 0
    """Of GPU time in the attempt at work."""
    due: bool = True
    """False during a backoff."""
    expired: bool = False
    queue: str | None = None


@dataclass
class ModelBatch:
    """What a batch asks for, and what it has used."""

    reroll: int | None
    """How often a rejected clip is made again; None: clips are not scored."""
    limit: int | None
    """Hours of GPU time, or as much money."""
    used: int = 0
    paused: bool = False

    @property
    def over(self) -> bool:
        return self.limit is not None and self.used >= self.limit


@dataclass(frozen=True)
class Ended:
    """What became of a finish, and what follows from it: places that may be sent on at once."""

    recorded: bool
    next_stage: Stage | None = None
    """As the finish tells it where nothing is sent."""
    follows: tuple[Place, ...] = ()
