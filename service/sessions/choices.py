"""The options of a new session."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class SessionChoices:
    """The choices of a session. None is not given: the preset or the settings decide."""

    preset: str | None = None
    width: int | None = None
    """Pixels, as is ``height``."""
    height: int | None = None
    num_frames: int | None = None
    """Frames of each segment, those that it repeats of the one before included."""
    fps: float | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    seed: int | None = None
    """The first segment's; the others' are derived from it. None: it is derived from the session's id."""
    image: str | None = None
    """What the first segment begins with: the name of one of ``files``, an http(s) URL, or a data: URL."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """Files of this host by the names that ``image`` may have."""
    continuation: Mapping[str, Any] | None = None
    """What the first segment goes on from: ``SessionView.continuation`` of another session."""
    gpu: tuple[str, ...] = ()
    """GPU types that it keeps to; none: any."""
    priority: int = 0
    safety_policy: str | None = None
    segment_cap: int | None = None
    timeout_s: float | None = None
    """Seconds of silence after which it ends; None: the setting stream.session_timeout_s."""
    max_gpu_s: float | None = None
    """GPU seconds that it may use, those included in which its GPU waits for it."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Small JSON that whoever speaks with the client keeps with the session."""
