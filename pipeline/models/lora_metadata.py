"""Filters the adapter configuration in a LoRA's header, which PEFT would use unchecked.

PEFT uses names in it as regular expressions, of which a short one can run for ever, and some fields name modules to
import. So numbers, switches and plain names are kept, and what would act in another way is refused.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

KEY = "lora_adapter_metadata"
"""The key in a file's metadata, as diffusers writes it: JSON, each field behind its component's name and a dot."""
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,512}")
_ANCHORED = re.compile(r"\^?[A-Za-z0-9_.-]{1,512}\$?")
_NUMBERS = frozenset({"r", "lora_alpha", "alpha", "decompose_factor"})
_RANKS = frozenset({"r", "rank_pattern"})
_SWITCHES = frozenset(
    {"use_rslora", "use_dora", "lora_bias", "fan_in_fan_out", "decompose_both", "use_effective_conv2d"}
)
_PATTERNS = frozenset({"rank_pattern", "alpha_pattern"})
_NAMES = frozenset({"modules_to_save"})
_TRAINING = frozenset(
    {"task_type", "peft_type", "peft_version", "base_model_name_or_path", "revision", "inference_mode", "bias"}
    | {"lora_dropout", "rank_dropout", "module_dropout", "rank_dropout_scale", "init_lora_weights", "init_weights"}
    | {"megatron_core", "qalora_group_size", "ensure_weight_tying", "eva_config", "corda_config", "lora_ga_config"}
    | {"loftq_config", "exclude_modules", "layers_to_transform", "layers_pattern", "runtime_config"}
)
"""They say how it was trained, or choose among modules that its tensors name already: left out."""


def check_names(names: Iterable[str]) -> None:
    """Tensors' names become regular expressions in PEFT too.

    Raises:
        ValueError: the sentence on the first that is not plain.
    """
    for name in names:
        if not _PLAIN.fullmatch(name):
            raise ValueError(f"tensor {name[:80]!r}: a name may have letters, digits, '.', '_' and '-', at most 512")


def cleaned(text: str, names: Iterable[str]) -> dict[str, Any]:
    """The configuration as it may be passed on; ``names`` are those of the file's tensors.

    Modules to change that are given by a regular expression become the list of those that have tensors.

    Raises:
        ValueError: the sentence on the first field that is wrong.
    """
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{KEY} is not JSON: {error}"[:200]) from None
    if not isinstance(metadata, dict):
        raise ValueError(f"{KEY} is not a JSON object")
    modules = _modules(names)
    fields: dict[str, Any] = {}
    for key, value in metadata.items():
        prefix, _, field = key.rpartition(".")
        check_names([prefix] if prefix else [])
        result = _field(field, value, modules.get(prefix, []))
        if result is not None:
            fields[key] = result
    return fields


def _field(field: str, value: Any, modules: list[str]) -> Any:
    """The value that is passed on; None where the field is left out. Raises ValueError."""
    if value is None or field in _TRAINING:
        return None
    if field == "target_modules":
        return sorted(set(modules)) or None if isinstance(value, str) else _plain_names(field, value)
    if field in _NUMBERS:
        return _number(field, value)
    if field in _SWITCHES:
        if not isinstance(value, bool):
            raise ValueError(f"{KEY}: {field} {_shown(value)} is not true or false")
        return value
    if field in _PATTERNS:
        if not isinstance(value, dict):
            raise ValueError(f"{KEY}: {field} {_shown(value)} is not a mapping of modules to numbers")
        return {_anchored(field, name): _number(field, number) for name, number in value.items()}
    if field in _NAMES:
        return _plain_names(field, value) or None
    if value in (False, 0, "") or value in ({}, []):
        return None
    raise ValueError(f"{KEY}: {field[:60]!r} is given, and LoRAs with it are not supported")


def _modules(names: Iterable[str]) -> dict[str, list[str]]:
    """The modules that have tensors, by the component whose name is before them."""
    modules: dict[str, list[str]] = {}
    for name in names:
        module = re.split(r"\.(?:lora_|lokr_)", name, maxsplit=1)[0]
        if module != name:
            prefix, _, suffix = module.partition(".")
            modules.setdefault(prefix, []).append(suffix)
    return modules


def _number(field: str, value: Any) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e6 <= value <= 1e6:
        raise ValueError(f"{KEY}: {field} {_shown(value)} is not a number up to a million")
    if field in _RANKS and (value < 1 or value != int(value)):
        raise ValueError(f"{KEY}: {field} {_shown(value)} is not a rank: use a whole number from 1")
    return value


def _plain_names(field: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) and _PLAIN.fullmatch(item) for item in value):
        raise ValueError(f"{KEY}: {field} {_shown(value)} is not a list of modules' names")
    return value


def _anchored(field: str, name: str) -> str:
    if not _ANCHORED.fullmatch(name):
        raise ValueError(f"{KEY}: {field} has {name[:80]!r}, a regular expression: give modules by their names")
    return name


def _shown(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, Mapping) else "{…}"
    return text if len(text) <= 80 else text[:77] + "…"
