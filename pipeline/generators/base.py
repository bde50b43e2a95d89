"""The protocol of a generator: loaded once, run many times.

``Generator`` runs inside the child process that owns the GPU; ``pipeline.generators.process.handle.GeneratorProcess``
is the handle that a worker holds on such a child.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from pipeline.acceleration import Acceleration
from pipeline.spec import JobSpec


class Phase(StrEnum):
    """The work a generator is doing; each phase has its own deadline."""

    LIBRARIES = "libraries"
    LOAD = "load"
    WARM_UP = "warm_up"
    ENCODE_TEXT = "encode_text"
    DENOISE = "denoise"
    DECODE = "decode"
    HAND_OFF = "hand_off"


PHASE_MEANING: dict[Phase, str] = {
    Phase.LIBRARIES: "loading torch",
    Phase.LOAD: "loading the model",
    Phase.WARM_UP: "warming up",
    Phase.ENCODE_TEXT: "reading the prompt",
    Phase.DENOISE: "denoising",
    Phase.DECODE: "decoding",
    Phase.HAND_OFF: "handing over the frames",
}


def phase_in_words(name: str | None) -> str | None:
    """Return what a stored phase is about; one that is not known as it is."""
    return next((words for phase, words in PHASE_MEANING.items() if phase == name), name)


@dataclass(frozen=True, slots=True)
class Progress:
    """One sign of life: ``step`` of ``total`` within ``phase``. The supervisor keeps the lease while these move."""

    phase: Phase
    step: int
    total: int


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """The clip to make and its place. Inputs are local files. ``prompt`` is the one to use (maybe enhanced)."""

    spec: JobSpec
    prompt: str
    frames_path: Path
    """Raw frames are written here: F × H × W × 3 uint8, RGB, C order."""
    image: Path | None = None
    last_image: Path | None = None
    video: Path | None = None
    reference_images: tuple[Path, ...] = ()
    loras: tuple[Path, ...] = ()
    """The files of the specification's, in its order."""
    resume_from: Path | None = None
    """A checkpoint of this very request; one that cannot be used is reported, and the clip begins anew."""
    previous: Path | None = None
    """The last frames of the segment before (``repeats`` × H × W × 3 uint8): the clip goes on from them."""
    repeats: int = 0
    """The number of those frames. The pipeline makes them again at its beginning; they are not written."""
    checkpoint_s: float | None = None
    """Seconds between checkpoints; 0: only at a stop and after the last step; None: never."""
    acceleration: Acceleration | None = None
    """The acceleration in place of the specification's, where the memory asks for another."""

    @property
    def accelerated_by(self) -> Acceleration:
        return self.spec.acceleration if self.acceleration is None else self.acceleration

    @property
    def new_frames(self) -> int:
        """Return how many frames are written."""
        return self.spec.num_frames - self.repeats


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """A file beside the frames that holds the denoising loop after ``step`` of ``total``; its reader removes it."""

    path: Path
    step: int
    total: int
    sha256: str
    size: int
    numerics: dict[str, Any]
    """The numerics fingerprint's parts: under any other the checkpoint cannot be used."""

    @property
    def final(self) -> bool:
        """True after the last step: only decoding is left."""
        return self.step == self.total


class CheckpointReceiver(Protocol):
    """The receiver of a clip's checkpoints, on the thread that called ``generate``; no method may block long."""

    def saved(self, checkpoint: SavedCheckpoint) -> None:
        """A checkpoint lies on disk."""

    def unusable(self, reason: str) -> None:
        """The checkpoint of ``resume_from`` cannot be used: the clip begins anew from its seed."""


class NoCheckpoints:
    """The receiver of a caller that asks for no checkpoints."""

    def saved(self, checkpoint: SavedCheckpoint) -> None:
        checkpoint.path.unlink(missing_ok=True)

    def unusable(self, reason: str) -> None:
        """The result's facts say so too."""


@dataclass(frozen=True, slots=True)
class RawSound:
    """A clip's sound, at ``handoff.sound_path``: ``num_samples`` × ``channels`` 32-bit floats, little-endian."""

    sample_rate: int
    """Samples a second and channel."""
    channels: int
    num_samples: int
    """The samples of each channel: as long as all frames that were made, repeated ones too, to the nearest sample."""
    sha256: str


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """The result of one generation."""

    num_frames: int
    height: int
    width: int
    frames_sha256: str
    """sha256 of the raw frames file: the clip's identity."""
    numerics: dict[str, Any]
    """The numerics fingerprint's parts: device, dtype, library versions, attention, …"""
    model_revision: str
    timings_s: dict[str, float]
    peak_memory_bytes: int | None = None
    sound: RawSound | None = None
    """None from a pipeline that makes pictures only."""
    facts: dict[str, Any] = field(default_factory=dict)


OnProgress = Callable[[Progress], None]
NO_CHECKPOINTS = NoCheckpoints()
OnMade = Callable[[], None]
HandOver = Callable[[], GenerationResult]
"""Writes the frames of a clip that is made, and says what was made. It may be called on another thread, once.

It reports ``Phase.HAND_OFF``, and raises a StageError.
"""


class Generator(Protocol):
    """A model in memory."""

    def load(self, preset_name: str, on_progress: OnProgress) -> None:
        """Bring the preset's pipeline into memory and warm it up."""

    def make(
        self, request: GenerationRequest, on_progress: OnProgress, checkpoints: CheckpointReceiver = NO_CHECKPOINTS
    ) -> HandOver:
        """Make the clip's frames; the next clip may be made while they are handed over.

        Raises StoppedError when ``on_progress`` does, else a StageError. A stop whose error says ``keep`` leaves a
        checkpoint first. The result's ``facts`` have ``denoise_steps`` (made by this call), and where it applies
        ``resumed_from_step`` (that step's model call was made once more), ``checkpoint_unusable`` and
        ``checkpoint_failed`` with the reason.
        """

    def generate(
        self, request: GenerationRequest, on_progress: OnProgress, checkpoints: CheckpointReceiver = NO_CHECKPOINTS
    ) -> GenerationResult:
        """Make the clip and hand it over. Raises as ``make`` does."""
        return self.make(request, on_progress, checkpoints)()

    def free(self) -> None:
        """Give back memory that nobody uses; the model stays."""

    def unload(self) -> None:
        """Free the memory."""
