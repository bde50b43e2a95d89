"""Go on from an exported model: ``python -m examples.shapes.unpack FOLDER --vae DIR --transformer DIR``.

It writes the checkpoints that the training commands go on from. The optimisers' states are not in the export: they
start anew.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import WanPipeline

from examples.shapes.denoiser import Denoiser
from examples.shapes.export import DECODER_LOG, TRANSFORMER_LOG
from examples.shapes.fit_encoder import save


def main() -> None:
    """Read the folder, write both checkpoints and their logs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of export")
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--transformer", type=Path, required=True)
    asked = parser.parse_args()
    unpack(asked.folder, asked.vae, asked.transformer)


def unpack(folder: Path, vae: Path, transformer: Path) -> None:
    """Both checkpoints, in float32, at the steps that the logs end with."""
    pipe = WanPipeline.from_pretrained(folder, dtype=torch.float32)
    for target, log in ((vae, DECODER_LOG), (transformer, TRANSFORMER_LOG)):
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / log, target / log)
    save(pipe.vae, vae)
    torch.save({"step": _last_step(folder / DECODER_LOG)}, vae / "decoder_optimiser.pt")
    model = Denoiser()
    model.transformer.load_state_dict(pipe.transformer.state_dict())
    model.text_encoder.load_state_dict(pipe.text_encoder.state_dict())
    state = {"weights": model.state_dict(), "average": model.state_dict(), "step": _last_step(folder / TRANSFORMER_LOG)}
    torch.save(state, transformer / "transformer.pt")


def _last_step(log: Path) -> int:
    return int(json.loads(log.read_text("utf-8").splitlines()[-1])["step"])


if __name__ == "__main__":
    main()
