"""Accelerations on the tiny Wan pipeline: each changes what it should, and none outlives its clip."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

from pipeline.acceleration import ATTENTION_BACKENDS, PLAIN, Acceleration
from pipeline.errors import RefusedError, StoppedError
from pipeline.generators.accelerations import calibrate
from pipeline.generators.accelerations.per_clip import accelerated
from pipeline.generators.base import GenerationRequest, Phase, Progress
from pipeline.generators.diffusers_video import DiffusersVideoGenerator
from pipeline.models.pipeline_class import pipeline_class
from pipeline.presets import all_presets, get_preset
from pipeline.presets.abilities import NO_CONTEXT_PARALLEL, NO_LORA, NO_STEP_CACHE, NO_TILING
from tests.tiny_pipelines import TINY, TINY_INPUTS, ltx
from tests.unit.pipeline.generators.conftest import MakeRequest

# diffusers' schedulers hand torch tensors to numpy in a way that numpy 2 is about to drop; not ours to mend.
pytestmark = [pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")]

STEPS = 6
PLAIN_CALLS = 2 * 2 * STEPS
"""Calls of attention: two blocks, with the prompt and without."""
CACHES: dict[str, tuple[dict[str, Any], int]] = {
    # The second block is skipped wherever the first one's residual changes by less than its own size.
    "first_block": ({"kind": "first_block", "threshold": 1.0}, 14),
    # Computed at steps 0, 1 and 2, then at (step - 4) % 5 == 0.
    "taylorseer": ({"kind": "taylorseer"}, 16),
    "taylorseer, lite": ({"kind": "taylorseer", "lite": True}, 16),
    # Ratios of one say that nothing changes: only the first 20 % and each fourth step are computed.
    "mag_cache": ({"kind": "mag_cache", "ratios": (1.0,) * STEPS}, 8),
    # Each second step, whatever the timestep.
    "pyramid_attention": ({"kind": "pyramid_attention", "timestep_low": 0, "timestep_high": 1000}, 12),
}


def ignore(_: Progress) -> None:
    pass


@pytest.fixture(scope="module")
def wan(model_cache: Path) -> DiffusersVideoGenerator:
    generator = DiffusersVideoGenerator(model_cache)
    generator.load("tiny-wan", ignore)
    return generator


@contextmanager
def counted(module_of: Any) -> Iterator[list[int]]:
    """Calls of the blocks' attention: where a hook skips one, its first layer is not called."""
    calls = [0]

    def note(*_: object) -> None:
        calls[0] += 1

    hooks = [block.attn1.to_q.register_forward_hook(note) for block in module_of.blocks]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


@pytest.fixture
def request_with(make_request: MakeRequest) -> Any:
    def make(acceleration: Acceleration = PLAIN, **changes: object) -> GenerationRequest:
        return make_request("tiny-wan", **{"num_inference_steps": STEPS, "acceleration": acceleration, **changes})

    return make


def frames_of(generator: DiffusersVideoGenerator, request: GenerationRequest) -> tuple[str, int]:
    with counted(generator._pipe.transformer) as calls:
        digest = generator.generate(request, ignore).frames_sha256
    return digest, calls[0]


@pytest.mark.parametrize("name", CACHES)
def test_a_step_cache_spares_calls_and_is_gone_with_its_clip(
    name: str, wan: DiffusersVideoGenerator, request_with: Any
) -> None:
    plain = frames_of(wan, request_with())
    assert plain[1] == PLAIN_CALLS
    values, expected = CACHES[name]
    wanted = Acceleration.model_validate({"step_cache": values})

    first = frames_of(wan, request_with(wanted))
    again = frames_of(wan, request_with(wanted))

    assert first[1] == expected
    assert first == again, "equal options give equal frames"
    assert first[0] != plain[0]
    assert frames_of(wan, request_with()) == plain, "the pipeline is a plain one afterwards"


def test_a_clip_that_was_stopped_leaves_no_cache_behind(wan: DiffusersVideoGenerator, request_with: Any) -> None:
    plain = frames_of(wan, request_with())
    wanted = Acceleration.model_validate({"step_cache": {"kind": "first_block", "threshold": 1.0}})
    cached = frames_of(wan, request_with(wanted))

    def stop(progress: Progress) -> None:
        if progress.phase is Phase.DENOISE and progress.step == 3:
            raise StoppedError("drain")

    with pytest.raises(StoppedError):
        wan.generate(request_with(wanted), stop)

    assert frames_of(wan, request_with(wanted)) == cached
    assert frames_of(wan, request_with()) == plain


