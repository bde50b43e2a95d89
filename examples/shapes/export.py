"""Write the trained parts as a diffusers folder.

``python -m examples.shapes.export --vae DIR --transformer DIR --out DIR``
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanPipeline
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from examples.shapes.denoiser import Denoiser, build_scheduler
from examples.shapes.fit_encoder import load

DECODER_LOG, TRANSFORMER_LOG = "decoder.log", "transformer.log"


def main() -> None:
    """Load, assemble, save as bfloat16, with the logs of the training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--transformer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    assemble(asked.vae, asked.transformer).to(torch.bfloat16).save_pretrained(asked.out)
    for folder, log in ((asked.vae, DECODER_LOG), (asked.transformer, TRANSFORMER_LOG)):
        shutil.copyfile(folder / log, asked.out / log)


def assemble(vae_folder: Path, transformer_folder: Path, *, averaged: bool = True) -> Any:
    """A ``WanPipeline`` of the checkpoints' weights, in float32."""
    saved = torch.load(transformer_folder / "transformer.pt", weights_only=True)
    model = Denoiser()
    model.load_state_dict(saved["average" if averaged else "weights"])
    return pipeline_of(load(vae_folder), model)


def pipeline_of(vae: AutoencoderKLWan, model: Denoiser) -> Any:
    """The pipeline of these parts; the first frame can be given, as in Wan 2.2 TI2V (``expand_timesteps``)."""
    for block in model.transformer.blocks:
        block.attn2.set_processor(WanAttnProcessor())
    return WanPipeline(
        tokenizer=model.tokenizer,
        text_encoder=model.text_encoder.eval(),
        vae=vae.eval(),
        scheduler=build_scheduler(),
        transformer=model.transformer.eval(),
        expand_timesteps=True,
    )


if __name__ == "__main__":
    main()
