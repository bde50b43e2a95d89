"""The fields of a job as people write them: one parser a field, from raw values to checked ones."""

import re
from typing import cast

from pipeline.files.json_reader import parse_json
from pipeline.names import check_gpu_type, check_labels, check_name, check_text, split_label
from pipeline.nearest import did_you_mean
from pipeline.prompts.acceleration import parse_acceleration
from pipeline.prompts.loras import parse_loras
from pipeline.prompts.numbers import Parser, decimal, flag, number, show, spreadsheet_hint, whole
from pipeline.prompts.scoring import SCORE_FIELDS
from pipeline.prompts.seed_fields import MAX_SEEDS, parse_seed, parse_seeds
from pipeline.rates import MAX_FPS, check_rate, parse_fraction
from pipeline.spec import MAX_SEGMENTS

MAX_PROMPT_CHARS = 50_000
"""Room for 5,000 words of English (some 30,000 characters) and more; text encoders read a few hundred tokens."""
MAX_JOBS = MAX_SEEDS
MAX_REFERENCES = 16

_SIZE = re.compile(r"\s*([0-9]{1,6})\s*[x×X*]\s*([0-9]{1,6})\s*")


def _text(maximum: int, *, empty: bool = False) -> Parser:
    return lambda value, _: check_text(_string(value), maximum, empty=empty)


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{show(value)} is not text")
    return value


def _rate(value: object, text: bool) -> float:
    """A frame rate that containers can carry, also as ``30000/1001``."""
    fraction = parse_fraction(value) if isinstance(value, str) else None
    rate = decimal(value, text) if fraction is None else fraction
    if isinstance(rate, bool) or not isinstance(rate, int | float):
        raise ValueError(f"{show(value)} is not a number over 0 and at most {MAX_FPS}{spreadsheet_hint(value, text)}")
    return check_rate(rate)


def _size(value: object, _: bool) -> tuple[int, int]:
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{show(value)} is not of the form '832x480' (width x height, in pixels)")
    return int(match[1]), int(match[2])


def _gpu(value: object, _: bool) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not names:
        raise ValueError(f"{show(value)} is not a GPU type or a list of them")
    types = tuple(name.strip() if isinstance(name, str) else name for name in names)
    for name in types:
        if not isinstance(name, str):
            raise ValueError(f"{show(name)} is not a GPU type such as 'h200'")
        check_gpu_type(name)
    return tuple(dict.fromkeys(types))


def _segments(value: object, text: bool) -> int | tuple[str, ...]:
    """A count, or a list of prompts; as text the list is JSON."""
    if text and isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = parse_json(value, allow_nan=True)
        except ValueError:
            raise ValueError(f"{show(value)} is not a JSON list of prompts") from None
    if not isinstance(value, list):
        try:
            return int(cast(int, whole(1, MAX_SEGMENTS)(value, text)))
        except ValueError as error:
            raise ValueError(f"{error}, or a list of prompts") from None
    if not 1 <= len(value) <= MAX_SEGMENTS:
        raise ValueError(f"lists {len(value)} prompts; 1 to {MAX_SEGMENTS} are allowed")
    prompts = []
    for place, prompt in enumerate(value, 1):
        try:
            prompts.append(str(_text(MAX_PROMPT_CHARS)(prompt, True)))
        except ValueError as error:
            raise ValueError(f"prompt {place}: {error}") from None
    return tuple(prompts)


def _custom_id(value: object, _: bool) -> str:
    return check_name(_string(value), 128)


def _labels(value: object, text: bool) -> dict[str, str]:
    if isinstance(value, str) and text:
        try:
            pairs = [split_label(part) for part in value.split(",")]
        except ValueError:
            pairs = []
        if not pairs or any(content is None for _, content in pairs):
            raise ValueError(f"{show(value)} is not of the form 'name=value,name=value'")
        items: dict[object, object] = dict(pairs)
        if len(items) != len(pairs):
            raise ValueError(f"{show(value)} names a label twice")
    elif isinstance(value, dict):
        items = value
    else:
        raise ValueError(f"{show(value)} is not a mapping of names to texts")
    named = {_label(name, "name"): _label(content, f"value of {show(name)}") for name, content in items.items()}
    return check_labels(named)


