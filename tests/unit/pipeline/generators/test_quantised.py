"""Quantised weights are really read: a GGUF file as it is published for Wan, and torchao where it is installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.acceleration import Acceleration
from pipeline.errors import RefusedError
from pipeline.generators.base import GenerationResult, Progress
from pipeline.generators.diffusers_video import DiffusersVideoGenerator
from pipeline.models.tiny_wan import build_pipeline
from pipeline.presets import get_preset
from tests.unit.pipeline.generators.conftest import MakeRequest

# diffusers' schedulers hand torch tensors to numpy in a way that numpy 2 is about to drop; not ours to mend.
pytestmark = [pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")]
gguf: Any = pytest.importorskip("gguf", reason="gguf is not installed: make env")
Q8, F32 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.F32
BLOCK = 32
"""Values of a row that share a scale in Q8_0."""
PUBLISHED = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "attn1": "self_attn",
    "attn2": "cross_attn",
    "to_out.0": "o",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    "norm2": "norm3",
    "proj_out": "head.head",
    "scale_shift_table": "modulation",
}
"""Names of diffusers' Wan model, and those of the published checkpoints, which GGUF files keep."""


def ignore(_: Progress) -> None:
    pass


def write_gguf(path: Path, kind: Any, *, missing: str = "", added: str = "") -> Path:
    """The tiny Wan's denoiser as a GGUF file: matrices of whole blocks as ``kind``, everything else in float32.

    Without the tensor ``missing``; with a copy of ``added`` under another name.
    """
    writer = gguf.GGUFWriter(path, "wan")
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    tensors = dict(build_pipeline().transformer.state_dict())
    tensors |= {"added.weight": tensors[added]} if added else {}
    tensors.pop(missing, None)
    for name, value in tensors.items():
        published = f"head.{name}" if name == "scale_shift_table" else name
        for ours, theirs in PUBLISHED.items():
            published = published.replace(ours, theirs)
        quantised = value.ndim == 2 and value.shape[1] % BLOCK == 0
        writer.add_tensor(
            published,
            gguf.quants.quantize(value.numpy(), kind if quantised else F32),
            raw_dtype=kind if quantised else F32,
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def made(model_cache: Path, make_request: MakeRequest) -> Any:
    """Makes a clip with a preset that has this quantisation: the result, the frames, and the denoiser."""

    def make(quantisation: str | None) -> tuple[GenerationResult, np.ndarray[Any, np.dtype[np.uint8]], Any]:
        preset = get_preset("tiny-wan").model_copy(update={"acceleration": Acceleration(quantisation=quantisation)})
        generator = DiffusersVideoGenerator(model_cache)
        generator.load_preset(preset, ignore)
        request = make_request("tiny-wan", acceleration=preset.acceleration)
        result = generator.generate(request, ignore)
        return result, np.fromfile(request.frames_path, np.uint8), generator._pipe.transformer

    return make


def test_the_weights_of_a_gguf_file_make_the_clip(made: Any, tmp_path: Path) -> None:
    # Given the same weights, in float32 and in blocks of eight bits
    whole, small = write_gguf(tmp_path / "f32.gguf", F32), write_gguf(tmp_path / "q8.gguf", Q8)

    plain, frames, own = made(None)
    same, read, from_file = made(f"gguf:{whole}")
    result, quantised, denoiser = made(f"gguf:{small}")

    # Then the file's own values are what is computed with; they lie elsewhere in memory, and some processors' kernels
    # round by how their operands are aligned
    assert all(torch.equal(value, from_file.get_parameter(name)) for name, value in own.named_parameters())
    assert int(np.abs(read.astype(int) - frames).max()) <= 1
    assert (read != frames).mean() < 0.001
    assert result.frames_sha256 != plain.frames_sha256
    assert int(np.abs(quantised.astype(int) - frames).max()) <= 2, "eight bits a weight change the picture a little"
    packed = [name for name, value in denoiser.named_parameters() if value.dtype == torch.uint8]
    assert "blocks.0.ffn.net.2.weight" in packed
    assert str(result.numerics["quantisation"]).startswith("gguf ")
    assert result.numerics["quantisation"] != same.numerics["quantisation"], "the file's digest is part of the numerics"


def test_a_file_that_is_no_model_is_refused(made: Any, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(RefusedError, match=r"wrong\.gguf cannot be read as a WanTransformer3DModel") as caught:
        made(f"gguf:{wrong}")
    assert caught.value.code == "acceleration_unsupported"


@pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed: pip install '.[quantised]'")
@pytest.mark.parametrize("kind", ["int8", "float8"])
def test_torchao_stores_the_denoisers_weights_in_a_byte_each(kind: str, made: Any) -> None:
    _, frames, _ = made(None)
    result, quantised, denoiser = made(f"torchao-{kind}")
    stored = {type(value.data).__name__ for value in denoiser.parameters()}
    assert f"{kind.capitalize()}Tensor" in stored
    assert 0 < int(np.abs(quantised.astype(int) - frames).max()) <= 8
    assert str(result.numerics["quantisation"]).startswith(f"torchao-{kind} ")
