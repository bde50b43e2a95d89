"""LoRA files: the checks before one is stored, and the download from the hub."""

import json
import os
import re
import secrets
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import ServiceUnavailableError
from pipeline.files.safetensors_header import Header, read_header
from pipeline.models.lora_metadata import KEY, check_names, cleaned

MAX_LORA_BYTES = 8 * 1024 * 1024 * 1024
"""The published ones have 20 MB to 2 GB."""
MEDIA_TYPE = "application/vnd.safetensors"
SUFFIX = ".safetensors"
_MAX_HEADER_BYTES = 32 * 1024 * 1024
"""Trainers put the words of their captions there, some megabytes of them."""
_MAX_TENSORS = 50_000
_MARKS = ("lora", "lokr")
"""Each form that diffusers reads has one of them in its tensors' names."""
HUB_PATIENCE_S = 10.0
"""The hub that has not answered by then is away: somebody waits for the answer to a submission."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


def check_lora(path: Path, name: str) -> None:
    """Look at the file's header; the tensors are left to the model's loader.

    Raises:
        ValueError: the message has the name and the rule.
    """
    header = _header(path, name)
    tensors = list(header.shapes)
    if not any(mark in tensor for tensor in tensors for mark in _MARKS):
        first = f", the first of them {tensors[0][:80]!r}" if tensors else ""
        raise ValueError(f"{name!r} is not a LoRA: none of its {len(tensors)} tensors has a LoRA's name{first}")
    odd = [tensor for tensor, kind in header.dtypes.items() if kind != "BF16" and kind[0] in "BC"]
    odd += [tensor for tensor, kind in header.dtypes.items() if kind[0] in "IU" and header.shapes[tensor]]
    if odd:
        raise ValueError(f"{name!r}: tensor {odd[0][:80]!r} is not of floating-point numbers ({header.dtypes[odd[0]]})")
    _clean_metadata(header, name)


@contextmanager
def safe_to_load(path: Path, name: str) -> Iterator[Path]:
    """A file of the same tensors whose header holds nothing but what may be passed on: mostly ``path`` itself.

    Raises:
        ValueError: as ``check_lora``.
        OSError: there is no room for a copy beside it.
    """
    header = _header(path, name)
    clean = _clean_metadata(header, name)
    if clean == header.metadata:
        yield path
        return
    copy = path.with_name(f".{path.stem}.{os.getpid()}.{secrets.token_hex(4)}{SUFFIX}")
    try:
        _write_copy(path, copy, clean)
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def _header(path: Path, name: str) -> Header:
    try:
        header = read_header(path, max_bytes=_MAX_HEADER_BYTES)
    except ValueError as error:
        raise ValueError(f"{name!r} is not a complete safetensors file: it {error}") from None
    except OSError as error:
        raise ValueError(f"{name!r} is not a complete safetensors file: {error.strerror}") from None
    if len(header.shapes) > _MAX_TENSORS:
        raise ValueError(f"{name!r} has {len(header.shapes)} tensors; a LoRA has at most {_MAX_TENSORS}")
    try:
        check_names(header.shapes)
    except ValueError as error:
        raise ValueError(f"{name!r}: {error}") from None
    return header


def _clean_metadata(header: Header, name: str) -> dict[str, str]:
    """The file's metadata as libraries may see it. Only the adapter's configuration is read by any of them."""
    text = header.metadata.get(KEY)
    if text is None:
        return header.metadata
    try:
        clean = cleaned(text, header.shapes)
    except ValueError as error:
        raise ValueError(f"{name!r}: {error}") from None
    if clean == json.loads(text):
        return header.metadata
    return {**header.metadata, KEY: json.dumps(clean)}


def _write_copy(path: Path, copy: Path, metadata: dict[str, str]) -> None:
    """The same tensors behind a header with other metadata."""
    with path.open("rb") as source, copy.open("xb") as target:
        (length,) = struct.unpack("<Q", source.read(8))
        entries = json.loads(source.read(length))
        text = json.dumps({**entries, "__metadata__": metadata}).encode()
        text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight
        target.write(struct.pack("<Q", len(text)) + text)
        shutil.copyfileobj(source, target, 16 * 1024 * 1024)


def from_hub(repo: str, weight_name: str | None, revision: str | None) -> tuple[Path, str]:
    """The file in the hub's cache on this machine, fetched if it is not there, and the commit that it is of.

    A file that is named and in the cache will do while the hub is away; it is asked once, for few seconds.

    Raises:
        ValueError: there is no such repository or file, or it wants a login.
        ServiceUnavailableError: the hub cannot be reached.
    """
    from huggingface_hub import HfApi, hf_hub_download  # noqa: PLC0415 - few files name a LoRA of the hub
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled  # type: ignore[attr-defined]  # noqa: PLC0415

    where = f"{repo} at {revision or 'main'}"
    try:
        try:
            info = HfApi().model_info(repo, revision=revision, timeout=HUB_PATIENCE_S)
        except (HTTPError, OSError) as error:
            if weight_name is None or not _is_away(error):
                raise
            path = Path(hf_hub_download(repo, weight_name, revision=revision, local_files_only=True))
        else:
            names = [file.rfilename for file in info.siblings or ()]
            weight_name = weight_name or _only_file(where, names)
            path = Path(hf_hub_download(repo, weight_name, revision=info.sha))
    except (HfHubHTTPError, HTTPError, OSError) as error:
        if isinstance(error, LocalEntryNotFoundError):
            error = error.__context__ if isinstance(error.__context__, OSError | HTTPError) else error
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        if _is_away(error) and not isinstance(error, OfflineModeIsEnabled):
            raise ServiceUnavailableError(f"the hub cannot be reached for {where}: {first_line}") from None
        raise ValueError(f"{where}: {first_line}") from None
    return path, next(part for part in reversed(path.parts) if _COMMIT.fullmatch(part))


def _is_away(error: BaseException) -> bool:
    """Return whether asking the hub again may help: it was not reached, or is not well."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status is None or status == 429 or status >= 500


def _only_file(where: str, names: list[str]) -> str:
    candidates = [name for name in names if name.endswith(SUFFIX)]
    if len(candidates) != 1:
        choices = f": {', '.join(sorted(candidates)[:8])}" if candidates else ""
        raise ValueError(f"{where} has {len(candidates)} safetensors files; give weight_name{choices}")
    return candidates[0]
