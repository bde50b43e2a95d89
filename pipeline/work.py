"""The input and the result of every stage.

A stage is a plain function ``run(work, context) -> StageResult`` in a file of its own. It reads ``work`` (values from
rows, never rows), uses what ``context`` hands it, changes no row, and raises a ``StageError`` when it cannot do
its work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from pipeline.generators.base import CheckpointReceiver, GenerationRequest, GenerationResult, OnMade, OnProgress
from pipeline.outputs import StageOutput, StageOutputs
from pipeline.policy.memory_ladder import Rung
from pipeline.settings import Settings
from pipeline.spec import BatchOptions, JobSpec
from pipeline.states import Stage
from pipeline.storage.base import Storage

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.handoff import Handoff
    from pipeline.wiring import StageModels


class Outcome(StrEnum):
    """The end of a stage that did not raise."""

    DONE = "done"
    SKIPPED = "skipped"
    HELD = "held"
    BLOCKED = "blocked"
    REJECTED = "rejected"
    """The gate turned the clip down: ``output`` has the ``reason``."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A stored object that belongs to a job."""

    kind: str
    """``video``, ``poster``, ``strip``, ``sidecar``."""
    key: str
    sha256: str
    size: int
    media_type: str


UNABLE = "unable"
"""The detail of a score that is None since this machine had no means to score at all: no weights, or no torch."""


@dataclass(frozen=True, slots=True)
class ScoreRecord:
    """One metric's score of a clip, and how it was made."""

    metric: str
    score: float | None
    """None: not scored, for the ``reason``."""
    reason: str | None
    passed: bool | None
    """The verdict of a check; None for other metrics."""
    details: dict[str, Any]
    version: int
    """The version of the metric."""
    scorer: dict[str, Any]
    """``pipeline.scoring.run.fingerprint``: scores of different scorers are not compared."""


@dataclass(frozen=True, slots=True)
class CheckpointRef:
    """A stored object that an interrupted clip goes on from: its state after ``step`` of ``total``."""

    step: int
    total: int
    key: str
    sha256: str
    size: int
    numerics: dict[str, Any]

    @property
    def final(self) -> bool:
        """True after the last step: only decoding is left."""
        return self.step == self.total


@dataclass(frozen=True, slots=True)
class ContinuationRef:
    """The start of a segment: a small payload, and stored objects by name (``key``, ``sha256``, ``size``)."""

    kind: str
    version: int
    payload: dict[str, Any]
    blobs: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class JoinedClip:
    """A published clip of a session, to be put behind the others in one file."""

    job_id: str
    spec: JobSpec
    """The specification, with the seed of its roll."""
    outputs: StageOutputs
    """What its stages recorded."""


@dataclass(frozen=True, slots=True)
class StepWork:
    """One claimed step, with all that a worker knows."""

    job_id: str
    batch_id: str
    line: int
    roll: int
    segment: int
    stage: Stage
    attempt: int
    spec: JobSpec
    """The specification, with the seed of this roll."""
    options: BatchOptions
    outputs: StageOutputs
    """What the earlier stages of this roll and segment recorded; enhance's and screen's are the clip's."""
    checkpoint: CheckpointRef | None = None
    """The checkpoint of an earlier generate attempt that was cut off."""
    continuation: ContinuationRef | None = None
    """The state that the segment goes on from, where it is not a clip's beginning."""
    memory_rung: Rung = Rung.PLAIN
    """The rung on which a clip that did not fit into memory is tried now."""
    earlier: tuple[StageOutputs, ...] = ()
    """What was recorded of the segments before it, where the clip's last segment is encoded."""
    joins: tuple[JoinedClip, ...] = ()
    """The clips, in order, that a session's last job puts into one file; none for every other job."""

    @property
    def log_data(self) -> dict[str, Any]:
        """What a log's line about it names."""
        return {"job_id": self.job_id, "segment": self.segment}


@dataclass(frozen=True, slots=True)
class ReferenceClip:
    """The published clip of an earlier run that another is compared with."""

    key: str
    sha256: str


