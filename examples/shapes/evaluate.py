"""How often a model shows what its prompts ask for: ``python -m examples.shapes.evaluate FOLDER --count 500``.

The prompts ask for combinations that training never saw, in sentences of which a third has an order it never saw.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from examples.shapes.captions import caption
from examples.shapes.denoiser import TEXT_TOKENS
from examples.shapes.scene import FRAMES, HEIGHT, WIDTH, combinations
from pipeline.scoring.shapes import asked_for
from pipeline.scoring.shapes.detector import Seen, see

PARTS = ("colour", "shape", "background", "motion", "size")
STEPS, GUIDANCE = 12, 3.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One prompt, the clip made from it, and what the clip shows."""

    prompt: str
    frames: NDArray[np.uint8]
    seen: Seen


def main() -> None:
    """Print the shares as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    asked = parser.parse_args()
    from diffusers import WanPipeline  # noqa: PLC0415 - slow to load

    torch.set_num_threads(1)
    pipe = WanPipeline.from_pretrained(asked.folder, dtype=torch.float32)
    started = time.process_time()
    samples = sample(pipe, held_out_prompts(asked.count, asked.seed), steps=asked.steps, guidance=asked.guidance)
    row = {"clips": asked.count, "steps": asked.steps, "guidance": asked.guidance, **followed(samples)}
    print(json.dumps({**row, "cpu_seconds_per_clip": round((time.process_time() - started) / asked.count, 2)}))  # noqa: T201


def held_out_prompts(count: int, seed: int) -> list[str]:
    """Sentences for held-out combinations, each combination as often as the others."""
    rng = np.random.default_rng((seed, 1))
    those = combinations(held_out=True)
    order = np.concatenate([rng.permutation(len(those)) for _ in range(count // len(those) + 1)])[:count]
    sizes = ("small", "large", "medium")
    return [caption(those[index], sizes[rng.integers(3)], rng, evaluation=True) for index in order]


def sample(
    pipe: Any, prompts: Sequence[str], *, steps: int = STEPS, guidance: float = GUIDANCE, seed: int = 0, batch: int = 10
) -> list[Sample]:
    """Make a clip for each prompt, at the preset's size."""
    pipe.set_progress_bar_config(disable=True)
    samples = []
    for start in range(0, len(prompts), batch):
        some = list(prompts[start : start + batch])
        clips = pipe(
            some,
            width=WIDTH,
            height=HEIGHT,
            num_frames=FRAMES,
            num_inference_steps=steps,
            guidance_scale=guidance,
            max_sequence_length=TEXT_TOKENS,
            generator=[torch.Generator().manual_seed(seed + start + n) for n in range(len(some))],
            output_type="np",
        ).frames
        for prompt, clip in zip(some, (clips * 255).round().astype(np.uint8), strict=True):
            samples.append(Sample(prompt, clip, see(clip)))
    return samples


def followed(samples: Sequence[Sample]) -> dict[str, float]:
    """For each thing that prompts ask for, the share of the clips that show it, of those whose prompt says it."""
    shares = {}
    for part in PARTS:
        pairs = [(getattr(asked_for(s.prompt), part), getattr(s.seen, part)) for s in samples]
        said = [asked == seen for asked, seen in pairs if asked is not None]
        shares[part] = round(sum(said) / max(len(said), 1), 3)
    return shares


if __name__ == "__main__":
    main()
