"""Wan 2.1 and 2.2."""

from __future__ import annotations

from typing import Any

import diffusers
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from pipeline.models import tiny_wan
from tests.tiny_pipelines.base import IMAGE_SIDE, PATCH

_TOKENS = (IMAGE_SIDE // PATCH) ** 2 + 1


def wan() -> Any:
    return tiny_wan.build_pipeline()


def wan_flow_match_euler() -> Any:
    pipe = tiny_wan.build_pipeline()
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return pipe


def wan_two_transformers() -> Any:
    """Wan 2.2's way: one transformer for the first steps, another for the last ones."""
    pipe = tiny_wan.build_pipeline()
    other = diffusers.WanTransformer3DModel.from_config(pipe.transformer.config).eval()
    return diffusers.WanPipeline(**pipe.components | {"transformer_2": other}, boundary_ratio=0.875)


def wan_image_to_video() -> Any:
    """Wan 2.2 TI2V's way: the first frame's latents are put back at each step."""
    pipe = tiny_wan.build_pipeline()
    names = ("tokenizer", "text_encoder", "vae", "scheduler", "transformer")
    return diffusers.WanImageToVideoPipeline(**{name: pipe.components[name] for name in names}, expand_timesteps=True)


def wan_stochastic() -> Any:
    """Noise is drawn at each step, so the state of the random generator belongs to the checkpoint."""
    pipe = tiny_wan.build_pipeline()
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, stochastic_sampling=True)
    return pipe


def wan_first_and_last() -> Any:
    """Wan 2.1's way: an image encoder reads the first and the last frame."""
    pipe = tiny_wan.build_pipeline()
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=IMAGE_SIDE,
        patch_size=PATCH,
    )
    side = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    return diffusers.WanImageToVideoPipeline(
        tokenizer=pipe.tokenizer,
        text_encoder=pipe.text_encoder,
        vae=pipe.vae,
        scheduler=pipe.scheduler,
        transformer=_wan_transformer(image_dim=16, added_kv_proj_dim=24, pos_embed_seq_len=2 * _TOKENS),
        image_encoder=CLIPVisionModel(config).eval(),
        image_processor=CLIPImageProcessor(crop_size=side, size={"shortest_edge": IMAGE_SIDE}),
    )


def wan_two_experts() -> Any:
    """Wan 2.2's way: no image encoder, and two transformers."""
    pipe = tiny_wan.build_pipeline()
    return diffusers.WanImageToVideoPipeline(
        tokenizer=pipe.tokenizer,
        text_encoder=pipe.text_encoder,
        vae=pipe.vae,
        scheduler=pipe.scheduler,
        transformer=_wan_transformer(),
        transformer_2=_wan_transformer(),
        boundary_ratio=0.9,
    )


def wan_video_to_video() -> Any:
    pipe = tiny_wan.build_pipeline()
    names = ("tokenizer", "text_encoder", "vae", "scheduler", "transformer")
    return diffusers.WanVideoToVideoPipeline(**{name: pipe.components[name] for name in names})


def wan_vace() -> Any:
    pipe = tiny_wan.build_pipeline()
    channels = tiny_wan._LATENT_CHANNELS
    transformer = diffusers.WanVACETransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels,
        out_channels=channels,
        text_dim=pipe.transformer.config.text_dim,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=64,
        vace_layers=[0],
        vace_in_channels=2 * channels + 64,
    )
    names = ("tokenizer", "text_encoder", "vae", "scheduler")
    return diffusers.WanVACEPipeline(**{name: pipe.components[name] for name in names}, transformer=transformer.eval())


def _wan_transformer(**changes: Any) -> Any:
    """Takes mask and first frame beside the latents, as channels."""
    channels = tiny_wan._LATENT_CHANNELS
    config = dict(tiny_wan.build_pipeline().transformer.config)
    config |= {"in_channels": 2 * channels + 4, **changes}
    return diffusers.WanTransformer3DModel.from_config(config).eval()
