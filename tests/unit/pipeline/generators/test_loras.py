"""LoRAs on a real pipeline: what they change, what stays when they are off, what is kept, what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import RefusedError, RetryableError, StoppedError
from pipeline.generators.base import GenerationRequest, Phase, Progress, SavedCheckpoint
from pipeline.generators.diffusers_video import DiffusersVideoGenerator
from pipeline.models.tiny_wan import ensure_tiny_wan
from pipeline.spec import InputRef, LoraRef
from tests.loras import write_lora
from tests.unit.pipeline.generators.conftest import MakeRequest

CLIP = {"seed": 3, "width": 32, "height": 32, "num_frames": 5, "num_inference_steps": 3}

pytestmark = [
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")  # of the calls by hand
]
Worn = Callable[..., GenerationRequest]


def ignore(_: Progress) -> None:
    pass


class Kept:
    """Keeps a clip's checkpoints where they are."""

    def __init__(self) -> None:
        self.saves: list[SavedCheckpoint] = []
        self.reasons: list[str] = []

    def saved(self, checkpoint: SavedCheckpoint) -> None:
        self.saves.append(checkpoint)

    def unusable(self, reason: str) -> None:
        self.reasons.append(reason)


@pytest.fixture(scope="module")
def wan(model_cache: Path) -> Iterator[DiffusersVideoGenerator]:
    generator = DiffusersVideoGenerator(model_cache)
    generator.load("tiny-wan", ignore)
    yield generator
    generator.unload()


def ref_of(path: Path, scale: float = 1.0) -> LoraRef:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return LoraRef(file=InputRef(sha256=digest, media_type="x", name=path.name), scale=scale)


@pytest.fixture
def worn(make_request: MakeRequest) -> Worn:
    """The clip with these LoRAs, each a path and a scale."""

    def make(*given: tuple[Path, float], **changes: object) -> GenerationRequest:
        refs = [ref_of(path, scale) for path, scale in given]
        request = make_request("tiny-wan", **{**CLIP, "loras": refs, **changes})
        return replace(request, loras=tuple(path for path, _ in given))

    return make


def test_frames_are_those_of_diffusers_own_calls_and_without_it_those_of_a_model_that_never_had_one(
    wan: DiffusersVideoGenerator, model_cache: Path, worn: Worn, tmp_path: Path
) -> None:
    one, two = write_lora(tmp_path / "one.safetensors"), write_lora(tmp_path / "two.safetensors", seed=1, rank=3)

    def made(*given: tuple[Path, float]) -> str:
        return wan.generate(worn(*given), ignore).frames_sha256

    plain = made()
    found = {"one": made((one, 0.8)), "both": made((one, 0.8), (two, 0.5)), "two": made((two, 0.5))}

    assert len({plain, *found.values()}) == 4, "each changes the frames"
    assert made() == plain, "put on, and taken off again"
    assert made((one, 0.8)) == found["one"], "kept meanwhile"
    assert made((one, 0.4)) != found["one"], "by another scale"
    by_hand = diffusers.WanPipeline.from_pretrained(ensure_tiny_wan(model_cache))
    by_hand.set_progress_bar_config(disable=True)
    by_hand.load_lora_weights(str(one), adapter_name="one")
    by_hand.load_lora_weights(str(two), adapter_name="two")
    for name, adapters, weights in (("one", ["one"], [0.8]), ("both", ["one", "two"], [0.8, 0.5])):
        by_hand.set_adapters(adapters, weights)
        size = {key: value for key, value in CLIP.items() if key != "seed"}
        video = by_hand("a lighthouse at dusk", generator=torch.Generator().manual_seed(3), **size).frames[0]
        assert found[name] == hashlib.sha256((video * 255).round().astype("uint8").tobytes()).hexdigest()


def test_those_that_no_clip_uses_go_when_there_are_too_many(model_cache: Path, worn: Worn, tmp_path: Path) -> None:
    paths = [write_lora(tmp_path / f"{seed}.safetensors", seed=seed) for seed in range(3)]
    bytes_of_one = sum(tensor.nbytes for tensor in load_file(paths[0]).values())
    generator = DiffusersVideoGenerator(model_cache, lora_bytes=2 * bytes_of_one)
    generator.load("tiny-wan", ignore)
    plain = generator.generate(worn(), ignore).frames_sha256
    for path in paths:
        generator.generate(worn((path, 1.0)), ignore)

    assert generator._loras is not None
    assert [name[1:] for name in generator._loras.kept] == [ref_of(p).file.sha256[:24] for p in paths[1:]]
    assert generator.generate(worn(), ignore).frames_sha256 == plain
    generator.free()
    assert generator._loras.kept == ()
    assert not any("lora" in name for name, _ in generator._pipe.transformer.named_modules()), "the layers too"
    assert generator.generate(worn(), ignore).frames_sha256 == plain


