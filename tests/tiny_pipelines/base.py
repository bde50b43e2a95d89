"""What the tiny pipelines share: how one is saved with its preset, and small text and image encoders' parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import T5Config, T5EncoderModel

from pipeline.models import tiny_wan

SMALL_SIZES = "size = { multiple = 16, minimum = 16, maximum = 128 }\n"
IMAGE_SIDE = 56
"""Pixels of the picture that an image encoder takes."""
PATCH = 28


@dataclass(frozen=True)
class TinyPipeline:
    """How to build it, and a small clip of it. ``extends`` is a preset of its class in the catalogue."""

    extends: str
    build: Callable[[], Any]
    clip: dict[str, Any]
    preset: str = SMALL_SIZES
    inputs: tuple[str, ...] = ()
    """The fields of inputs that the clip gives."""

    def save(self, folder: Path, presets: Path, name: str) -> None:
        """The model to ``folder``, and its preset of that name to the folder of a user's presets."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.build().save_pretrained(folder)
        presets.mkdir(parents=True, exist_ok=True)
        text = f'extends = "{self.extends}"\nmodel = "{folder}"\ndtype = "float32"\nrandom_weights = true\n'
        size = ", ".join(f"{field} = {self.clip[field]}" for field in ("width", "height", "num_frames"))
        (presets / f"{name}.toml").write_text(f"{text}{self.preset}defaults = {{ {size} }}\n", "utf-8")


def t5() -> tuple[Any, Any]:
    """A tokenizer of bytes and a T5 encoder of width 32."""
    tokenizer = tiny_wan._byte_tokenizer()
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
    )
    return tokenizer, T5EncoderModel(config).eval()