def _label(value: object, what: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18:
        return str(value)
    try:
        return _string(value)
    except ValueError as error:
        raise ValueError(f"label's {what}: {error}") from None


def _references(value: object, text: bool) -> tuple[str, ...]:
    """A list of values of ``image``; text is one of them, or a JSON list."""
    if text and isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = parse_json(value, allow_nan=True)
        except ValueError:
            raise ValueError(f"{show(value)} is not a JSON list") from None
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not values:
        raise ValueError(f"{show(value)} is not an image or a list of them")
    if len(values) > MAX_REFERENCES:
        raise ValueError(f"has {len(values)} images; at most {MAX_REFERENCES} are allowed")
    return tuple(str(_IMAGE(item, text)) for item in values)


_IMAGE = _text(45_000_000)
"""Room for 32 MiB in base64."""

PARSERS: dict[str, Parser] = {
    "prompt": _text(MAX_PROMPT_CHARS),
    "negative_prompt": _text(MAX_PROMPT_CHARS, empty=True),
    "seed": parse_seed,
    "seeds": parse_seeds,
    "num_frames": whole(1, 1_000_000),
    "seconds": number(0, 86_400, open_low=True),
    "width": whole(1, 100_000),
    "height": whole(1, 100_000),
    "size": _size,
    "fps": _rate,
    "num_inference_steps": whole(1, 1000),
    "guidance_scale": number(0, 1000),
    "guidance_scale_2": number(0, 1000),
    "image": _IMAGE,
    "last_image": _IMAGE,
    "video": _text(8192),
    "reference_images": _references,
    "preset": _text(128),
    "gpu": _gpu,
    "priority": whole(-100, 100),
    "custom_id": _custom_id,
    "labels": _labels,
    "enhance": flag,
    "acceleration": parse_acceleration,
    "loras": parse_loras,
    "lora": parse_loras,
    "segments": _segments,
    "auto_extend": flag,
}

FIELD_RULES: dict[str, str] = {
    "prompt": f"text, 1 to {MAX_PROMPT_CHARS} characters",
    "negative_prompt": f"text, at most {MAX_PROMPT_CHARS} characters",
    "seed": "a whole number from 0 to 2**63 - 1",
    "seeds": "a list of seeds, or text such as '1-4' or '1,2,5-7'",
    "num_frames": "a whole number that the preset allows",
    "seconds": "length of the clip; frames are seconds × fps",
    "width": "pixels, as the preset allows",
    "height": "pixels, as the preset allows",
    "size": "text 'WIDTHxHEIGHT', instead of width and height",
    "fps": "frames a second, over 0 and at most 240, also as '30000/1001'",
    "num_inference_steps": "a whole number from 1 to 1000",
    "guidance_scale": "a number from 0 to 1000",
    "guidance_scale_2": "a number from 0 to 1000, for models with two stages of denoising",
    "image": "path or http(s) URL of a PNG, JPEG or WebP file, or data:image/…;base64,…",
    "last_image": "the same, for the clip's last frame, beside image",
    "video": "path or http(s) URL of an MP4, QuickTime, Matroska, WebM or AVI file, for presets that take a video",
    "reference_images": "one image or a list of them, as for image, for presets that take them",
    "preset": "name of a preset",
    "gpu": "a GPU type or a list of them",
    "priority": "a whole number from -100 to 100; higher runs first",
    "custom_id": "your own name for the job, unique in the file, at most 128 characters",
    "labels": "a mapping, or text 'name=value,name=value'",
    "enhance": "true or false",
    "acceleration": "a mapping, or text 'option,option=value'; see docs/acceleration.md",
    "loras": "a list of mappings: 'path', or 'repo' of the hub with 'weight_name' and 'revision'; and 'scale'",
    "lora": "the same as text: 'style.safetensors@0.8,org/name:file.safetensors', or 'none'",
    "segments": "how many segments the clip has, or a list of their prompts",
    "auto_extend": "true or false; the enhancer writes the prompt of each segment after the first",
    "sweep": "a mapping: 'mode' (product or zip) and lists of values by field",
}


def unknown_field(name: str, *, hint: bool = True, known: bool = True) -> str:
    """The message for a field that does not exist, with the nearest one, and all there are."""
    if name in SCORE_FIELDS:
        return "applies to the whole batch: give it in the file's defaults or on the command line"
    near = did_you_mean(name, FIELD_RULES).strip() if hint else ""
    fields = f"known: {', '.join(FIELD_RULES)}" if known else ""
    return "; ".join(["unknown field", " ".join(part for part in (near, fields) if part)]).removesuffix("; ")
