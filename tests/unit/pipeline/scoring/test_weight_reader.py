"""Weight files: every format, nothing executed, and clear words for what does not fit."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

from pipeline.errors import RefusedError
from pipeline.scoring import Clip
from pipeline.scoring.models import dino, openai_clip, pixels, raft, umt, weight_reader
from pipeline.scoring.weight_files import CLIP_B32, DINO, RAFT, UMT
from pipeline.scoring.weights import FoundWeights
from tests.data.vbench_oracle import tiny_weights


class Evil:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('executed')",))


def refusal(path: Path) -> str:
    with pytest.raises(RefusedError) as caught:
        weight_reader.read_state(path)
    assert caught.value.code == "eval_weights_wrong"
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_formats_give_the_same_tensors(tmp_path: Path) -> None:
    state = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3)}
    torch.save(state, tmp_path / "plain.pth")
    torch.save({"model": {f"module.{key}": value.half() for key, value in state.items()}}, tmp_path / "nested.pth")
    save_file(state, tmp_path / "tensors.safetensors")
    for name in ("plain.pth", "nested.pth", "tensors.safetensors"):
        found = weight_reader.read_state(tmp_path / name, "model")
        assert found["a"].dtype == torch.float32
        assert found["a"].equal(state["a"])


def test_torchscript_archives_are_read_as_data(weights_folder: Path) -> None:
    found = weight_reader.read_state(weights_folder / CLIP_B32.name)
    shapes = tiny_weights.clip(32, 49, 64)
    assert {key: tuple(value.shape) for key, value in found.items()} == shapes
    wanted = tiny_weights.weights(shapes, 2.0)["visual.transformer.resblocks.1.attn.in_proj_weight"]
    assert found["visual.transformer.resblocks.1.attn.in_proj_weight"].equal(wanted.half().float())


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    assert "cannot be read" in refusal(tmp_path / "evil.pth")
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        archive.writestr("evil/constants.pkl", b"")
        archive.writestr("evil/data.pkl", pickle.dumps(Evil(), 2))
    assert "which is not a tensor" in refusal(tmp_path / "evil.pt")


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "empty.pth").touch()
    torch.save({"steps": 3}, tmp_path / "number.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    for name in ("text.pth", "empty.pth", "broken.safetensors", "none.pth"):
        assert "cannot be read" in refusal(tmp_path / name)
    assert "holds no tensors" in refusal(tmp_path / "number.pth")


def test_weights_of_another_model_are_refused(weights_folder: Path, tmp_path: Path) -> None:
    other = weights_folder / DINO.name
    with pytest.raises(RefusedError, match=r"lacks fnet\.conv1\.weight.* and has the unknown"):
        raft.load([FoundWeights(RAFT, other)], "cpu")
    with pytest.raises(RefusedError, match=r"lacks visual\.conv1\.weight"):
        openai_clip.load([FoundWeights(CLIP_B32, other)], "cpu")
    cut = torch.load(other)
    cut["norm.weight"] = torch.zeros(3)
    torch.save(cut, tmp_path / "cut.pth")
    with pytest.raises(RefusedError, match=r"norm\.weight"):
        dino.load([FoundWeights(DINO, tmp_path / "cut.pth")], "cpu")


def test_tensors_that_are_no_weights_are_passed_over(weights_folder: Path, tmp_path: Path) -> None:
    """OpenAI's archives hold such beside the weights; UMT's official loader passes over all that it does not know."""
    clip = weight_reader.read_state(weights_folder / CLIP_B32.name)
    extra = {"input_resolution": torch.tensor(224), "transformer.resblocks.0.attn_mask": torch.zeros(77, 77)}
    torch.save(clip | extra, tmp_path / CLIP_B32.name)
    openai_clip.load([FoundWeights(CLIP_B32, tmp_path / CLIP_B32.name)], "cpu")
    state = torch.load(weights_folder / UMT.name)
    torch.save(state | {"other": torch.zeros(1)}, tmp_path / UMT.name)
    umt.load([FoundWeights(UMT, tmp_path / UMT.name)], "cpu")
    del state["fc_norm.bias"]
    torch.save(state, tmp_path / UMT.name)
    with pytest.raises(RefusedError, match=r"lacks fc_norm\.bias"):
        umt.load([FoundWeights(UMT, tmp_path / UMT.name)], "cpu")


def test_dino_from_the_hub_is_transformers_vit(tmp_path: Path, clip_of: Callable[[str], Clip]) -> None:
    # Given transformers' own model, saved as on the hub, and square frames, for which its position rule is DINO's
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256, layer_norm_eps=1e-6
    )
    model = ViTModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    model.save_pretrained(tmp_path)
    clip = clip_of("square")

    ours = dino.load([FoundWeights(DINO, tmp_path / "model.safetensors", hub=True)], "cpu").features(clip)
    with torch.no_grad():
        theirs = model(pixels.for_dino(clip.frames)).last_hidden_state[:, 0]
    torch.testing.assert_close(ours, torch.nn.functional.normalize(theirs, dim=-1), atol=1e-6, rtol=0)


def test_clip_from_the_hub_is_clip_from_its_own_file(
    tmp_path: Path, weights_folder: Path, clip_of: Callable[[str], Clip]
) -> None:
    own = openai_clip.load([FoundWeights(CLIP_B32, weights_folder / CLIP_B32.name)], "cpu")
    own.model.save_pretrained(tmp_path)
    assert isinstance(own.model.config, CLIPConfig)
    assert isinstance(own.model, CLIPModel)
    hub = openai_clip.load([FoundWeights(CLIP_B32, tmp_path / "model.safetensors", hub=True)], "cpu")
    clip = clip_of("two_frames")
    assert hub.features(clip).equal(own.features(clip))


def test_a_copy_of_the_hub_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    # Given transformers' layout without one tensor, which its loader would fill with noise
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = CLIPConfig(text_config=sizes, vision_config={**sizes, "image_size": 32, "patch_size": 16})
    CLIPModel(config).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors.pop("visual_projection.weight")
    save_file(tensors, path, metadata={"format": "pt"})

    with pytest.raises(RefusedError, match=r"visual_projection\.weight \(1 tensors differ\)") as caught:
        openai_clip.load([FoundWeights(CLIP_B32, path, hub=True)], "cpu")
    assert caught.value.code == "eval_weights_wrong"
