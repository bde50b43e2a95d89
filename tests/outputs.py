"""What stages record, for tests that need some record and not a certain one."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pipeline.outputs import (
    EncodeOutput,
    EnhancedPrompt,
    EnhanceOutput,
    GenerateOutput,
    Part,
    ScoreOutput,
    StageOutputs,
)

SHA = "a" * 64


def generated(**changes: Any) -> GenerateOutput:
    values = {
        "frames_sha256": SHA,
        "frames_path": "/handoff/frames.rgb",
        "handoff_id": "abcd",
        "num_frames": 5,
        "height": 16,
        "width": 16,
        "prompt": "a fox",
        "numerics": {},
        "model_revision": "none",
        "timings_s": {},
        "peak_memory_bytes": None,
        "gpu_type": "cpu",
    }
    return GenerateOutput.model_validate(values | changes)


def enhanced(prompt: str, *segments: EnhancedPrompt) -> EnhanceOutput:
    return EnhanceOutput(prompt=prompt, original="as it was written", segments=segments)


def encoded_part(key: str) -> EncodeOutput:
    return EncodeOutput(part=Part(key=key, sha256=SHA, size=1), probe={})


def scored(reason: str | None = None) -> ScoreOutput:
    return ScoreOutput(accepted=reason is None, reason=reason, seed=1, scores={})


def recorded(outputs: StageOutputs) -> set[str]:
    """The stages that recorded something."""
    return {field.name for field in fields(outputs) if getattr(outputs, field.name) is not None}
