"""Reads the header of a safetensors file, with limits, before any library opens the file.

The format is a length (8 bytes, little-endian), that many bytes of JSON, and the tensors' bytes without gaps.
"""

import json
import math
import stat
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAX_HEADER_BYTES = 100_000_000
"""The format's own limit (``MAX_HEADER_SIZE`` of the reference implementation)."""
_METADATA = "__metadata__"
_BITS = {
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
"""The bits of each type that the format knows."""
_LFS = b"version https://git-lfs"
_MARKUP = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a file."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """The shapes by the tensors' names."""
    metadata: dict[str, str] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    """By the tensors' names, in the format's words (``BF16``)."""


def read_header(path: Path, *, max_bytes: int = MAX_HEADER_BYTES) -> Header:
    """The header of the file, once it and the file's size fit together.

    Raises:
        ValueError: the sentence on what is wrong, to be read behind the file's name.
        OSError: it cannot be read.
    """
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise ValueError("is not a regular file")
    with path.open("rb") as file:
        start = file.read(512)
        if not start:
            raise ValueError("is empty (0 bytes)")
        check_kind(start)
        (length,) = struct.unpack("<Q", start[:8]) if len(start) >= 8 else (0,)
        if length > max_bytes:
            raise ValueError(f"is not a safetensors file: its header would have {length} bytes; at most {max_bytes}")
        if not 2 <= length <= state.st_size - 8:
            raise ValueError(f"is cut: its header needs {length + 8} bytes, the file has {state.st_size}")
        file.seek(8)
        text = file.read(length)
    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not a safetensors file: its header is not JSON: {error}"[:300]) from None
    if not isinstance(entries, dict):
        raise ValueError("is not a safetensors file: its header is not a JSON object")
    metadata = _metadata(entries.pop(_METADATA, None))
    ends = sorted(_extent(name, entry) for name, entry in entries.items())
    position = 0
    for begin, end in ends:
        if begin != position:
            raise ValueError(f"is not a safetensors file: tensors overlap or leave a gap at byte {position}")
        position = end
    if position != state.st_size - 8 - length:
        what = "is cut" if position > state.st_size - 8 - length else "has bytes behind its tensors"
        raise ValueError(f"{what}: its tensors end at byte {position + 8 + length}, the file has {state.st_size}")
    return Header(
        {name: tuple(entry["shape"]) for name, entry in entries.items()},
        metadata,
        {name: entry["dtype"] for name, entry in entries.items()},
    )


def check_kind(start: bytes) -> None:
    """What often lies in a model's place: a pointer of git-LFS, a web page."""
    if start.startswith(_LFS):
        raise ValueError("is a git-LFS pointer, not the weights: run `git lfs pull` in its folder")
    if start.lstrip()[:9].lower().startswith(_MARKUP):
        raise ValueError("is a web page, not the weights: download it again")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice[:80]!r} is there twice")
    return values


def _metadata(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError(f"is not a safetensors file: {_METADATA} is not a mapping of texts")
    return value


def _extent(name: str, entry: Any) -> tuple[int, int]:
    """Return where the tensor's bytes begin and end, which its type and shape must agree with."""
    wrong = ValueError(f"is not a safetensors file: the entry of {name[:80]!r} is wrong")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise wrong
    shape, offsets, bits = entry["shape"], entry["data_offsets"], _BITS.get(str(entry["dtype"]))
    if bits is None or not _counts(shape) or not _counts(offsets) or len(offsets) != 2 or len(shape) > 64:
        raise wrong
    begin, end = offsets
    if begin > end or (math.prod(shape) * bits + 7) // 8 != end - begin:
        raise wrong
    return begin, end


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)
