"""Counts how much of a prompt a text encoder reads, with the model's tokenizer, without loading the model."""

from functools import lru_cache
from pathlib import Path

_MAX_FILE_BYTES = 128 * 1024 * 1024


def may_exceed(prompt: str, limit: int) -> bool:
    """Return whether the prompt can have more tokens than the limit: none stands for less than a byte, but the last."""
    return len(prompt) * 4 >= limit and len(prompt.encode("utf-8", "replace")) >= limit


def count_tokens(folder: Path, prompt: str) -> int | None:
    """Tokens of the prompt with those that are put around it; None where the model has no tokenizer to read here."""
    path = folder / "tokenizer" / "tokenizer.json"
    try:
        stat = path.stat()
    except OSError:
        return None
    return _count(path, stat.st_size, stat.st_mtime_ns, prompt) if stat.st_size <= _MAX_FILE_BYTES else None


def _count(path: Path, size: int, mtime_ns: int, prompt: str) -> int | None:
    tokenizer = _tokenizer(path, size, mtime_ns)
    return None if tokenizer is None else len(tokenizer.encode(prompt).ids)  # type: ignore[attr-defined]


@lru_cache(maxsize=4)
def _tokenizer(path: Path, _size: int, _mtime_ns: int) -> object | None:
    from tokenizers import Tokenizer  # noqa: PLC0415 - few prompts are so long

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception:  # noqa: BLE001 - the library raises nothing narrower; loading the model tells what is wrong
        return None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
