"""Weight files: every format, nothing executed, and clear words for what does not fit."""

from __future__ import annotations

import pickle
import re
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
from pipeline.scoring.models import aesthetic, dino, musiq, openai_clip, pixels, raft, umt, viclip, weight_reader
from pipeline.scoring.weight_files import (
    AESTHETIC_HEAD,
    BPE,
    CLIP_B32,
    CLIP_L14,
    DINO,
    MUSIQ,
    RAFT,
    UMT,
    VICLIP,
    WEIGHT_FILES,
)
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


@pytest.mark.parametrize(
    ("name", "key", "shape", "rule"),
    [
        (DINO.name, "cls_token", (1, 1, 96), "its width 96 cannot be divided into heads of 64"),
        (DINO.name, "pos_embed", (1, 190, 128), "pos_embed has 189 places beside the first"),
        (UMT.name, "head.weight", (300, 128), "head.weight has 300 on axis 0; this model has 400"),
        (MUSIQ.name, "head.weight", (1, 100), "its width 100 cannot be divided into heads of 64"),
    ],
)
def test_widths_that_no_such_model_has_are_refused(
    weights_folder: Path, tmp_path: Path, name: str, key: str, shape: tuple[int, ...], rule: str
) -> None:
    state = torch.load(weights_folder / name)
    state[key] = torch.zeros(shape)
    torch.save(state, tmp_path / name)
    load = {DINO.name: dino.load, UMT.name: umt.load, MUSIQ.name: musiq.load}[name]
    with pytest.raises(RefusedError, match=re.escape(rule)) as caught:
        load([FoundWeights(WEIGHT_FILES[name], tmp_path / name)], "cpu")
    assert caught.value.code == "eval_weights_wrong"


def test_files_that_do_not_fit_each_other_are_refused(weights_folder: Path, tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1, 64), "bias": torch.zeros(1)}, tmp_path / AESTHETIC_HEAD.name)
    files = [FoundWeights(CLIP_L14, weights_folder / CLIP_L14.name)]
    files.append(FoundWeights(AESTHETIC_HEAD, tmp_path / AESTHETIC_HEAD.name))
    with pytest.raises(
        RefusedError, match=r"the head's inputs and the features of ViT-L-14\.pt do not fit: 64 and 768"
    ):
        aesthetic.load(files, "cpu")
    state = torch.load(weights_folder / VICLIP.name)
    state["model"]["text_encoder.text_projection"] = torch.zeros(64, 32)
    torch.save(state, tmp_path / VICLIP.name)
    files = [FoundWeights(VICLIP, tmp_path / VICLIP.name), FoundWeights(BPE, weights_folder / BPE.name)]
    with pytest.raises(RefusedError, match="the embeddings of video and text do not fit: 64 and 32"):
        viclip.load(files, "cpu")


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        ("{", "config.json beside it cannot be read"),
        ('{"num_attention_heads": 0}', "num_attention_heads 0 is not a whole number above 0"),
        ('{"num_attention_heads": "12"}', "num_attention_heads '12' is not a whole number above 0"),
        ('{"num_attention_heads": 3}', "its width 128 cannot be divided into 3 heads, which config.json asks for"),
    ],
)
def test_a_config_that_says_no_count_of_heads_is_refused(tmp_path: Path, config: str, rule: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(RefusedError, match=re.escape(rule)) as caught:
        weight_reader.heads(128, tmp_path / "model.safetensors", hub=True)
    assert caught.value.code == "eval_weights_wrong"


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


@pytest.mark.parametrize("heads", [2, 4])
def test_dino_from_the_hub_is_transformers_vit(tmp_path: Path, clip_of: Callable[[str], Clip], heads: int) -> None:
    # Given transformers' own model, saved as on the hub, and square frames, for which its position rule is DINO's
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=heads, intermediate_size=256, layer_norm_eps=1e-6
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
