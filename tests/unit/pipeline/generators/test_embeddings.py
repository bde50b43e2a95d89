"""Prompts are encoded once while a model is loaded, and the frames are those of a model that encodes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.generators.base import Progress
from pipeline.generators.diffusers_video import DiffusersVideoGenerator
from pipeline.generators.embeddings import EmbeddingCache
from tests.unit.pipeline.generators.conftest import MakeRequest

# diffusers' schedulers hand torch tensors to numpy in a way that numpy 2 is about to drop; not ours to mend.
pytestmark = [pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")]


def ignore(_: Progress) -> None:
    pass


def test_a_prompt_that_was_encoded_is_not_encoded_again_and_the_frames_are_equal(
    model_cache: Path, make_request: MakeRequest
) -> None:
    generator = DiffusersVideoGenerator(model_cache)
    generator.load("tiny-wan", ignore)
    calls = []
    generator._pipe.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    small = {"width": 32, "height": 32, "num_frames": 5, "num_inference_steps": 2}

    def make(prompt: str, seed: int) -> tuple[str, int, bool]:
        before = len(calls)
        result = generator.generate(make_request("tiny-wan", prompt=prompt, seed=seed, **small), ignore)
        return result.frames_sha256, len(calls) - before, result.facts["prompt_known"]

    first, other_seed, other_prompt = make("a fox", 1), make("a fox", 2), make("a cat", 1)
    again = make("a fox", 1)

    assert first[1:] == (2, False), "the prompt and the empty negative one"
    assert other_seed[1:] == again[1:] == (0, True)
    assert other_prompt[1] > 0
    assert again[0] == first[0] != other_prompt[0]
    fresh = DiffusersVideoGenerator(model_cache)
    fresh.load("tiny-wan", ignore)
    for seed, expected in ((2, other_seed), (1, first)):
        made = fresh.generate(make_request("tiny-wan", prompt="a fox", seed=seed, **small), ignore)
        assert made.frames_sha256 == expected[0]


def test_a_prompt_that_was_encoded_ahead_is_there_and_a_wrong_hint_changes_nothing(
    model_cache: Path, make_request: MakeRequest
) -> None:
    small = {"seed": 1, "width": 32, "height": 32, "num_frames": 5, "num_inference_steps": 2}
    generator, plain = DiffusersVideoGenerator(model_cache), DiffusersVideoGenerator(model_cache)
    for one in (generator, plain):
        one.load("tiny-wan", ignore)
    warmed = {id(generator._pipe), id(generator._continuing)}
    assert len(warmed) == 2
    assert set(generator._embeddings._last) == warmed, "the warm-up made a first segment and one that goes on"
    calls = []
    generator._pipe.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    for prompt, negative in (("a fox", None), ("a cat", "blurry"), ("a cat", None)):
        generator.prepare("tiny-wan", prompt, negative)
        generator.prepare("svd-xt", "of another preset", None)
        before = len(calls)
        request = make_request("tiny-wan", prompt=prompt, negative_prompt=negative, **small)
        made = generator.generate(request, ignore)
        assert (len(calls) - before, made.facts["prompt_known"]) == (0, True)
        again = make_request("tiny-wan", prompt=prompt, negative_prompt=negative, **small)
        assert made.frames_sha256 == plain.generate(again, ignore).frames_sha256
        generator.prepare("tiny-wan", "what nobody asks for", "ever")


class Encoder:
    """The seam that every pipeline has: ``encode_prompt``."""

    def __init__(self) -> None:
        self.calls = 0

    def encode_prompt(self, prompt: Any, device: Any = None, embeds: Any = None) -> Any:
        self.calls += 1
        return torch.full((2, 4), float(len(prompt))), None


def test_what_a_caller_writes_into_its_embeddings_stays_its_own() -> None:
    pipe = Encoder()
    EmbeddingCache().attach(pipe)
    for _ in range(3):
        embeds, none = pipe.encode_prompt("fox")
        assert none is None
        assert embeds.eq(3).all()
        embeds.zero_()
    assert pipe.calls == 1


def test_a_call_with_tensors_is_passed_on_and_old_entries_make_room() -> None:
    pipe = Encoder()
    cache = EmbeddingCache(max_bytes=2 * 32)
    cache.attach(pipe)
    for _ in range(2):
        pipe.encode_prompt("fox", embeds=torch.zeros(1))
    assert (pipe.calls, cache.hits) == (2, 0)
    for prompt in ("a", "b", "a", "c", "a", "b"):
        pipe.encode_prompt([prompt], device=torch.device("cpu"))
    # "c" pushed out "b", which had not been asked for as long.
    assert (pipe.calls, cache.hits) == (2 + 4, 2)
