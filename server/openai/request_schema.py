"""What OpenAPI says of the bodies that are read field by field: their names, and what each is."""

from collections.abc import Sequence
from typing import Any

from pipeline.prompts.fields import FIELD_RULES
from server.openai.field_names import ACCEPTED, IGNORED, QUALITIES, SPELLINGS

_RULES = {
    **{name: rule for name, rule in FIELD_RULES.items() if name in ACCEPTED},
    **{spelling: f"another name of {name}" for spelling, name in SPELLINGS.items() if spelling != name},
    **{name: text.partition(":")[0] for name, text in IGNORED.items()},
    "model": "name of a preset; GET /v1/models lists them",
    "size": "text 'WIDTHxHEIGHT', or auto",
    "input_reference": "an image, or a video for presets that take one: a file, an http(s) URL, a data URL, or an "
    "object with image_url",
    "image": "an image: a file, an http(s) URL, data:image/…;base64,…, or an object with image_url",
    "last_image": "the same, for the clip's last frame",
    "video": "a video: a file, an http(s) URL, or the id of a finished video, also as an object with id",
    "reference_images": "images, for presets that take them",
    "n": "how many videos, 1 to 10; a given seed is the first one's",
    "num_outputs_per_prompt": "another name of n",
    "num_videos": "another name of n",
    "aspect_ratio": "text such as 16:9: the size with the preset's short edge, or with short_edge",
    "short_edge": "pixels of the shorter side",
    "quality": f"the encoder's quality: {', '.join(QUALITIES)} or a CRF from 0 to 63",
    "output_quality": "another name of quality",
    "codec": "the encoder",
    "score": "metrics by which the clip is scored",
    "gate": "rules that the scores must meet",
    "reroll": "how often a clip that the gate turns down is made again, 0 to 20",
    "metadata": "labels, as names and texts",
    "user": "a label",
    "task": "the kind of model that is expected: t2v, i2v, ti2v or v2v",
    "extra_body": "more fields, as an object or as JSON text; they win over those beside it",
    "extra_json": "the same",
    "video_params": "more fields, as an object or as JSON text; they must not contradict those beside it",
    "extra_params": "the same",
    "diffusers_kwargs": "the same",
    "enable_teacache": "only false",
    "enable_frame_interpolation": "only false",
    "whole": "whether an extension begins with the finished video; true if not given",
    "generate_sound": "true for presets whose model makes sound, else false",
}
"""A sentence's end on each field."""


def request_body(*required: str, only: Sequence[str] = ()) -> dict[str, Any]:
    """The part of an operation that describes its body, in each of its encodings; ``only`` are all its fields."""
    schema = {
        "type": "object",
        "required": list(required),
        "properties": {name: {"description": _RULES[name]} for name in only or ACCEPTED},
    }
    kinds = ("application/json", "multipart/form-data", "application/x-www-form-urlencoded")
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema} for kind in kinds}}}
