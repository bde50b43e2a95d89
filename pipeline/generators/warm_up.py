"""The warm-up clip, which sets up what the first run of a model would otherwise set up during a job."""

import inspect
from typing import Any

from PIL import Image

from pipeline.generators.input_pictures import Pictures
from pipeline.generators.own_size import own_size
from pipeline.presets import Preset, Workload
from pipeline.spec import JobSpec

WARM_UP_SIDE = 64
"""Pixels, raised to the preset's smallest legal size: enough to load kernels."""
WARM_UP_STEPS = 2
"""Mochi's schedule cannot be made of one."""


def smallest_clip(pipe: Any, preset: Preset) -> JobSpec:
    """The shortest, smallest legal clip of two steps."""
    side = max(WARM_UP_SIDE, preset.size.minimum)
    side = -(-side // preset.size.multiple) * preset.size.multiple
    width, height = own_size(pipe, side, side)
    smallest = max(preset.frames.minimum, preset.frames.offset)
    return JobSpec(
        prompt="warm-up",
        seed=0,
        preset=preset.name,
        width=width,
        height=height,
        num_frames=smallest if preset.frames.allows(smallest) else preset.frames.nearest(smallest)[0],
        fps=preset.defaults.fps,
        num_inference_steps=WARM_UP_STEPS,
        guidance_scale=preset.defaults.guidance_scale,
    )


def blank_pictures(pipe: Any, preset: Preset, spec: JobSpec) -> Pictures:
    """Return the pictures that the pipeline cannot be called without, for its warm-up."""
    blank = Image.new("RGB", (spec.width, spec.height))
    pictures: Pictures = {"image": blank} if "image" in inspect.signature(pipe.__call__).parameters else {}
    for field in (*preset.required_inputs, *(("video",) if preset.workload is Workload.V2V else ())):
        pictures[field] = blank if field == "last_image" else [blank] * (spec.num_frames if field == "video" else 1)
    return pictures
