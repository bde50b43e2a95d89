"""What a LoRA file's header says reaches PEFT only as numbers, switches and plain names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipeline.models.lora_files import check_lora, safe_to_load
from pipeline.models.lora_metadata import KEY
from tests.loras import write_lora
from tests.safetensors_bytes import file_bytes

REDOS = "(([a-z0-9._]+)+)+!"
"""Takes longer than a life on any module's name."""
MODULES = [f"blocks.{block}.attn1.{name}" for block in (0, 1) for name in ("to_k", "to_out.0", "to_q", "to_v")]
PLAIN = {"r": 2, "lora_alpha": 4, "target_modules": MODULES}


def with_config(path: Path, config: Any) -> Path:
    """A LoRA whose header has that configuration, as diffusers saves one; text is taken as it is."""
    text = config if isinstance(config, str) else json.dumps({f"transformer.{key}": v for key, v in config.items()})
    save_file(load_file(write_lora(path)), path, metadata={"format": "pt", KEY: text})
    return path


def passed_on(path: Path) -> dict[str, Any]:
    """The configuration that a loader would see."""
    with safe_to_load(path, path.name) as safe, safe_open(safe, framework="np") as file:
        config: dict[str, Any] = json.loads(file.metadata()[KEY])
    assert list(path.parent.glob(".*")) == [], "no copy stays"
    return config


REFUSED: dict[str, tuple[Any, str]] = {
    "ranks by an expression": ({**PLAIN, "rank_pattern": {REDOS: 2}}, "rank_pattern has"),
    "alphas by an expression": ({**PLAIN, "alpha_pattern": {REDOS: 2}}, "alpha_pattern has"),
    "a pattern that is not a mapping": ({**PLAIN, "rank_pattern": REDOS}, "is not a mapping"),
    "a list with an expression": ({**PLAIN, "target_modules": [REDOS]}, "target_modules"),
    "modules to save by an expression": ({**PLAIN, "modules_to_save": [REDOS]}, "modules_to_save"),
    "a module to import": ({**PLAIN, "megatron_config": {"a": 1}}, "'megatron_config' is given"),
    "classes to import": ({**PLAIN, "auto_mapping": {"base_model_class": "x"}}, "'auto_mapping' is given"),
    "layers that are copied": ({**PLAIN, "layer_replication": [[0, 9]]}, "'layer_replication' is given"),
    "a field that nobody knows": ({**PLAIN, "future": 1}, "'future' is given"),
    "a rank that is text": ({**PLAIN, "r": "2"}, 'r "2" is not a number'),
    "a rank without end": ({**PLAIN, "r": 10**30}, "is not a number up to a million"),
    "an alpha that is no number": ('{"transformer.lora_alpha": NaN}', "is not a number"),
    "a switch that is text": ({**PLAIN, "use_dora": "yes"}, "is not true or false"),
    "no JSON": ("{", "is not JSON"),
    "a list": ("[]", "is not a JSON object"),
    "deep JSON": ("[" * 100_000, "is not JSON"),
    "a component by an expression": (json.dumps({f"{REDOS}.r": 2}), "a name may have"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_configuration_that_could_do_harm_is_refused(tmp_path: Path, kind: str) -> None:
    config, sentence = REFUSED[kind]
    path = with_config(tmp_path / "style.safetensors", config)
    for refuse in (lambda: check_lora(path, "style.safetensors"), lambda: passed_on(path)):
        with pytest.raises(ValueError, match=r"'style\.safetensors'") as caught:
            refuse()
        assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "name", [f"transformer.{REDOS}.lora_A.weight", "transformer.a b.lora_A.weight", "lora_A." + "x" * 600]
)
def test_a_tensor_whose_name_is_an_expression_is_refused(tmp_path: Path, name: str) -> None:
    header = json.dumps({name: {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}})
    path = tmp_path / "style.safetensors"
    path.write_bytes(file_bytes(header.encode()))
    with pytest.raises(ValueError, match="a name may have"):
        check_lora(path, path.name)


@pytest.mark.parametrize("expression", [REDOS, "all-linear", r".*attn1\.(to_q|to_k).*"])
def test_modules_by_an_expression_become_those_that_have_tensors(tmp_path: Path, expression: str) -> None:
    path = with_config(tmp_path / "style.safetensors", {**PLAIN, "target_modules": expression})
    check_lora(path, path.name)

    assert passed_on(path) == {"transformer.r": 2, "transformer.lora_alpha": 4, "transformer.target_modules": MODULES}
    with safe_to_load(path, path.name) as safe:
        before, after = load_file(path), load_file(safe)
    assert all(before[name].equal(after[name]) for name in {**before, **after})


def test_what_peft_itself_saves_is_passed_on(tmp_path: Path) -> None:
    from peft import LoraConfig  # noqa: PLC0415 - slow to load

    config = LoraConfig(r=2, lora_alpha=4, target_modules=MODULES, rank_pattern={"^blocks.0.attn1.to_q": 2})
    values = {key: sorted(v) if isinstance(v, set) else v for key, v in config.to_dict().items()}
    path = with_config(tmp_path / "style.safetensors", values)
    check_lora(path, path.name)
    given = passed_on(path)
    assert given["transformer.rank_pattern"] == {"^blocks.0.attn1.to_q": 2}
    rebuilt = LoraConfig(**{key.removeprefix("transformer."): value for key, value in given.items()}).to_dict()
    assert {key for key, value in rebuilt.items() if value != config.to_dict()[key]} == set()


def test_a_file_without_a_configuration_is_read_where_it_lies(tmp_path: Path) -> None:
    path = write_lora(tmp_path / "style.safetensors")
    with safe_to_load(path, path.name) as safe:
        assert safe == path


@pytest.mark.parametrize("rank", [0, -3, 1.5, 1e-9])
@pytest.mark.parametrize("form", ["r", "rank_pattern"])
def test_a_rank_that_peft_would_refuse_is_refused_at_once(tmp_path: Path, form: str, rank: float) -> None:
    value = rank if form == "r" else {"blocks.0": rank}
    path = with_config(tmp_path / "a.safetensors", {**PLAIN, form: value})
    with pytest.raises(ValueError, match=f"{form} .* is not a rank: use a whole number from 1"):
        check_lora(path, "a")


@pytest.mark.parametrize("kind", [torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_tensors_of_other_numbers_are_no_lora(tmp_path: Path, kind: torch.dtype) -> None:
    path = write_lora(tmp_path / "a.safetensors")
    tensors = load_file(path)
    save_file({**tensors, "alpha": torch.tensor(4)}, path, metadata={"format": "pt"})
    check_lora(path, "a")  # a scale may be a whole number
    save_file({name: value.to(kind) for name, value in tensors.items()}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"'a': tensor .* is not of floating-point numbers"):
        check_lora(path, "a")
