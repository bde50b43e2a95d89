"""DreamSim's files: what does not fit is refused with the rule that it breaks."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import RefusedError
from pipeline.scoring import Models, Weights
from pipeline.scoring.weight_files import DREAMSIM_CLIP

FIRST = "base_model.model.extractor_list.0.model.blocks.0.attn.qkv.lora_A.weight"


@pytest.fixture
def folder(dreamsim_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dreamsim_folder, tmp_path / "weights"))


def configure(folder: Path, **changes: Any) -> None:
    path = folder / "ensemble_lora/adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_lora(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = folder / "ensemble_lora/adapter_model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)


def change_tower(folder: Path, **changes: torch.Tensor) -> None:
    content = torch.load(folder / DREAMSIM_CLIP.name)
    content["state_dict"].update(changes)
    torch.save(content, folder / DREAMSIM_CLIP.name)


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (lambda at: (at / "ensemble_lora/adapter_config.json").unlink(), "lacks adapter_config.json beside it"),
        (lambda at: (at / "ensemble_lora/adapter_config.json").write_text("{"), "adapter_config.json beside it cannot"),
        (lambda at: (at / "ensemble_lora/adapter_config.json").write_text("[]"), "adapter_config.json beside it holds"),
        (lambda at: configure(at, lora_alpha="1"), 'lora_alpha "1" is not a finite number'),
        (lambda at: configure(at, r=0), "r 0 is not a whole number above 0"),
        (lambda at: configure(at, r=8), f"{FIRST} has 4 on axis 0; this model has 8"),
        (lambda at: configure(at, use_dora=True), "use_dora true, which is another kind of adapter"),
        (lambda at: configure(at, target_modules=["proj"]), "target_modules [\"proj\"]; DreamSim has ['qkv']"),
        (lambda at: change_lora(at, lambda state: state.pop(FIRST)), f"lacks {FIRST}"),
        (lambda at: change_lora(at, lambda state: state.update(more=torch.zeros(1))), "has the unknown more"),
        (lambda at: change_tower(at, pos_embed=torch.zeros(1, 190, 64)), "pos_embed has 189 places beside the first"),
        (lambda at: change_tower(at, proj=torch.zeros(60, 32)), "size mismatch for proj"),
        (lambda at: change_tower(at, more=torch.zeros(1)), "has the unknown more"),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, damage: Callable[[Path], Any], rule: str) -> None:
    damage(folder)
    with pytest.raises(RefusedError, match=re.escape(rule)) as caught:
        Models(Weights(folder)).get("dreamsim")
    assert caught.value.code == "eval_weights_wrong"


def test_the_lora_counts_by_its_alpha(folder: Path) -> None:
    """With none of it the transformers are those of the files."""
    configure(folder, lora_alpha=0)
    plain = Models(Weights(folder)).get("dreamsim")
    official = torch.load(folder / "dino_vitbase16_pretrain.pth")["blocks.0.attn.qkv.weight"]
    assert plain._dino.blocks[0].attn.qkv.weight.equal(official)
    configure(folder, lora_alpha=2)
    assert not Models(Weights(folder)).get("dreamsim")._dino.blocks[0].attn.qkv.weight.equal(official)
