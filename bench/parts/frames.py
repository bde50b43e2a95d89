"""Generated outputs of a generate stage, for benchmarks without a model."""

from __future__ import annotations

from pipeline.outputs import GenerateOutput

FRAMES = GenerateOutput(
    frames_sha256="0" * 64,
    frames_path="bench.rgb",
    handoff_id="bench",
    num_frames=1,
    height=16,
    width=16,
    prompt="a clip",
    numerics={},
    model_revision="bench",
    timings_s={},
    peak_memory_bytes=None,
    gpu_type=None,
)