def test_prompt_and_negative_prompt_do_not_share_broadcast_attention(
    wan: DiffusersVideoGenerator, request_with: Any
) -> None:
    """The hook of diffusers has one memory: the call without the prompt would get the attention of the one with it."""
    seen: dict[str, list[int]] = {"cond": [], "uncond": []}
    wanted = Acceleration.model_validate({"step_cache": CACHES["pyramid_attention"][0]})
    transformer = wan._pipe.transformer
    with accelerated(wan._pipe, wanted, steps=2, device="cpu"), counted(transformer) as calls, torch.no_grad():
        wan._pipe._current_timestep = torch.tensor(500)
        latents = torch.zeros(1, 16, 3, 6, 8)
        for _ in range(2):
            for name, spent in seen.items():
                before = calls[0]
                with transformer.cache_context(name):
                    transformer(
                        hidden_states=latents,
                        timestep=torch.tensor([500]),
                        encoder_hidden_states=torch.zeros(1, 4, 32),
                        return_dict=False,
                    )
                spent.append(calls[0] - before)
    assert seen == {"cond": [2, 0], "uncond": [2, 0]}


def test_the_vae_tiles_what_is_wider_than_a_tile(
    wan: DiffusersVideoGenerator, request_with: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = {"width": 320, "height": 32, "num_frames": 5, "num_inference_steps": 2}
    plain = wan.generate(request_with(**wide), ignore)
    vae, tiled = wan._pipe.vae, []
    original = type(vae).tiled_decode
    monkeypatch.setattr(type(vae), "tiled_decode", lambda *a, **k: tiled.append(1) or original(*a, **k))

    result = wan.generate(request_with(Acceleration(vae_tiling=True), **wide), ignore)

    assert tiled == [1]
    assert result.frames_sha256 != plain.frames_sha256
    assert (result.numerics["tiling"], plain.numerics["tiling"]) == (True, False)
    assert wan.generate(request_with(**wide), ignore).frames_sha256 == plain.frames_sha256
    assert tiled == [1]


def test_the_vae_slices_while_the_clip_is_made(wan: DiffusersVideoGenerator, request_with: Any) -> None:
    seen = []
    hook = wan._pipe.vae.post_quant_conv.register_forward_hook(lambda *_: seen.append(wan._pipe.vae.use_slicing))
    wan.generate(request_with(Acceleration(vae_slicing=True)), ignore)
    wan.generate(request_with(), ignore)
    hook.remove()
    assert set(seen[: len(seen) // 2]) == {True}
    assert set(seen[len(seen) // 2 :]) == {False}


def test_layerwise_casting_stores_weights_in_a_byte_each(model_cache: Path, request_with: Any) -> None:
    generator = DiffusersVideoGenerator(model_cache)
    generator.load("tiny-wan", ignore)
    plain = generator.generate(request_with(), ignore).frames_sha256

    cast = generator.generate(request_with(Acceleration(layerwise_casting="float8_e4m3fn")), ignore)
    stored = {str(value.dtype) for value in generator._pipe.transformer.parameters()}
    back = generator.generate(request_with(), ignore).frames_sha256

    assert "torch.float8_e4m3fn" in stored
    assert cast.frames_sha256 != plain
    assert cast.numerics["layerwise_casting"] == "float8_e4m3fn"
    assert back == plain, "the weights were read anew"
    assert {value.dtype for value in generator._pipe.transformer.parameters()} == {torch.float32}


@pytest.mark.parametrize("backend", ["_native_math", "_native_flash"])
def test_an_attention_backend_holds_for_its_clip(backend: str, wan: DiffusersVideoGenerator, request_with: Any) -> None:
    seen = []
    attention = wan._pipe.transformer.blocks[0].attn1
    hook = attention.register_forward_hook(lambda module, *_: seen.append(module.processor._attention_backend))
    default = _AttentionBackendRegistry._active_backend
    result = wan.generate(request_with(Acceleration(attention=backend)), ignore)
    hook.remove()
    assert {one.value for one in seen} == {backend}
    assert result.numerics["attention"] == backend
    assert attention.processor._attention_backend is None
    assert _AttentionBackendRegistry._active_backend == default


@pytest.mark.parametrize(
    ("wanted", "missing"),
    [
        ({"attention": "flash"}, "flash needs a CUDA GPU; a CPU has native"),
        ({"offload": "group-stream"}, "offload: .*needs a GPU.*layerwise_casting"),
        ({"text_encoder_offload": True}, "text_encoder_offload: .*needs a GPU"),
        ({"quantisation": "bitsandbytes-nf4"}, "quantisation: .*bitsandbytes-nf4 needs a CUDA GPU.*layerwise_casting"),
        ({"quantisation": "gguf:/nowhere.gguf"}, "quantisation: .*there is no file /nowhere.gguf.*layerwise_casting"),
        ({"context_parallel": 4}, "context_parallel: .*4 GPUs are requested.*compile"),
    ],
)
def test_what_this_machine_cannot_do_is_refused_with_what_is_missing(
    wanted: dict[str, Any], missing: str, model_cache: Path, request_with: Any
) -> None:
    generator = DiffusersVideoGenerator(model_cache)
    generator.load("tiny-wan", ignore)
    with pytest.raises(RefusedError, match=missing) as caught:
        generator.generate(request_with(Acceleration.model_validate(wanted)), ignore)
    assert caught.value.code == "acceleration_unavailable"


def test_a_model_of_one_block_has_no_step_cache() -> None:
    wanted = Acceleration.model_validate({"step_cache": {"kind": "first_block"}})
    with (
        pytest.raises(RefusedError, match="step_cache: LTXVideoTransformer3DModel cannot: first_block") as caught,
        accelerated(ltx(), wanted, steps=4, device="cpu"),
    ):
        pytest.fail("it was put on")
    assert caught.value.code == "acceleration_unsupported"


def test_calibration_measures_a_ratio_a_step_and_leaves_a_plain_pipeline(
    wan: DiffusersVideoGenerator, request_with: Any
) -> None:
    plain = frames_of(wan, request_with())
    ratios = calibrate.ratios(wan, request_with(), ignore)
    assert len(ratios) == STEPS
    assert ratios[0] == 1.0
    assert all(0 < ratio < 100 for ratio in ratios)
    assert ratios == calibrate.ratios(wan, request_with(), ignore)
    assert frames_of(wan, request_with()) == plain


def test_names_of_backends_are_those_of_diffusers() -> None:
    assert set(ATTENTION_BACKENDS) == {backend.value for backend in AttentionBackendName}


def test_what_is_known_before_loading_is_what_diffusers_has() -> None:
    """The tables by pipeline class, against tiny pipelines of the classes of all presets."""
    classes = {}
    for tiny in (*TINY.values(), *TINY_INPUTS.values()):
        cls = get_preset(tiny.extends).pipeline_class
        if cls not in classes:
            classes[cls] = tiny.build()
    named = {p.pipeline_class for p in all_presets().values() if p.generator == "diffusers"}
    assert named - classes.keys() <= {"WanVideoToVideoPipeline"}, "which has the models of WanPipeline"
    blocks = {cls for cls, pipe in classes.items() if hasattr(getattr(pipe, "transformer", None), "enable_cache")}
    assert classes.keys() - blocks == NO_STEP_CACHE
    assert {cls for cls, pipe in classes.items() if not hasattr(pipe.vae, "use_tiling")} == NO_TILING
    split = {cls for cls, pipe in classes.items() if getattr(getattr(pipe, "transformer", None), "_cp_plan", None)}
    assert classes.keys() - split == NO_CONTEXT_PARALLEL


def test_pipelines_that_take_no_lora_are_those_without_a_loader_in_diffusers() -> None:
    assert [name for name in sorted(NO_LORA) if hasattr(pipeline_class(name), "load_lora_weights")] == []
    named = {p.pipeline_class for p in all_presets().values() if p.generator == "diffusers"}
    assert {name for name in named if not hasattr(pipeline_class(name), "load_lora_weights")} <= NO_LORA
