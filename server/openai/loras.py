"""LoRAs as clients of other servers ask for them, as a prompt file's list."""

import re
from collections.abc import Mapping

from pipeline.prompts.numbers import decimal, show

_SCALES = ("scale", "strength", "weight")
_PLAIN = ("weight_name", "revision", "load_into_transformer_2")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def lora_list(value: object, files: Mapping[str, object]) -> object:
    """Text as it is; mappings with the keys of a prompt file. Raises ValueError with the value and the rule."""
    if isinstance(value, str):
        return value
    items = value if isinstance(value, list) else [value]
    return [item if isinstance(item, str) else _mapping(item, files) for item in items]


def _mapping(item: object, files: Mapping[str, object]) -> dict[str, object]:
    if not isinstance(item, Mapping):
        raise ValueError(f"{show(item)} is not a valid LoRA: give an object with repo or path, and scale")
    lora: dict[str, object] = {name: item[name] for name in _PLAIN if name in item}
    for name in _SCALES:
        if name in item:
            lora["scale"] = decimal(item[name], True)
    sources = [name for name in ("repo", "path", "name") if item.get(name) is not None]
    unknown = item.keys() - {*_PLAIN, *_SCALES, "repo", "path", "name"}
    if len(sources) != 1 or unknown:
        raise ValueError(f"{show(dict(item))} is not a valid LoRA: give an object with repo or path, and scale")
    source = item[sources[0]]
    hub = sources[0] == "repo" or (isinstance(source, str) and source not in files and _REPO.fullmatch(source))
    lora["repo" if hub else "path"] = source
    return lora
