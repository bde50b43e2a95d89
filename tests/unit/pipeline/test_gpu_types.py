"""One grammar of GPU types: what a prompt file may name, a worker can bear, a price can have and a queue can be."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from pipeline.errors import InputError, SettingsError
from pipeline.names import MAX_GPU_TYPE, check_gpu_type, is_gpu_type
from pipeline.prompts.parse import parse_bytes
from pipeline.settings import load_settings
from pipeline.spec import JobSpec
from service.changes.pausing import queue_names

VALID = ["h200", "a100-80gb", "rtx4090", "h200x4", "9", "a" * MAX_GPU_TYPE]
WRONG = ["a100_80gb", "H200", "a.b", "-a", "", "a b", "../x", "é", "a" * (MAX_GPU_TYPE + 1), "a100-80GB"]


def _by_line(name: str) -> bool:
    line = json.dumps({"prompt": "x", "gpu": [name]}).encode()
    try:
        parse_bytes(line, "p.jsonl", overrides={}, settings=load_settings())
    except InputError:
        return False
    return True


def _by_setting(**values: object) -> bool:
    try:
        load_settings(**values)
    except SettingsError:
        return False
    return True


def _by_pause(name: str) -> bool:
    try:
        queue_names([name])
    except InputError:
        return False
    return True


def _by_row(name: str) -> bool:
    values = {"width": 32, "height": 32, "num_frames": 5, "fps": 8, "num_inference_steps": 1, "guidance_scale": 1}
    try:
        JobSpec.model_validate({"prompt": "a", "seed": 1, "preset": "tiny-wan", "gpu": [name], **values})
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("name", [*VALID, *WRONG])
def test_every_place_has_the_same_word_on_a_name(name: str) -> None:
    valid = name in VALID

    assert is_gpu_type(name) is valid
    assert _by_line(name) is valid
    assert _by_pause(name) is valid
    assert _by_row(name) is valid
    if name.strip() == name != "":  # a setting loses its blanks, and is unset where it is empty
        assert _by_setting(gpu_type=name) is valid
        assert _by_setting(prices={name: 1.0}) is valid


@pytest.mark.parametrize(
    ("name", "near"), [("A100_80GB", "a100-80gb"), ("rtx 4090", "rtx-4090"), ("h200.x4", "h200-x4")]
)
def test_the_message_has_the_nearest_name(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"is not a valid GPU type: use '{near}'"):
        check_gpu_type(name)
