"""The published pipelines' own classes at tiny size with random weights, one function a class.

Each gives a pipeline to be saved with ``save_pretrained`` and loaded like the published one, and the lines that a
preset of one's own needs beside ``extends`` and ``model`` to fit it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder
from transformers import (
    ByT5Tokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    T5Config,
    T5EncoderModel,
)

from pipeline.generators import tiny_wan

SMALL_SIZES = "size = { multiple = 16, minimum = 16, maximum = 128 }\n"


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


def ltx() -> Any:
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        patch_size=1,
        patch_size_t=1,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=1,
        caption_channels=32,
    )
    vae = diffusers.AutoencoderKLLTXVideo(
        in_channels=3,
        out_channels=3,
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False, False, False, False, False),
        upsample_residual=(False, False, False, False),
        upsample_factor=(1, 1, 1, 1),
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )
    tokenizer, text_encoder = _t5()
    return diffusers.LTXPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae.eval(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer.eval(),
    )


def ltx_image_to_video() -> Any:
    text = ltx()
    return diffusers.LTXImageToVideoPipeline(**text.components)


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


def cogvideox_ddim() -> Any:
    return _cogvideox(diffusers.CogVideoXDDIMScheduler())


def cogvideox_dpm() -> Any:
    """Its scheduler returns two tensors, takes one of them back at the next step, and draws noise."""
    return _cogvideox(diffusers.CogVideoXDPMScheduler())


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
    tokenizer, text_encoder = _t5()
    return diffusers.CogVideoXPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae.eval(),
        transformer=transformer.eval(),
        scheduler=scheduler,
    )


def mochi() -> Any:
    transformer = diffusers.MochiTransformer3DModel(
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        pooled_projection_dim=16,
        in_channels=12,
        out_channels=None,
        qk_norm="rms_norm",
        text_embed_dim=32,
        time_embed_dim=4,
        activation_fn="swiglu",
        max_sequence_length=16,
    )
    vae = diffusers.AutoencoderKLMochi(
        latent_channels=12,
        out_channels=3,
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    )
    tokenizer, text_encoder = _t5()
    return diffusers.MochiPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae.eval(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer.eval(),
    )


def hunyuan_video_15() -> Any:
    """A pipeline without a step callback, whose guidance belongs to a component."""
    transformer = diffusers.HunyuanVideo15Transformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        patch_size=1,
        patch_size_t=1,
        text_embed_dim=16,
        text_embed_2_dim=32,
        image_embed_dim=12,
        rope_axes_dim=(2, 2, 4),
        target_size=16,
        task_type="t2v",
    )
    vae = diffusers.AutoencoderKLHunyuanVideo15(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(16, 16),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=4,
        downsample_match_channel=False,
        upsample_match_channel=False,
    )
    tokenizer, text_encoder_2 = _t5()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    config = Qwen2_5_VLTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        rope_parameters={"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 10_000.0},
    )
    return diffusers.HunyuanVideo15Pipeline(
        text_encoder=Qwen2_5_VLTextModel(config).eval(),
        tokenizer=tokenizer,
        transformer=transformer.eval(),
        vae=vae.eval(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=text_encoder_2,
        tokenizer_2=ByT5Tokenizer(),
        guider=ClassifierFreeGuidance(guidance_scale=3.0),
    )


def ltx2() -> Any:
    """Two schedulers: the pictures' and a copy for the sound. The text encoder is a T5 in Gemma's place."""
    tokenizer, text_encoder = _t5()
    transformer = diffusers.LTX2VideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        patch_size=1,
        patch_size_t=1,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=2,
        qk_norm="rms_norm_across_heads",
        caption_channels=32,
        rope_double_precision=False,
        rope_type="split",
    )
    connectors = LTX2TextConnectors(
        caption_channels=32,
        text_proj_in_factor=2,
        video_connector_num_attention_heads=4,
        video_connector_attention_head_dim=8,
        video_connector_num_layers=1,
        video_connector_num_learnable_registers=None,
        audio_connector_num_attention_heads=4,
        audio_connector_attention_head_dim=8,
        audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=None,
        connector_rope_base_seq_len=32,
        rope_theta=10_000.0,
        rope_double_precision=False,
        causal_temporal_positioning=False,
        rope_type="split",
    )
    vae = diffusers.AutoencoderKLLTX2Video(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(8,),
        decoder_block_out_channels=(8,),
        layers_per_block=(1,),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatial",),
        upsample_residual=(False,),
        upsample_factor=(1,),
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )
    audio_vae = diffusers.AutoencoderKLLTX2Audio(
        base_channels=4,
        output_channels=2,
        ch_mult=(1,),
        num_res_blocks=1,
        attn_resolutions=None,
        in_channels=2,
        resolution=32,
        latent_channels=2,
        norm_type="pixel",
        causality_axis="height",
        dropout=0.0,
        mid_block_add_attention=False,
        sample_rate=16_000,
        mel_hop_length=160,
        is_causal=True,
        mel_bins=8,
    )
    vocoder = LTX2Vocoder(
        in_channels=16,
        hidden_channels=32,
        out_channels=2,
        upsample_kernel_sizes=[4, 4],
        upsample_factors=[2, 2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1, 3, 5]],
        leaky_relu_negative_slope=0.1,
        output_sampling_rate=16_000,
    )
    return diffusers.LTX2Pipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=vae.eval(),
        audio_vae=audio_vae.eval(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        connectors=connectors.eval(),
        transformer=transformer.eval(),
        vocoder=vocoder.eval(),
    )


def _t5() -> tuple[Any, Any]:
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


_SHORT = {"num_frames": 9, "fps": 8, "guidance_scale": 3.0}
_SHORT_TEXT = "arguments = { max_sequence_length = 16 }\n"

TINY: dict[str, TinyPipeline] = {
    "wan-unipc": TinyPipeline("wan2.1-t2v-1.3b", wan, {"width": 32, "height": 32, **_SHORT}),
    "wan-euler": TinyPipeline("wan2.1-t2v-1.3b", wan_flow_match_euler, {"width": 32, "height": 32, **_SHORT}),
    "wan-stochastic": TinyPipeline("wan2.1-t2v-1.3b", wan_stochastic, {"width": 32, "height": 32, **_SHORT}),
    "wan-two": TinyPipeline(
        "wan2.2-t2v-a14b", wan_two_transformers, {"width": 32, "height": 32, **_SHORT, "guidance_scale_2": 2.0}
    ),
    "wan-image": TinyPipeline(
        "wan2.2-ti2v-5b-i2v", wan_image_to_video, {"width": 32, "height": 32, **_SHORT}, inputs=("image",)
    ),
    "ltx": TinyPipeline("ltx-video", ltx, {"width": 32, "height": 32, **_SHORT}),
    "ltx-image": TinyPipeline(
        "ltx-video-i2v", ltx_image_to_video, {"width": 32, "height": 32, **_SHORT}, inputs=("image",)
    ),
    "svd": TinyPipeline(
        "svd-xt", stable_video_diffusion, {"width": 64, "height": 64, **_SHORT, "num_frames": 3}, inputs=("image",)
    ),
    "cogvideox-ddim": TinyPipeline(
        "cogvideox-2b", cogvideox_ddim, {"width": 16, "height": 16, **_SHORT}, SMALL_SIZES + _SHORT_TEXT
    ),
    "cogvideox-dpm": TinyPipeline(
        "cogvideox-2b", cogvideox_dpm, {"width": 16, "height": 16, **_SHORT}, SMALL_SIZES + _SHORT_TEXT
    ),
    "mochi": TinyPipeline(
        "mochi-1", mochi, {"width": 16, "height": 16, **_SHORT, "num_frames": 7}, SMALL_SIZES + _SHORT_TEXT
    ),
    "hunyuan15": TinyPipeline("hunyuan-video-1.5", hunyuan_video_15, {"width": 16, "height": 16, **_SHORT}),
    "ltx2": TinyPipeline(
        "ltx-2",
        ltx2,
        {"width": 32, "height": 32, **_SHORT},
        SMALL_SIZES + "arguments = { max_sequence_length = 16, spatio_temporal_guidance_blocks = [1] }\n",
    ),
}
"""By name: what resumes must hold for."""
