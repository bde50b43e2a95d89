"""Writes Wan 2.1 1.3B in full size with random weights as a diffusers folder; speed does not depend on weights.

The sizes are those of the published configurations,
https://huggingface.co/Wan-AI/Wan2.1-T2V-1.3B-Diffusers/tree/main (``transformer/config.json``, ``vae/config.json``,
``text_encoder/config.json``). The tokenizer is the built-in one of bytes: every prompt is padded to 512 tokens anyway.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

PRESET = """extends = "wan2.1-t2v-1.3b"
model = "{folder}"
random_weights = true
description = "Wan 2.1's architecture with random weights, for measuring."
family = "bench"
"""


def make_model(size: str, folder: Path) -> None:
    """Save a pipeline of size ``full`` (15 GB) or ``tiny`` (0.3 MB) into the folder, unless it is there."""
    if (folder / "model_index.json").exists():
        return
    pipe = _full() if size == "full" else _tiny()
    pipe.save_pretrained(folder)


def write_preset(presets: Path, name: str, folder: Path) -> None:
    """A preset of that name: the catalogue's rules and dtypes for the folder's weights."""
    presets.mkdir(parents=True, exist_ok=True)
    (presets / f"{name}.toml").write_text(PRESET.format(folder=folder.absolute()), "utf-8")


def _tiny() -> Any:
    from pipeline.models.tiny_wan import build_pipeline  # noqa: PLC0415

    return build_pipeline()


def _full() -> Any:
    import torch  # noqa: PLC0415
    from diffusers import AutoencoderKLWan, WanTransformer3DModel  # noqa: PLC0415
    from transformers import UMT5Config, UMT5EncoderModel  # noqa: PLC0415

    pipe = _tiny()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            transformer = WanTransformer3DModel(
                patch_size=(1, 2, 2),
                num_attention_heads=12,
                attention_head_dim=128,
                in_channels=16,
                out_channels=16,
                text_dim=4096,
                freq_dim=256,
                ffn_dim=8960,
                num_layers=30,
                cross_attn_norm=True,
                qk_norm="rms_norm_across_heads",
            )
            config = UMT5Config(
                vocab_size=256384,
                d_model=4096,
                d_kv=64,
                d_ff=10240,
                num_layers=24,
                num_heads=64,
                feed_forward_proj="gated-gelu",
                pad_token_id=0,
                eos_token_id=1,
                decoder_start_token_id=0,
            )
            text_encoder = UMT5EncoderModel(config)
    finally:
        torch.set_default_dtype(before)
    pipe.register_modules(transformer=transformer, text_encoder=text_encoder, vae=AutoencoderKLWan())
    return pipe
