"""CogVideoX."""

from __future__ import annotations

from typing import Any

import diffusers

from tests.tiny_pipelines.base import t5


def cogvideox_ddim() -> Any:
    return _cogvideox(diffusers.CogVideoXDDIMScheduler())


def cogvideox_dpm() -> Any:
    """Its scheduler returns two tensors, takes one of them back at the next step, and draws noise."""
    return _cogvideox(diffusers.CogVideoXDPMScheduler())


def cogvideox_image_to_video() -> Any:
    text = cogvideox_dpm()
    config = dict(text.transformer.config) | {"in_channels": 8}
    transformer = diffusers.CogVideoXTransformer3DModel.from_config(config).eval()
    return diffusers.CogVideoXImageToVideoPipeline(**text.components | {"transformer": transformer})


def _cogvideox(scheduler: Any) -> Any:
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=32,
        num_layers=1,
        sample_width=2,
        sample_height=2,
        sample_frames=9,
        patch_size=2,
        temporal_compression_ratio=4,
        max_text_seq_length=16,
    )
    vae = diffusers.AutoencoderKLCogVideoX(
        in_channels=3,
        out_channels=3,
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    )
    tokenizer, text_encoder = t5()
    return diffusers.CogVideoXPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae.eval(),
        transformer=transformer.eval(),
        scheduler=scheduler,
    )