def test_stopped_and_resumed_with_it_and_not_from_a_checkpoint_made_without(
    wan: DiffusersVideoGenerator, worn: Worn, tmp_path: Path
) -> None:
    lora = write_lora(tmp_path / "style.safetensors")

    def stop(progress: Progress) -> None:
        if progress.phase is Phase.DENOISE and progress.step == 2:
            raise StoppedError("drain", keep=True)

    expected = {len(given): wan.generate(worn(*given), ignore).frames_sha256 for given in ((), ((lora, 0.7),))}
    cut = {}
    for given in ((), ((lora, 0.7),)):
        kept = Kept()
        with pytest.raises(StoppedError):
            wan.generate(replace(worn(*given), checkpoint_s=0.0), stop, kept)
        cut[len(given)] = kept.saves[0].path
        wan.generate(worn(), ignore)  # another clip in between, without any
    for made_with, goes_on_with in ((1, 1), (0, 0), (0, 1), (1, 0)):
        kept = Kept()
        given = ((lora, 0.7),) if goes_on_with else ()
        result = wan.generate(replace(worn(*given), checkpoint_s=0.0, resume_from=cut[made_with]), ignore, kept)
        assert result.frames_sha256 == expected[goes_on_with]
        assert ("resumed_from_step" in result.facts) == (made_with == goes_on_with)
        assert bool(kept.reasons) == (made_with != goes_on_with)


def test_with_a_step_cache(wan: DiffusersVideoGenerator, worn: Worn, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "style.safetensors")
    cache = {"step_cache": {"kind": "first_block", "threshold": 1.0}}
    plain = wan.generate(worn(acceleration=cache), ignore).frames_sha256
    with_it = wan.generate(worn((lora, 1.0), acceleration=cache), ignore).frames_sha256
    assert with_it != plain
    assert wan.generate(worn(acceleration=cache), ignore).frames_sha256 == plain


@pytest.mark.parametrize("what", ["another model's", "no LoRA of diffusers", "half", "gone"])
def test_what_cannot_be_put_on_is_refused_and_changes_nothing(
    wan: DiffusersVideoGenerator, worn: Worn, tmp_path: Path, what: str
) -> None:
    plain = wan.generate(worn(), ignore).frames_sha256
    path = write_lora(tmp_path / "bad.safetensors", seed=9, width=24 if what in ("gone", "half") else 32)
    if what == "no LoRA of diffusers":
        save_file({"lora.somewhere.else": torch.zeros(2)}, path)
    if what == "half":
        tensors = load_file(path)
        tensors.pop("transformer.blocks.0.attn1.to_q.lora_A.weight")
        save_file(tensors, path)
    request = worn((path, 1.0))
    if what == "gone":
        path.unlink()
    with pytest.raises(RetryableError if what == "gone" else RefusedError, match=r"bad\.safetensors") as caught:
        wan.generate(request, ignore)
    assert caught.value.code == ("input_gone" if what == "gone" else "lora_unusable")
    assert wan.generate(worn(), ignore).frames_sha256 == plain


@pytest.mark.timeout(120)
@pytest.mark.parametrize("modules", ["(([a-z0-9._]+)+)+!", ".*attn1.*"])
def test_an_expression_in_its_header_is_never_run(
    wan: DiffusersVideoGenerator, worn: Worn, tmp_path: Path, modules: str
) -> None:
    # Given a file whose header names the modules by an expression, of which the first would run for ever
    plain = write_lora(tmp_path / "plain.safetensors", seed=5)
    path = tmp_path / "expression.safetensors"
    config = {"transformer.r": 2, "transformer.lora_alpha": 2, "transformer.target_modules": modules}
    save_file(load_file(plain), path, metadata={"format": "pt", "lora_adapter_metadata": json.dumps(config)})

    found = wan.generate(worn((path, 1.0)), ignore).frames_sha256

    assert found == wan.generate(worn((plain, 1.0)), ignore).frames_sha256
