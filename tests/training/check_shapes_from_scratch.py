"""shapes-wan from nothing, in about ten minutes on two cores: `make test-training`. It must beat chance by far."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from examples.shapes.evaluate import followed, held_out_prompts, sample
from examples.shapes.export import assemble
from tests.conftest import REPOSITORY

DECODER_STEPS, TRANSFORMER_STEPS, CLIPS = 700, 750, 2000
"""About 4, 6 and 1 CPU minutes; the decoder is trained beside the other two."""
CHANCE = {"background": 1 / 6, "colour": 1 / 6, "motion": 1 / 6}
MARGIN = 0.3
"""How far above chance each share must be. Shapes come last, so nothing is asked of them."""


def _command(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", f"examples.shapes.{module}", *map(str, arguments)]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_minutes_of_training_beat_chance_by_far(tmp_path: Path) -> None:
    vae, latents, model = tmp_path / "vae", tmp_path / "latents.pt", tmp_path / "model"
    subprocess.run(_command("fit_encoder", "--out", vae), cwd=REPOSITORY, check=True)
    decoder = _command("train_decoder", "--vae", vae, "--steps", DECODER_STEPS, "--workers", 1)
    with subprocess.Popen(decoder, cwd=REPOSITORY) as training:
        encode = _command("encode", "--vae", vae, "--out", latents, "--count", CLIPS)
        subprocess.run(encode, cwd=REPOSITORY, check=True)
        transformer = _command("train_transformer", "--latents", latents, "--out", model)
        transformer += ["--steps", str(TRANSFORMER_STEPS), "--workers", "1"]
        subprocess.run(transformer, cwd=REPOSITORY, check=True)
        assert training.wait() == 0

    torch.set_num_threads(1)
    shares = followed(sample(assemble(vae, model), held_out_prompts(48, seed=5)))
    print(shares)  # noqa: T201 - what one wants to know of it
    assert {part: shares[part] for part, chance in CHANCE.items() if shares[part] < chance + MARGIN} == {}, shares
