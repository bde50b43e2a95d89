"""Stable Video Diffusion."""

from __future__ import annotations

from typing import Any

import diffusers
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection


def stable_video_diffusion() -> Any:
    unet = diffusers.UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=8,
        in_channels=8,
        out_channels=4,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=32,
        num_attention_heads=2,
        projection_class_embeddings_input_dim=96,
        addition_time_embed_dim=32,
    )
    scheduler = diffusers.EulerDiscreteScheduler(
        interpolation_type="linear",
        prediction_type="v_prediction",
        timestep_type="continuous",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
    )
    vae = diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=[32, 32, 32, 32], down_block_types=["DownEncoderBlock2D"] * 4, latent_channels=4
    )
    config = CLIPVisionConfig(
        hidden_size=32,
        projection_dim=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        image_size=224,
        intermediate_size=37,
        patch_size=56,
    )
    return diffusers.StableVideoDiffusionPipeline(
        image_encoder=CLIPVisionModelWithProjection(config).eval(),
        unet=unet.eval(),
        scheduler=scheduler,
        vae=vae.eval(),
        feature_extractor=CLIPImageProcessor(crop_size=224, size=224),
    )
