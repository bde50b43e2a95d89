"""The names that a request's fields may have: OpenAI's, those of other video servers, and those that are refused."""

from pipeline.prompts.fields import PARSERS

MAX_N = 10
OVERRIDING = ("extra_body", "extra_json")
"""Mappings whose fields override the top-level ones."""
NESTED = ("video_params", "extra_params", "diffusers_kwargs")
"""Mappings whose fields must not contradict the top-level ones."""
JSON_TEXT = (*OVERRIDING, *NESTED, "metadata", "labels", "acceleration", "reference_images", "lora", "loras")
SPELLINGS: dict[str, str] = {
    "model": "preset",
    "image": "image",
    "image_reference": "image",
    "image_url": "image",
    "video": "video",
    "video_reference": "video",
    "video_url": "video",
    "input_reference": "image",
    "reference_url": "image",
    "steps": "num_inference_steps",
    "frame_rate": "fps",
    "frames_per_second": "fps",
    "duration": "seconds",
    "lora": "loras",
}
"""Client names of prompt-file fields. ``GENERAL_REFERENCES`` are a video for presets that take one."""
OPENAI_NAMES = {"preset": "model", "image": "input_reference", "metrics": "score"}
"""OpenAI's names of fields, for messages about a field that the client did not name itself."""
GENERAL_REFERENCES = ("input_reference", "reference_url")
COUNTS = ("n", "num_outputs_per_prompt", "num_videos")
PROMPT_FILE_FIELDS = frozenset(PARSERS) - {"seeds"}
BATCH_CHOICES = ("score", "gate", "reroll", "codec")
QUALITY = ("quality", "output_quality")
QUALITIES: dict[str, int | None] = {
    "auto": None,
    "default": None,
    "standard": None,
    "low": 28,
    "medium": 23,
    "high": 18,
    "hd": 18,
    "maximum": 12,
}
"""The encoder's CRF for each word; None means the server's setting."""
SHAPES = ("aspect_ratio", "short_edge")
IGNORED: dict[str, str] = {"generator_device": "has no effect: noise is always drawn on the CPU"}
"""Fields that are accepted with a notice, and the notice."""
SWITCHES = {
    "enable_teacache": "is not available: ask for a step cache by acceleration, such as step_cache=first_block",
    "enable_frame_interpolation": "is not available: frames are generated; use num_frames and fps",
    "generate_sound": "cannot be switched on: a preset whose model makes sound always does",
}
"""Switches that a client may send only with a false value."""
WITH_SOUND = frozenset({"LTX2Pipeline", "LTX2ImageToVideoPipeline"})
_FIXED = "is decided by the preset: leave it out"
_PATH = "would be a path of the server, which no client chooses: upload the file, or give an http(s) URL"
REFUSED: dict[str, str] = {
    "seeds": "is not read here: use n, and seed for the first of them",
    "sweep": "is not read here: it is a field of prompt files",
    "true_cfg_scale": "is not an argument of these presets: use guidance_scale",
    "boundary_ratio": _FIXED,
    "flow_shift": _FIXED,
    "max_sequence_length": _FIXED,
    "frame_interpolation_exp": SWITCHES["enable_frame_interpolation"],
    "frame_interpolation_scale": SWITCHES["enable_frame_interpolation"],
    "frame_interpolation_model_path": SWITCHES["enable_frame_interpolation"],
    "sound_duration": "is not available: sound always has the length of its clip",
    "audio_reference": "is not available: no preset takes sound",
    "start_time_seconds": "is not available: a video is taken from its beginning",
    "output_compression": "is not available: use quality, a word or a CRF from 0 to 63",
    "video_path": _PATH,
    "image_path": _PATH,
    "output_path": _PATH,
}
"""Fields of other servers that are refused, and the reason."""
ACCEPTED = sorted(
    {
        *PROMPT_FILE_FIELDS,
        *SPELLINGS,
        *COUNTS,
        *BATCH_CHOICES,
        *QUALITY,
        *SHAPES,
        *IGNORED,
        *SWITCHES,
        *OVERRIDING,
        *NESTED,
    }
    | {"metadata", "user", "task"}
)
"""Every field name that a request may have."""
