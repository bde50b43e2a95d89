"""The fields ``loras`` and ``lora``: a list of mappings, or text, ``a.safetensors@0.8,org/name:b.safetensors``."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.files.json_reader import parse_json
from pipeline.inputs.collector import InputCollector
from pipeline.models.lora_files import SUFFIX
from pipeline.nearest import did_you_mean
from pipeline.prompts.numbers import show
from pipeline.spec import LoraRef

MAX_LORAS = 16
MAX_SCALE = sys.float_info.max
_KEYS = ("path", "repo", "weight_name", "revision", "scale", "load_into_transformer_2")
_NONE = "none"
_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_MAX_CHARS = 4096


@dataclass(frozen=True, slots=True)
class LoraGiven:
    """One LoRA as it was asked for: a ``path`` (of a file, or of a folder with ``weight_name``) or a hub ``repo``."""

    path: str | None = None
    repo: str | None = None
    weight_name: str | None = None
    revision: str | None = None
    scale: float = 1.0
    load_into_transformer_2: bool = False

    def resolved(self, inputs: InputCollector) -> LoraRef:
        """The reference, once the file has been found and checked. Raises ValueError."""
        ref, commit = inputs.resolve_lora(self.path, self.repo, self.weight_name, self.revision)
        return LoraRef(
            file=ref,
            scale=self.scale,
            repo=self.repo,
            revision=commit,
            load_into_transformer_2=self.load_into_transformer_2,
        )


def parse_loras(value: object, _: bool) -> tuple[LoraGiven, ...]:
    """Raises ValueError with the value and the rule."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = parse_json(value, allow_nan=True)
        except ValueError:
            raise ValueError(f"{show(value)} is not a JSON list") from None
    if isinstance(value, str):
        value = [] if value.strip() == _NONE else [part.strip() for part in value.split(",")]
    if not isinstance(value, list | tuple):
        raise ValueError(f"{show(value)} is not a list of LoRAs, or text such as 'style.safetensors@0.8'")
    if len(value) > MAX_LORAS:
        raise ValueError(f"lists {len(value)} LoRAs; at most {MAX_LORAS} are allowed")
    return tuple(_from_text(item) if isinstance(item, str) else _from_mapping(item) for item in value)


def with_absolute_path(text: str, folder: Path) -> str:
    """The text form with its paths, where it names files, starting at ``folder``."""
    if text.strip() == _NONE or text.lstrip().startswith("["):
        return text
    return ",".join(part if _is_hub(part) else _absolute(part, folder) for part in text.split(","))


def _absolute(text: str, folder: Path) -> str:
    return text if "://" in text else str(folder / text.strip())


def _is_hub(text: str) -> bool:
    source, _ = _with_scale(text)
    if "://" in source:
        return False
    return source.partition(":")[1] == ":" or (_REPO.fullmatch(source) is not None and not source.endswith(SUFFIX))


def _with_scale(text: str) -> tuple[str, str | None]:
    """``SOURCE`` or ``SOURCE@SCALE``; what follows an ``@`` and is not a number belongs to the name."""
    source, at, scale = text.strip().rpartition("@")
    try:
        float(scale if at else "-")
    except ValueError:
        return text.strip(), None
    return source, scale


def _from_text(text: str) -> LoraGiven:
    source, scale = _with_scale(text)
    if not source:
        raise ValueError(f"{show(text)} names no file; write 'style.safetensors@0.8' or 'org/name:file.safetensors'")
    checked = 1.0 if scale is None else _scale(float(scale))
    if not _is_hub(text):
        return LoraGiven(path=_name("path", source), scale=checked)
    repo, _, weight_name = source.partition(":")
    return LoraGiven(repo=_repo(repo), weight_name=_name("weight_name", weight_name) or None, scale=checked)


def _from_mapping(item: object) -> LoraGiven:
    if not isinstance(item, Mapping):
        raise ValueError(f"{show(item)} is not a mapping with 'path' or 'repo', nor text")
    for key in item:
        if key not in _KEYS:
            raise ValueError(f"unknown key {show(key)}; {did_you_mean(key, _KEYS)}known: {', '.join(_KEYS)}")
    values = {key: value for key, value in item.items() if value is not None}
    if ("path" in values) == ("repo" in values):
        raise ValueError("give 'path' or 'repo', one of them")
    if "revision" in values and "repo" not in values:
        raise ValueError("'revision' belongs to 'repo'")
    for key in ("path", "repo", "weight_name", "revision"):
        if key in values:
            values[key] = _name(key, values[key])
    if "repo" in values:
        _repo(values["repo"])
    if not isinstance(values.get("load_into_transformer_2", False), bool):
        raise ValueError(f"load_into_transformer_2: {show(values['load_into_transformer_2'])} is not true or false")
    if "scale" in values:
        values["scale"] = _scale(values["scale"])
    return LoraGiven(**values)


def _name(key: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_CHARS or "\0" in value:
        raise ValueError(f"{key}: {show(value)} is not text of at most {_MAX_CHARS} characters")
    return value


def _repo(value: str) -> str:
    if not _REPO.fullmatch(value):
        raise ValueError(f"repo: {show(value)} is not of the form 'org/name'")
    return value


def _scale(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -MAX_SCALE <= value <= MAX_SCALE:
        raise ValueError(f"scale: {show(value)} is not a finite number")
    return float(value)
