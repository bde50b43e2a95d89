"""What a generator is: loaded once, run many times.

``Generator`` runs inside the child process that owns the GPU; ``pipeline.generators.process.GeneratorProcess`` is
the handle that a worker holds on such a child.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from pipeline.spec import JobSpec


class Phase(StrEnum):
    """What a generator is doing; each has its own deadline."""

    LOAD = "load"
    WARM_UP = "warm_up"
    ENCODE_TEXT = "encode_text"
    DENOISE = "denoise"
    DECODE = "decode"
    HAND_OFF = "hand_off"


@dataclass(frozen=True, slots=True)
class Progress:
    """One sign of life: ``step`` of ``total`` within ``phase``. The supervisor keeps the lease while these move."""

    phase: Phase
    step: int
    total: int


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What to make and where to put it. ``image`` is a local file. ``prompt`` is the one to use (maybe enhanced)."""

    spec: JobSpec
    prompt: str
    frames_path: Path
    """Raw frames are written here: F × H × W × 3 uint8, RGB, C order."""
    image: Path | None = None


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """What was made."""

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
    facts: dict[str, Any] = field(default_factory=dict)


OnProgress = Callable[[Progress], None]


class Generator(Protocol):
    """A model in memory."""

    def load(self, preset_name: str, on_progress: OnProgress) -> None:
        """Bring the preset's pipeline into memory and warm it up."""

    def generate(self, request: GenerationRequest, on_progress: OnProgress) -> GenerationResult:
        """Make the clip. Raises StoppedError when ``on_progress`` does, else a StageError."""

    def unload(self) -> None:
        """Free the memory."""
