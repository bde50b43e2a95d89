"""What a clip's record says of texts that the model did not read to their end, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.generators.base import Progress
from pipeline.generators.diffusers_video import DiffusersVideoGenerator
from tests.unit.pipeline.generators.conftest import MakeRequest

CLIP = {"seed": 3, "width": 32, "height": 32, "num_frames": 5, "num_inference_steps": 2}
LONG = "word " * 200
"""A thousand tokens of the tiny model's, of bytes, and one at their end."""


def ignore(_: Progress) -> None:
    pass


@pytest.fixture(scope="module")
def wan(model_cache: Path) -> Iterator[DiffusersVideoGenerator]:
    generator = DiffusersVideoGenerator(model_cache)
    generator.load("tiny-wan", ignore)
    yield generator
    generator.unload()


@pytest.mark.parametrize(
    ("fields", "facts"),
    [
        ({}, {}),
        ({"prompt": LONG}, {"tokens_read": {"prompt": {"read": 512, "of": 1001}}}),
        ({"negative_prompt": LONG}, {"tokens_read": {"negative_prompt": {"read": 512, "of": 1001}}}),
        ({"negative_prompt": LONG, "guidance_scale": 1.0}, {"negative_prompt_used": False}),
        ({"negative_prompt": "dull", "guidance_scale": 1.0}, {"negative_prompt_used": False}),
        ({"negative_prompt": "dull"}, {}),
    ],
)
def test_what_is_not_read_is_recorded(
    wan: DiffusersVideoGenerator, make_request: MakeRequest, fields: dict[str, Any], facts: dict[str, Any]
) -> None:
    result = wan.generate(make_request("tiny-wan", **{**CLIP, **fields}), ignore)
    found = {key: value for key, value in result.facts.items() if key in ("tokens_read", "negative_prompt_used")}
    assert found == facts


def test_the_record_is_true(wan: DiffusersVideoGenerator, make_request: MakeRequest) -> None:
    # Given clips that differ in text that is said to be unread, and in text that is read
    def digest(**fields: Any) -> str:
        return wan.generate(make_request("tiny-wan", **{**CLIP, **fields}), ignore).frames_sha256

    assert digest(prompt=LONG + "a") == digest(prompt=LONG + "b")
    assert digest(negative_prompt="a", guidance_scale=1.0) == digest(negative_prompt="b", guidance_scale=1.0)
    assert digest(negative_prompt="a") != digest(negative_prompt="b")
