"""The video autoencoder of ``shapes-wan``: 16 × 16 pixels and 4 frames become one latent of 60 numbers."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify, unpatchify
from torch import Tensor

LATENT_CHANNELS = 60
PATCH = 4
WIDTH = 64


def build_autoencoder(**changes: Any) -> AutoencoderKLWan:
    """The architecture with random weights."""
    config: dict[str, Any] = {
        "base_dim": WIDTH,
        "decoder_base_dim": WIDTH,
        "z_dim": LATENT_CHANNELS,
        "dim_mult": [1, 1, 1],
        "num_res_blocks": 0,
        "temperal_downsample": [True, True],
        "is_residual": True,
        "in_channels": 3 * PATCH**2,
        "out_channels": 3 * PATCH**2,
        "patch_size": PATCH,
        "scale_factor_temporal": 4,
        "scale_factor_spatial": 4 * PATCH,
        "latents_mean": [0.0] * LATENT_CHANNELS,
        "latents_std": [1.0] * LATENT_CHANNELS,
    } | changes
    return AutoencoderKLWan(**config)


def patches(clips: Tensor) -> Tensor:
    """What the encoder reads: n × 3 × frames × H × W as n × 48 × frames × H / 4 × W / 4."""
    return patchify(clips, patch_size=PATCH)


def decode_unclamped(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """What ``vae.decode`` returns, all frames but the first at once, and not clamped: a clamp passes no gradient."""
    vae.clear_cache()
    hidden = vae.post_quant_conv(latents)
    parts = []
    for first, frames in ((True, hidden[:, :, :1]), (False, hidden[:, :, 1:])):
        vae._conv_idx = [0]
        if frames.shape[2]:
            parts.append(vae.decoder(frames, feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=first))
    vae.clear_cache()
    return unpatchify(torch.cat(parts, dim=2), patch_size=PATCH)
