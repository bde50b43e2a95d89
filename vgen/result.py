"""The result of a generation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class VideoResult:
    """One clip."""

    prompt: str
    """The prompt as it was asked for."""
    prompt_used: str
    """The enhanced one, where enhancing was on."""
    seed: int
    preset: str
    width: int
    height: int
    num_frames: int
    fps: float
    frames_sha256: str
    """The clip's identity: that of the line's clip of the same request."""
    numerics: dict[str, Any]
    """The facts that pixels depend on besides the request: device, dtype, library versions, …"""
    model_revision: str
    timings_s: dict[str, float]
    generation_time_s: float
    peak_memory_bytes: int | None
    video_path: Path | None
    """The MP4; None when none was asked for."""
    sidecar_path: Path | None
    sidecar: dict[str, Any] | None
    """The content of the sidecar file; see docs/sidecar.md."""
    frames: NDArray[np.uint8] | None
    """F × H × W × 3, RGB; None when they were not asked for."""
