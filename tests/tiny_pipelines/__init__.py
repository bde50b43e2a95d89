"""The published pipelines' own classes at tiny size with random weights, a file a family and a function a class.

Each gives a pipeline to be saved with ``save_pretrained`` and loaded like the published one, and the lines that a
preset of one's own needs beside ``extends`` and ``model`` to fit it.
"""

from __future__ import annotations

from tests.tiny_pipelines.base import SMALL_SIZES, TinyPipeline
from tests.tiny_pipelines.cogvideox import cogvideox_ddim, cogvideox_dpm, cogvideox_image_to_video
from tests.tiny_pipelines.hunyuan_video import hunyuan_video_15, hunyuan_video_15_image_to_video
from tests.tiny_pipelines.ltx_video import ltx, ltx2, ltx2_image_to_video, ltx_image_to_video
from tests.tiny_pipelines.mochi_1 import mochi
from tests.tiny_pipelines.svd import stable_video_diffusion
from tests.tiny_pipelines.wan import (
    wan,
    wan_first_and_last,
    wan_flow_match_euler,
    wan_image_to_video,
    wan_stochastic,
    wan_two_experts,
    wan_two_transformers,
    wan_vace,
    wan_video_to_video,
)

__all__ = ["TINY", "TINY_INPUTS", "WAN_VIDEO", "TinyPipeline", "ltx", "stable_video_diffusion"]

_CLIP = {"width": 32, "height": 32, "num_frames": 9, "fps": 8, "guidance_scale": 3.0}
_SHORT_TEXT = "arguments = { max_sequence_length = 16 }\n"

TINY: dict[str, TinyPipeline] = {
    "wan-unipc": TinyPipeline("wan2.1-t2v-1.3b", wan, _CLIP),
    "wan-euler": TinyPipeline("wan2.1-t2v-1.3b", wan_flow_match_euler, _CLIP),
    "wan-stochastic": TinyPipeline("wan2.1-t2v-1.3b", wan_stochastic, _CLIP),
    "wan-two": TinyPipeline("wan2.2-t2v-a14b", wan_two_transformers, {**_CLIP, "guidance_scale_2": 2.0}),
    "wan-image": TinyPipeline("wan2.2-ti2v-5b-i2v", wan_image_to_video, _CLIP, inputs=("image",)),
    "ltx": TinyPipeline("ltx-video", ltx, _CLIP),
    "ltx-image": TinyPipeline("ltx-video-i2v", ltx_image_to_video, _CLIP, inputs=("image",)),
    "svd": TinyPipeline(
        "svd-xt", stable_video_diffusion, {**_CLIP, "width": 64, "height": 64, "num_frames": 3}, inputs=("image",)
    ),
    "cogvideox-ddim": TinyPipeline(
        "cogvideox-2b", cogvideox_ddim, {**_CLIP, "width": 16, "height": 16}, SMALL_SIZES + _SHORT_TEXT
    ),
    "cogvideox-dpm": TinyPipeline(
        "cogvideox-2b", cogvideox_dpm, {**_CLIP, "width": 16, "height": 16}, SMALL_SIZES + _SHORT_TEXT
    ),
    "mochi": TinyPipeline(
        "mochi-1", mochi, {**_CLIP, "width": 16, "height": 16, "num_frames": 7}, SMALL_SIZES + _SHORT_TEXT
    ),
    "hunyuan15": TinyPipeline("hunyuan-video-1.5", hunyuan_video_15, {**_CLIP, "width": 16, "height": 16}),
    "ltx2": TinyPipeline(
        "ltx-2",
        ltx2,
        _CLIP,
        SMALL_SIZES + "arguments = { max_sequence_length = 16, spatio_temporal_guidance_blocks = [1] }\n",
    ),
}
"""By name: what resumes must hold for."""

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