@dataclass(frozen=True, slots=True)
class StoredClip:
    """A published clip and what belongs to it."""

    job_id: str
    roll: int
    spec: JobSpec
    """The specification, with the seed of this roll."""
    key: str
    sha256: str
    known: frozenset[tuple[str, str]] = frozenset()
    """Metrics that have scored it, each with the digest of its scorer: the same need not do it again."""
    reference: ReferenceClip | None = None
    """The clip that an earlier run made of the same entry and seed, where this one is to be compared with it."""


@dataclass(frozen=True, slots=True)
class ScoreWork:
    """One claimed step of an evaluation run."""

    run_id: str
    batch_id: str
    family: str
    metrics: tuple[str, ...]
    """The metrics of the whole run; those of the family are this step's."""
    clips: tuple[StoredClip, ...]
    reference: str | None = None
    """The run whose clips these are compared with; None where there is none."""

    @property
    def log_data(self) -> dict[str, Any]:
        """What a log's line about it names."""
        return {"run": self.run_id, "family": self.family}


Output_co = TypeVar("Output_co", bound=StageOutput | None, covariant=True)


@dataclass(frozen=True, slots=True)
class StageResult(Generic[Output_co]):
    """The result that is recorded when the step is finished."""

    output: Output_co
    """Kept in the step's row, and read by later stages in ``work.outputs``."""
    outcome: Outcome = Outcome.DONE
    artifacts: tuple[Artifact, ...] = ()
    continuation: ContinuationRef | None = None
    """The state that the next segment starts from; recorded with the result."""
    scores: tuple[ScoreRecord, ...] = ()
    after_commit: Callable[[], None] | None = None
    """Called once the result is recorded, for example to free the hand-off's space; must not fail."""


class GenerationRunner(Protocol):
    """The handle on a generator; ``pipeline.generators.process.handle.GeneratorProcess`` is the real one."""

    def generate(
        self,
        request: GenerationRequest,
        on_progress: OnProgress,
        checkpoints: CheckpointReceiver = ...,
        on_made: OnMade | None = ...,
    ) -> GenerationResult: ...


class CheckpointRecorder(Protocol):
    """The record of checkpoints; may be called from any thread. Raises ServiceUnavailableError."""

    def record(self, saved: CheckpointRef) -> tuple[str, ...] | None:
        """Write it down; the keys that it replaces. None when this attempt may not write any more."""

    def discard(self, reason: str) -> tuple[str, ...]:
        """Forget what cannot be used; the keys of those objects."""


@dataclass(frozen=True, slots=True)
class StageContext:
    """The objects that a worker lends to a stage."""

    settings: Settings
    storage: Storage
    handoff: Handoff
    models: StageModels
    on_progress: OnProgress
    check: Callable[[], None]
    """Raises StoppedError when the step is to stop; long stages call it often."""
    generator: GenerationRunner | None = None
    gpu_type: str | None = None
    worker_name: str = ""
    checkpoints: CheckpointRecorder | None = None
    """None: nobody would find a checkpoint again, so none is made."""
    reservation: Path | None = None
    """Taken in the hand-off before the step was claimed."""
    on_made: OnMade | None = None
    """Called by generate when the generator may make the next clip, while this one's frames are still handed over."""


AnyResult = StageResult[StageOutput | None]
StageFunction = Callable[[StepWork, StageContext], AnyResult]


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on a step until the lease ends; ``attempt`` is the fence."""

    step_id: int
    attempt: int
    queue: str
    worker: str
    work: StepWork
    overlapped_ms: int = 0
    """The time before its end in which the worker had taken the next step: it is not counted as the GPU's."""


@dataclass(frozen=True, slots=True)
class ScoreClaim:
    """The right to work on a step of an evaluation run, as a ``Claim`` is that to a job's."""

    step_id: int
    attempt: int
    queue: str
    worker: str
    work: ScoreWork


AnyClaim = Claim | ScoreClaim
