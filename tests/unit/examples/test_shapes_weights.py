"""The weights of shapes-wan that vgen brings along: a small sample shows what its prompts ask for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from PIL import Image

from examples.shapes.denoiser import TEXT_TOKENS
from examples.shapes.evaluate import followed, held_out_prompts, sample
from examples.shapes.nightly_trial import damage
from examples.shapes.render import render
from examples.shapes.scene import Combination, Scene
from pipeline.models.hub import SHIPPED, ModelCheck, ModelStatus, check
from pipeline.presets import get_preset
from pipeline.scoring.shapes.detector import see
from pipeline.settings import Settings

FOLDER = SHIPPED["shapes-wan"]
AT_LEAST = {"background": 9 / 12, "colour": 8 / 12, "motion": 6 / 12}
"""Of twelve clips; chance is 2 of 12. All weights that were better than a quarter of an hour's training keep it."""


@pytest.fixture(scope="module")
def pipe() -> Iterator[Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield WanPipeline.from_pretrained(FOLDER, dtype=torch.float32)
    torch.set_num_threads(threads)


def test_the_default_preset_is_whole_and_its_classes_fit(tmp_path: Path) -> None:
    preset = get_preset(Settings.model_fields["preset"].default)
    assert (preset.name, check(preset, tmp_path)) == ("shapes-wan", ModelCheck(ModelStatus.BUILT_IN, FOLDER, ()))


def test_all_that_is_brought_along_is_small() -> None:
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < 10_000_000


def test_from_a_picture_the_clip_begins_with_it_and_keeps_its_shape(pipe: Any) -> None:
    what = Combination("blue", "square", "sand", "right")
    drawn = Scene(what, "medium", (42, 33), (86, 33), (14.5, 14.5), 1.0, 35.0, (2.0, 0.8, 1.0))
    picture = render(drawn)[0]
    image = WanImageToVideoPipeline(**pipe.components, expand_timesteps=True)
    image.set_progress_bar_config(disable=True)
    frames = image(
        image=Image.fromarray(picture),
        prompt="the shape slides to the right",
        width=128,
        height=64,
        num_frames=17,
        num_inference_steps=12,
        guidance_scale=3.0,
        max_sequence_length=TEXT_TOKENS,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
    ).frames[0]
    error = np.square(frames[0] - picture / 255).mean()
    assert -10 * np.log10(error) > 18
    seen = see((frames * 255).round().astype(np.uint8))
    assert (seen.colour, seen.background) == ("blue", "sand")


def test_held_out_prompts_are_followed_and_by_other_weights_they_are_not(pipe: Any) -> None:
    prompts = held_out_prompts(12, seed=3)
    shares = followed(sample(pipe, prompts, batch=12))
    assert {part: share for part, share in shares.items() if share < AT_LEAST.get(part, 0)} == {}, shares

    damage(pipe.transformer, 10)
    others = followed(sample(pipe, prompts, steps=3, batch=12))
    assert all(others[part] < least for part, least in AT_LEAST.items()), others
