"""LoRA files: what is refused before anything is stored, and how one gets here from the hub."""

from __future__ import annotations

import re
from pathlib import Path

MAX_LORA_BYTES = 8 * 1024 * 1024 * 1024
"""The published ones have 20 MB to 2 GB."""
MEDIA_TYPE = "application/vnd.safetensors"
SUFFIX = ".safetensors"
_MARKS = ("lora", "lokr")
"""Each form that diffusers reads has one of them in its tensors' names."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


def check_lora(path: Path, name: str) -> None:
    """Look at the file's index; the tensors are left to the model's loader.

    Raises:
        ValueError: the message has the name and the rule.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - few files name a LoRA

    try:
        with safe_open(path, framework="np") as file:
            names = list(file.keys())
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{name!r} is not a whole safetensors file: {error}") from None
    if not any(mark in tensor for tensor in names for mark in _MARKS):
        first = f", the first of them {names[0]!r}" if names else ""
        raise ValueError(f"{name!r} is not a LoRA: none of its {len(names)} tensors is named so{first}")


def from_hub(repo: str, weight_name: str | None, revision: str | None) -> tuple[Path, str]:
    """The file in the hub's cache on this machine, fetched if it is not there, and the commit that it is of.

    Raises:
        ValueError: there is no such repository or file, it wants a login, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi, hf_hub_download  # noqa: PLC0415 - few files name a LoRA of the hub
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]  # noqa: PLC0415

    where = f"{repo} at {revision or 'main'}"
    try:
        if weight_name is None:
            weight_name = _only_file(where, HfApi().list_repo_files(repo, revision=revision))
        path = Path(hf_hub_download(repo, weight_name, revision=revision))
    except (HfHubHTTPError, HTTPError, OSError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{where}: {first_line}") from None
    return path, next(part for part in reversed(path.parts) if _COMMIT.fullmatch(part))


def _only_file(where: str, names: list[str]) -> str:
    found = [name for name in names if name.endswith(SUFFIX)]
    if len(found) != 1:
        known = f": {', '.join(sorted(found)[:8])}" if found else ""
        raise ValueError(f"{where} has {len(found)} safetensors files; give weight_name{known}")
    return found[0]
