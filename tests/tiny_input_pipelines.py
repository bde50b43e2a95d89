"""More of the published pipelines' own classes at tiny size: those that take pictures besides a first frame's, or in
ways of their own. See ``tests.tiny_pipelines``."""

from __future__ import annotations

from typing import Any

import diffusers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from pipeline.generators import tiny_wan
from tests import tiny_pipelines
from tests.tiny_pipelines import SMALL_SIZES, TinyPipeline

_IMAGE_SIDE = 56
_PATCH = 28
_TOKENS = (_IMAGE_SIDE // _PATCH) ** 2 + 1


def _wan_transformer(**changes: Any) -> Any:
    """Takes mask and first frame beside the latents, as channels."""
    channels = tiny_wan._LATENT_CHANNELS
    config = dict(tiny_wan.build_pipeline().transformer.config)
    config |= {"in_channels": 2 * channels + 4, **changes}
    return diffusers.WanTransformer3DModel.from_config(config).eval()


def wan_first_and_last() -> Any:
    """Wan 2.1's way: an image encoder reads the first and the last frame."""
    pipe = tiny_wan.build_pipeline()
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=_IMAGE_SIDE,
        patch_size=_PATCH,
    )
    side = {"height": _IMAGE_SIDE, "width": _IMAGE_SIDE}
    return diffusers.WanImageToVideoPipeline(
        tokenizer=pipe.tokenizer,
        text_encoder=pipe.text_encoder,
        vae=pipe.vae,
        scheduler=pipe.scheduler,
        transformer=_wan_transformer(image_dim=16, added_kv_proj_dim=24, pos_embed_seq_len=2 * _TOKENS),
        image_encoder=CLIPVisionModel(config).eval(),
        image_processor=CLIPImageProcessor(crop_size=side, size={"shortest_edge": _IMAGE_SIDE}),
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


def cogvideox_image_to_video() -> Any:
    text = tiny_pipelines.cogvideox_dpm()
    config = dict(text.transformer.config) | {"in_channels": 8}
    transformer = diffusers.CogVideoXTransformer3DModel.from_config(config).eval()
    return diffusers.CogVideoXImageToVideoPipeline(**text.components | {"transformer": transformer})


def hunyuan_video_15_image_to_video() -> Any:
    """A pipeline without arguments for the size."""
    text = tiny_pipelines.hunyuan_video_15()
    config = dict(text.transformer.config) | {"task_type": "i2v"}
    vision = SiglipVisionConfig(
        hidden_size=12,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=_IMAGE_SIDE,
        patch_size=_PATCH,
    )
    return diffusers.HunyuanVideo15ImageToVideoPipeline(
        **text.components | {"transformer": diffusers.HunyuanVideo15Transformer3DModel.from_config(config).eval()},
        image_encoder=SiglipVisionModel(vision).eval(),
        feature_extractor=SiglipImageProcessor(size={"height": _IMAGE_SIDE, "width": _IMAGE_SIDE}),
    )


def ltx2_image_to_video() -> Any:
    return diffusers.LTX2ImageToVideoPipeline(**tiny_pipelines.ltx2().components)


_CLIP = {"width": 32, "height": 32, "num_frames": 9, "fps": 8, "guidance_scale": 3.0}
_SHORT_TEXT = "arguments = { max_sequence_length = 16 }\n"

TINY_INPUTS: dict[str, TinyPipeline] = {
    "wan-first-last": TinyPipeline("wan2.1-flf2v-14b-720p", wan_first_and_last, _CLIP, inputs=("image", "last_image")),
    "wan-two-image": TinyPipeline(
        "wan2.2-i2v-a14b", wan_two_experts, {**_CLIP, "guidance_scale_2": 2.0}, inputs=("image", "last_image")
    ),
    "wan-vace": TinyPipeline("wan2.1-vace-1.3b", wan_vace, _CLIP, inputs=("video", "reference_images")),
    "cogvideox-image": TinyPipeline(
        "cogvideox-5b-i2v",
        cogvideox_image_to_video,
        {**_CLIP, "width": 16, "height": 16},
        SMALL_SIZES + _SHORT_TEXT,
        inputs=("image",),
    ),
    "hunyuan15-image": TinyPipeline(
        "hunyuan-video-1.5-i2v",
        hunyuan_video_15_image_to_video,
        {**_CLIP, "width": 16, "height": 16},
        inputs=("image",),
    ),
    "ltx2-image": TinyPipeline(
        "ltx-2-i2v",
        ltx2_image_to_video,
        _CLIP,
        SMALL_SIZES + "arguments = { max_sequence_length = 16, spatio_temporal_guidance_blocks = [1] }\n",
        inputs=("image",),
    ),
}
"""By name: what resumes must hold for, too."""

WAN_VIDEO = TinyPipeline("wan2.1-v2v-1.3b", wan_video_to_video, _CLIP, inputs=("video",))
"""Cannot be resumed."""
